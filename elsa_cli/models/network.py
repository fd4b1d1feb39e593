"""A model, and the names its tensors have in a checkpoint."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import zip_longest

import torch
from torch import Tensor, nn

from elsa_cli.errors import Misfit
from elsa_cli.models.tensors import State, dtype_of, master_dtype
from elsa_cli.text import listed

__all__ = ["Network", "tied_names"]

SHOWN = 3  # pairs of names in the one line of an error


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
        stored: The dtype of each slot in the checkpoint.
        fixed: Parameters that the recipe does not want trained: without `requires_grad`.
        resting: Modules by name that the recipe left in evaluation mode, and that stay in it. Of a
            model that is in it as a whole, as `from_pretrained` gives one, only norms whose
            parameters are not trained: of the rest nothing says that it is not.
    """

    def __init__(self, model: nn.Module, device: torch.device) -> None:
        """Move the model to its device; until `match`, what it has is what is stored."""
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
        own = [p.requires_grad for p in module.parameters(recurse=False)]
        frozen = _has_statistics(module) and bool(own) and not any(own)
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

    def match(self, state: State, prunable: Iterable[str], file: str) -> list[str]:
        """Check that a checkpoint fits, and store as it does.

        Args:
            state: The dense network of the checkpoint, in its stored dtypes.
            prunable: Names of its prunable tensors.
            file: Its path, for errors.

        Returns:
            Names that the model lacks and that need no training: they are carried along.

        Raises:
            Misfit: A name or a shape of one has no counterpart in the other.
        """
        canonical = self.canonical()
        present = {canonical[name] for name in state if name in canonical}
        missing = [n for n, first in canonical.items() if n not in state and first not in present]
        surplus = [name for name in state if name not in self.slots]
        pruned = set(prunable)
        if missing or pruned.intersection(surplus):
            pairs = [
                (
                    _show(a, state[a]) if a is not None else "",
                    _show(b, self.slots[b]) if b is not None else "",
                )
                for a, b in zip_longest(sorted(surplus), sorted(missing))
            ]
            raise Misfit(
                f"does not fit the recipe's model: {len(surplus)} tensors are only in the "
                f"checkpoint, {len(missing)} only in the model" + _listed(pairs),
                pairs,
                file=file,
                hint="build_model() must give the tensors the checkpoint's names",
            )
        wrong = [
            (_show(name, tensor), _show(name, self.slots[name]))
            for name, tensor in state.items()
            if name in self.slots and tensor.shape != self.slots[name].shape
        ]
        wrong += [
            (f"{_show(name, tensor)} {tensor.dtype}", f"{name} {self.slots[name].dtype}")
            for name, tensor in state.items()
            if name in self.parameters
            and tensor.is_floating_point() != self.slots[name].is_floating_point()
        ]
        wrong += [
            (f"{name} (prunable)", f"{name} is no floating-point parameter")
            for name in sorted(pruned)
            if name not in self.parameters or not self.slots[name].is_floating_point()
        ]
        if wrong:
            raise Misfit(
                f"does not fit the recipe's model: {len(wrong)} tensors differ" + _listed(wrong),
                wrong,
                file=file,
                hint="build_model() must give the tensors the checkpoint's shapes",
            )
        self.stored |= {n: tensor.dtype for n, tensor in state.items() if n in self.slots}
        for name, first in canonical.items():  # tied names that are not in the file
            if name not in state:
                self.stored[name] = self.stored[first]
        return surplus

    @torch.no_grad()
    def load(self, state: State) -> None:
        """Write tensors into the model; names that it lacks are passed over."""
        for name, tensor in state.items():
            slot = self.slots.get(name)
            if slot is not None:
                slot.data.copy_(tensor)

    def read(self, names: Iterable[str]) -> dict[str, Tensor]:
        """Return slots as they are stored: rounded to the checkpoint's dtype, on the CPU."""
        return {
            name: self.slots[name].detach().to(self.stored[name], copy=True).cpu() for name in names
        }

    def live(self, names: Iterable[str]) -> dict[str, Tensor]:
        """Return copies of slots as they are trained, on the CPU."""
        return {name: self.slots[name].detach().to("cpu", copy=True) for name in names}

    def fresh_state(self) -> tuple[dict[str, Tensor], dict[str, str]]:
        """Return the tensors of a new model as a checkpoint has them, and metadata.

        Of tied tensors the first name is kept; the metadata names the others, as the safetensors
        library's `save_model` writes it and its `load_model` reads it.
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
        """Put the model into training mode, but for what the recipe left in evaluation mode."""
        self.model.train()
        for module in self.resting.values():
            module.training = False  # this one alone: parts of it may be trained

    def remarks(self) -> list[str]:
        """Return what the user should know of modes, a line each."""
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
        """Yield the layers that keep running statistics, without those that stay as they are."""
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
    """Return the first pairs, in a line."""
    shown = "; ".join(f"{a or '-'} | {b or '-'}" for a, b in pairs[:SHOWN])
    more = len(pairs) - SHOWN
    return f" ({shown}{f'; and {more} more' if more > 0 else ''})"


def tied_names(canonical: Mapping[str, str]) -> dict[str, list[str]]:
    """Return the names of each tensor that has several, by the first."""
    groups: dict[str, list[str]] = {}
    for name, first in canonical.items():
        groups.setdefault(first, []).append(name)
    return {first: names for first, names in groups.items() if len(names) > 1}
