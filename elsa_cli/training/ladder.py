"""The ladder of levels: which stage owns each weight, and what the levels have come to be.

Stage k trains level k, sparsest first; the last stage is dense. Each prunable weight is owned by
one stage: the sparsest level that keeps it. So one small integer a weight stands for all masks
(as in PackNet, arXiv 1711.05769), and masks made from it nest by construction.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from elsa_cli.core.level import DENSE, Level
from elsa_cli.errors import FrozenChanged, NonFiniteLoss, Param, UsageError, Words
from elsa_cli.models.network import Network, tied_names
from elsa_cli.models.tensors import State, choose_bits, is_finite, same_bits
from elsa_cli.training.freeze import FrozenMask
from elsa_cli.training.options import TrainOptions

__all__ = ["Ladder", "Nested", "owner_of"]


@dataclass
class Nested:
    """A nested checkpoint in memory, all tensors in their stored dtypes on the CPU.

    Attributes:
        levels: Stored levels, sparsest first, without dense.
        values: The dense network.
        owner: For each prunable tensor the stage that owns each weight, uint8 in its shape;
            the number of levels stands for dense.
        own: Per-level tensors by level and name. Levels that are missing begin with those of the
            next sparser one; once all are trained, dense has its own in `values`.
    """

    levels: tuple[Level, ...]
    values: dict[str, Tensor]
    owner: dict[str, Tensor]
    own: dict[Level, dict[str, Tensor]] = field(default_factory=dict)

    def state(self, level: Level) -> dict[str, Tensor]:
        """Return the network of a level."""
        stage = (*self.levels, DENSE).index(level)
        state = dict(self.values)
        for name, owner in self.owner.items():
            state[name] = choose_bits(owner <= stage, state[name])
        return state | self.own.get(level, {})

    def masks(self, stage: int) -> dict[str, Tensor]:
        """Return which weights the level of a stage keeps, bool."""
        return {name: owner <= stage for name, owner in self.owner.items()}


class Ladder:
    """Puts one level after the other into a model, and takes it out again, done.

    Args:
        nested: What is trained; changed in place, valid after every stage.
        network: The model; matches the checkpoint.
        options: `init`, `norm` and `freeze`.

    Raises:
        UsageError: Tied tensors have different masks.
    """

    def __init__(self, nested: Nested, network: Network, options: TrainOptions) -> None:
        """Sort the tensors by how they take part."""
        self.nested = nested
        self.network = network
        self.options = options
        self.stages = (*nested.levels, DENSE)
        for first, names in tied_names(network.canonical()).items():
            masks = [nested.owner[name] for name in names if name in nested.owner]
            if len(masks) not in (0, len([n for n in names if n in nested.values])) or not all(
                torch.equal(mask, masks[0]) for mask in masks
            ):
                raise UsageError(
                    f"is one tensor under the names {', '.join(names)}, but their masks differ",
                    tensor=first,
                    hint=Words("sparsify again with {} for these names", Param("exclude")),
                )
        known = network.slots.keys() & nested.values.keys()
        vectors = [n for n in network.vectors(nested.owner) if n in known]
        buffers = [n for n in network.buffers() if n in known]
        self.vectors = sorted(vectors)
        self.small = sorted((*vectors, *buffers))  # what may differ by level
        parameters = network.parameters
        taken = {*nested.owner, *self.small}
        self.shared = sorted(n for n in known if n in parameters and n not in taken)

    def masks(self, stage: int) -> dict[str, Tensor]:
        """Return which weights a stage's level keeps, bool, on the model's device."""
        return {
            name: (owner <= stage).to(self.network.slots[name].device)
            for name, owner in self.nested.owner.items()
        }

    def start_of(self, stage: int) -> dict[str, Tensor]:
        """Return the per-level tensors that a stage begins with: its own, or the last stage's."""
        found = {n: self.nested.values[n] for n in self.small}
        for before in range(stage, -1, -1):
            own = self.nested.own.get(self.stages[before])
            if own is not None:
                found |= own
                break
        if self.options.norm != "per-level" and stage:  # one for all levels, the first one's
            first = self.nested.own.get(self.stages[0], {})
            names = self.small if self.options.norm == "shared" else self.vectors
            found |= {n: first[n] for n in names if n in first}
        return found

    def enter(self, stage: int) -> FrozenMask:
        """Put a level into the model, ready to be trained; return what holds its weights."""
        nested, network = self.nested, self.network
        network.load({n: nested.values[n] for n in self.shared})
        network.load(self.start_of(stage))
        frozen = {}
        for name, owner in nested.owner.items():
            value = nested.values[name]
            if self.options.init == "zero" and stage:
                value = choose_bits(owner != stage, value)
            network.load({name: value})
            if self.options.freeze:
                frozen[name] = owner < stage
        trained = {id(p) for p in self.trainable(stage).values()}
        for parameter in network.parameters.values():
            if parameter.is_floating_point():
                parameter.requires_grad_(id(parameter) in trained)
        return FrozenMask(network.model, nested.masks(stage), frozen)

    def trains(self, name: str, stage: int) -> bool:
        """Tell whether any weight of a parameter is trained in a stage."""
        if name in self.network.fixed:
            return False
        owner = self.nested.owner.get(name)
        if owner is not None:
            mine = owner == stage if self.options.freeze else owner <= stage
            return bool(mine.any())
        if name in self.vectors:
            return stage == 0 or self.options.norm == "per-level"
        return stage == 0 and name in self.shared

    def trainable(self, stage: int) -> dict[str, nn.Parameter]:
        """Return the parameters that a stage trains, each once, under its first name."""
        found: dict[int, tuple[str, nn.Parameter]] = {}
        for name, parameter in self.network.parameters.items():
            if self.trains(name, stage):
                found.setdefault(id(parameter), (name, parameter))
        return dict(found.values())

    def leave(self, stage: int) -> None:
        """Store a level that is trained, rounded to the checkpoint's dtypes.

        Raises:
            FrozenChanged: A weight of a sparser level is not what it was, bit for bit.
            NonFiniteLoss: A weight is NaN or infinite.
        """
        nested, network = self.nested, self.network
        found = network.read((*nested.owner, *self.shared, *self.small))
        self._check_finite(found, stage)
        if self.options.freeze:
            self._check_frozen(found, stage)
        for name, owner in nested.owner.items():
            nested.values[name] = choose_bits(owner <= stage, found[name], nested.values[name])
        for name in self.shared:
            nested.values[name] = found[name]
        nested.own[self.stages[stage]] = {n: found[n] for n in self.small}
        if stage == len(self.stages) - 1:
            self._settle()

    def _check_finite(self, found: State, stage: int) -> None:
        for name, tensor in found.items():
            # A buffer may well hold infinities, as attention masks do: if it always did.
            if not is_finite(tensor) and is_finite(self.nested.values[name]):
                raise NonFiniteLoss(
                    f"has NaN or infinite values in {tensor.dtype} after level "
                    f"{self.stages[stage]}",
                    tensor=name,
                    hint=Words("lower {}, or store the checkpoint in a wider dtype", Param("lr")),
                )

    def _check_frozen(self, found: State, stage: int) -> None:
        """Assert, on the bits that are stored, that nothing done has changed."""
        for name, owner in self.nested.owner.items():
            done = owner < stage
            before = choose_bits(done, self.nested.values[name])
            if not same_bits(before, choose_bits(done, found[name])):
                raise FrozenChanged(
                    f"frozen weights changed while level {self.stages[stage]} was trained",
                    tensor=name,
                    hint="something but the optimizer wrote to the parameter",
                )
        for name in self.shared if stage else ():
            if not same_bits(self.nested.values[name], found[name]):
                raise FrozenChanged(
                    f"a shared tensor changed while level {self.stages[stage]} was trained",
                    tensor=name,
                    hint="something but the optimizer wrote to the parameter",
                )

    def _settle(self) -> None:
        """Once all is done: dense has its own values, and only what differs is per level."""
        dense = self.nested.own.pop(DENSE)
        self.nested.values |= dense
        differ = {
            name
            for own in self.nested.own.values()
            for name, tensor in own.items()
            if not same_bits(tensor, dense[name])
        }
        for level in self.nested.levels:
            own = self.nested.own.get(level, {})
            self.nested.own[level] = {name: own[name] for name in sorted(differ)}


def owner_of(masks: Sequence[Tensor]) -> Tensor:
    """Return the owning stage of each weight, uint8, from nested masks, sparsest first."""
    owner = torch.zeros(masks[0].shape, dtype=torch.uint8)
    for mask in masks:
        owner += ~mask
    return owner
