"""A model, and the names its tensors have in a checkpoint."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Set
from itertools import zip_longest

import torch
from torch import Tensor, nn

from elsa_cli.errors import Misfit
from elsa_cli.models.tensors import State, dtype_of, master_dtype
from elsa_cli.text import listed

__all__ = ["Network", "tied_names"]

SHOWN = 3  # pairs of names in an error's one line


class Network:
    """A model whose parameters have the names, shapes and stored dtypes of a checkpoint.

    Floating-point tensors are kept in float32, or in float64 if the model has that, whatever the
    checkpoint stores.

    Args:
        model: The recipe's model.
        device: Where it computes.

    Attributes:
        model: The model, on its device.
        slots: Every tensor of the state dict by name: parameters and buffers themselves, so that
            writing into them changes the model. Tied parameters appear under each of their names.
        stored: The dtype of each slot in the checkpoint; that of the model until `store_as`.
        fixed: Parameters that the recipe does not want trained: those without `requires_grad`.
        resting: Modules by name that the recipe left in evaluation mode, and that stay in it. If
            the whole model is in evaluation mode, as `from_pretrained` returns it, these are only
            the norms whose parameters are not trained: nothing says that the rest should stay so.
    """

    def __init__(self, model: nn.Module, device: torch.device) -> None:
        """Move the model to its device, and widen its narrow floats."""
        self.model = model.to(device)
        self.slots = self._slots()
        self.stored = {name: slot.dtype for name, slot in self.slots.items()}
        self._widen()
        self.fixed = {name for name, p in self.parameters.items() if not p.requires_grad}
        modules = dict(self.model.named_modules())
        self._whole = not any(module.training for module in modules.values())
        self.resting = {
            name: module
            for name, module in modules.items()
            if not module.training and (name or not self._whole) and self._rests(module)
        }

    def _rests(self, module: nn.Module) -> bool:
        """Tell whether a module in evaluation mode is meant to stay in it."""
        trained = [p.requires_grad for p in module.parameters(recurse=False)]
        frozen = _has_statistics(module) and bool(trained) and not any(trained)
        return frozen or not self._whole

    def _slots(self) -> dict[str, Tensor]:
        state = self.model.state_dict(keep_vars=True)
        return {name: slot for name, slot in state.items() if isinstance(slot, Tensor)}

    def _widen(self) -> None:
        """Keep every floating-point slot in at least float32."""
        for slot in self.slots.values():
            kind = master_dtype(slot.dtype)
            if slot.is_floating_point() and slot.dtype != kind:
                slot.data = slot.data.to(kind)

    @property
    def parameters(self) -> dict[str, nn.Parameter]:
        """The slots that are parameters."""
        return {n: slot for n, slot in self.slots.items() if isinstance(slot, nn.Parameter)}

    def canonical(self) -> dict[str, str]:
        """Return for each name the first name of the same tensor."""
        first: dict[int, str] = {}
        return {name: first.setdefault(id(slot), name) for name, slot in self.slots.items()}

    def check(self, state: State, prunable: Iterable[str], file: str) -> list[str]:
        """Check that a checkpoint fits the model.

        Args:
            state: The network of one level of the checkpoint, in its stored dtypes.
            prunable: Names of its prunable tensors.
            file: Its path, for errors.

        Returns:
            Names that the model lacks and that need no training: the output keeps them as they are.

        Raises:
            Misfit: A name or a shape of one has no counterpart in the other.
        """
        pruned = set(prunable)
        self._check_names(state, pruned, file)
        self._check_kinds(state, pruned, file)
        return [name for name in state if name not in self.slots]

    def _check_names(self, state: State, pruned: Set[str], file: str) -> None:
        """Raise Misfit if the model has a tensor that the checkpoint lacks, or lacks a prunable."""
        canonical = self.canonical()
        present = {canonical[name] for name in state if name in canonical}
        missing = [name for name, first in canonical.items() if first not in present]
        surplus = [name for name in state if name not in self.slots]
        if not missing and pruned.isdisjoint(surplus):
            return
        pairs = [
            (
                "" if theirs is None else _show(theirs, state[theirs]),
                "" if ours is None else _show(ours, self.slots[ours]),
            )
            for theirs, ours in zip_longest(sorted(surplus), sorted(missing))
        ]
        raise Misfit(
            f"does not fit the recipe's model: {len(surplus)} tensors are only in the "
            f"checkpoint, {len(missing)} only in the model" + _listed(pairs),
            pairs,
            file=file,
            hint="build_model() must give the tensors the checkpoint's names",
        )

    def _check_kinds(self, state: State, pruned: Set[str], file: str) -> None:
        """Raise Misfit if a tensor has another shape, or cannot be trained as it has to be."""
        slots, parameters = self.slots, self.parameters
        both = {name: tensor for name, tensor in state.items() if name in slots}
        wrong = [
            (_show(name, tensor), _show(name, slots[name]))
            for name, tensor in both.items()
            if tensor.shape != slots[name].shape
        ]
        wrong += [
            (f"{_show(name, tensor)} {tensor.dtype}", f"{name} {slots[name].dtype}")
            for name, tensor in both.items()
            if name in parameters and tensor.is_floating_point() != slots[name].is_floating_point()
        ]
        wrong += [
            (f"{name} (prunable)", f"{name} is no floating-point parameter")
            for name in sorted(pruned)
            if name not in parameters or not slots[name].is_floating_point()
        ]
        if wrong:
            raise Misfit(
                f"does not fit the recipe's model: {len(wrong)} tensors differ" + _listed(wrong),
                wrong,
                file=file,
                hint="build_model() must give the tensors the checkpoint's shapes",
            )

    def store_as(self, state: State) -> None:
        """Let `read` round every slot to the dtype that a checkpoint has for it.

        Args:
            state: The checkpoint's tensors; `check` has passed.
        """
        self.stored |= {n: tensor.dtype for n, tensor in state.items() if n in self.slots}
        for name, first in self.canonical().items():  # tied names that are not in the file
            if name not in state:
                self.stored[name] = self.stored[first]

    @torch.no_grad()
    def load(self, state: State) -> None:
        """Write tensors into the model; skip names that it lacks."""
        for name, tensor in state.items():
            slot = self.slots.get(name)
            if slot is not None:
                slot.data.copy_(tensor)

    def read(self, names: Iterable[str]) -> dict[str, Tensor]:
        """Return slots as they are stored: copies rounded to the checkpoint's dtype, on the CPU."""
        return {
            name: self.slots[name].detach().to(self.stored[name], copy=True).cpu() for name in names
        }

    def live(self, names: Iterable[str]) -> dict[str, Tensor]:
        """Return copies of slots as they are trained, on the CPU."""
        return {name: self.slots[name].detach().to("cpu", copy=True) for name in names}

    def fresh_state(self) -> tuple[dict[str, Tensor], dict[str, str]]:
        """Return the tensors of a new model as a checkpoint has them, and metadata.

        A tied tensor is stored once, under its first name; the metadata gives the first name for
        each of the others, as the safetensors library's `save_model` and `load_model` do.
        """
        canonical = self.canonical()
        names = [name for name, first in canonical.items() if name == first]
        for name in names:
            dtype_of(self.slots[name])
        tied = {name: first for name, first in canonical.items() if name != first}
        return self.read(names), tied

    def vectors(self, prunable: Iterable[str]) -> list[str]:
        """Return the parameters of at most one dimension: biases, and the affine part of norms."""
        pruned = set(prunable)
        return [n for n, p in self.parameters.items() if p.dim() <= 1 and n not in pruned]

    def buffers(self) -> list[str]:
        """Return the buffers, the running statistics of norms among them."""
        return [n for n, slot in self.slots.items() if not isinstance(slot, nn.Parameter)]

    def train(self) -> None:
        """Put the model into training mode, except the modules in `resting`."""
        self.model.train()
        for module in self.resting.values():
            module.training = False  # the module alone: its children may be trained

    def remarks(self) -> list[str]:
        """Return what the user should know about training and evaluation modes, a line each."""
        above = {n: n.rpartition(".")[0] for n in self.resting if n}
        parts = [n for n, parent in above.items() if parent not in above]
        lines = []
        if parts:
            lines.append(
                f"{listed(parts)} stays in evaluation mode, as build_model() left it: there "
                "dropout is off, and running statistics stand still"
            )
        if self._whole:
            lines.append(
                "build_model() leaves the whole model in evaluation mode, which says of no part "
                "that it is to stay so: it is trained in training mode"
            )
        return lines

    def norms(self) -> Iterator[nn.Module]:
        """Yield the layers that keep running statistics, without those in `resting`."""
        resting = {id(module) for module in self.resting.values()}
        for module in self.model.modules():
            if id(module) not in resting and _has_statistics(module):
                yield module


def _has_statistics(module: nn.Module) -> bool:
    running = getattr(module, "running_mean", None)
    return isinstance(running, Tensor) and hasattr(module, "reset_running_stats")


def _show(name: str, tensor: Tensor) -> str:
    return f"{name} {list(tensor.shape)}"


def _listed(pairs: list[tuple[str, str]]) -> str:
    """Return the first pairs in one line, and how many more there are."""
    shown = "; ".join(f"{a or '-'} | {b or '-'}" for a, b in pairs[:SHOWN])
    more = len(pairs) - SHOWN
    return f" ({shown}{f'; and {more} more' if more > 0 else ''})"


def tied_names(canonical: Mapping[str, str]) -> dict[str, list[str]]:
    """Return all names of each tensor that has several, by the first of them."""
    groups: dict[str, list[str]] = {}
    for name, first in canonical.items():
        groups.setdefault(first, []).append(name)
    return {first: names for first, names in groups.items() if len(names) > 1}
