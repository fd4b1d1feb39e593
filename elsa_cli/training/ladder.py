"""The ladder of levels: which stage trains each tensor, and the state of the levels trained so far.

Stage k trains level k, sparsest first; the last stage is dense. Each prunable weight is owned by
one stage, see `elsa_cli.models.nested`: it is zero before that stage, trained in it, and frozen
after it.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from elsa_cli.core.level import DENSE
from elsa_cli.errors import FrozenChanged, NonFiniteLoss, Param, UsageError, Words
from elsa_cli.models.nested import Nested
from elsa_cli.models.network import Network, tied_names
from elsa_cli.models.tensors import State, choose_bits, is_finite, same_bits
from elsa_cli.training.freeze import FrozenMask
from elsa_cli.training.options import TrainOptions

__all__ = ["Ladder"]


class Ladder:
    """Puts one level after the other into a model, and stores it once it is trained.

    Args:
        nested: The network to train; changed in place, valid after every stage.
        network: The model; it fits the checkpoint (`Network.check`).
        options: Of these, `init`, `norm` and `freeze` are used.

    Attributes:
        stages: The level of each stage, sparsest first, dense last.
        vectors: Names of the parameters of at most one dimension that are not prunable: biases,
            and the affine part of norms.
        small: Names of all tensors that may differ by level: vectors and buffers.
        shared: Names of the other parameters that are not prunable; the first stage trains them.

    Raises:
        UsageError: Tied tensors have different masks.
    """

    def __init__(self, nested: Nested, network: Network, options: TrainOptions) -> None:
        """Sort the tensors by the stages that train them."""
        self.nested = nested
        self.network = network
        self.options = options
        self.stages = nested.stages
        self._check_tied()
        known = network.slots.keys() & nested.values.keys()
        vectors = [n for n in network.vectors(nested.owner) if n in known]
        buffers = [n for n in network.buffers() if n in known]
        self.vectors = sorted(vectors)
        self.small = sorted((*vectors, *buffers))
        shared = (known & network.parameters.keys()) - nested.owner.keys()
        self.shared = sorted(shared.difference(self.small))

    def _check_tied(self) -> None:
        """Raise UsageError unless all stored names of a tied tensor have the same mask, or none."""
        nested = self.nested
        for first, names in tied_names(self.network.canonical()).items():
            stored = [name for name in names if name in nested.values]
            owners = [nested.owner[name] for name in names if name in nested.owner]
            same = all(torch.equal(owner, owners[0]) for owner in owners)
            if len(owners) not in (0, len(stored)) or not same:
                raise UsageError(
                    f"is one tensor under the names {', '.join(names)}, but their masks differ",
                    tensor=first,
                    hint=Words("sparsify again with {} for these names", Param("exclude")),
                )

    def start_of(self, stage: int) -> dict[str, Tensor]:
        """Return the per-level tensors that a stage begins with, by name.

        They are those of the stage's level; if it has none yet, those of the nearest sparser level
        that has some; else those of the dense network. The tensors that one level trains for all
        are taken from that level instead.
        """
        start = {name: self.nested.values[name] for name in self.small}
        start |= self._nearest(stage)
        if stage > 0:
            start |= self._trained_for_all()
        return start

    def _nearest(self, stage: int) -> Mapping[str, Tensor]:
        """Return the tensors of a stage's level, or of the nearest sparser level that has some."""
        for level in reversed(self.stages[: stage + 1]):
            if level in self.nested.per_level:
                return self.nested.per_level[level]
        return {}

    def _trained_for_all(self) -> Mapping[str, Tensor]:
        """Return the small tensors that the first stage trains for all levels."""
        names = {
            "per-level": [],
            "shared": self.small,
            "recalibrate": self.vectors,  # running statistics are estimated for each level
        }[self.options.norm]
        first = self.nested.per_level.get(self.stages[0], {})
        return {name: first[name] for name in names if name in first}

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
            trained = owner == stage if self.options.freeze else owner <= stage
            return bool(trained.any())
        if name in self.vectors:
            return stage == 0 or self.options.norm == "per-level"
        return stage == 0 and name in self.shared

    def trainable(self, stage: int) -> dict[str, nn.Parameter]:
        """Return the parameters that a stage trains, each once, under its first name."""
        trained: dict[int, tuple[str, nn.Parameter]] = {}
        for name, parameter in self.network.parameters.items():
            if self.trains(name, stage):
                trained.setdefault(id(parameter), (name, parameter))
        return dict(trained.values())

    def leave(self, stage: int) -> None:
        """Store a level that is trained, rounded to the checkpoint's dtypes.

        Raises:
            FrozenChanged: A weight of a sparser level is not what it was, bit for bit.
            NonFiniteLoss: A weight is NaN or infinite.
        """
        nested, network = self.nested, self.network
        trained = network.read((*nested.owner, *self.shared, *self.small))
        self._check_finite(trained, stage)
        if self.options.freeze:
            self._check_frozen(trained, stage)
        for name, owner in nested.owner.items():
            nested.values[name] = choose_bits(owner <= stage, trained[name], nested.values[name])
        for name in self.shared:
            nested.values[name] = trained[name]
        nested.per_level[self.stages[stage]] = {name: trained[name] for name in self.small}
        if stage == len(self.stages) - 1:
            self._settle()

    def _check_finite(self, trained: State, stage: int) -> None:
        for name, tensor in trained.items():
            # A buffer may hold infinities, as attention masks do, if it held some before.
            if not is_finite(tensor) and is_finite(self.nested.values[name]):
                raise NonFiniteLoss(
                    f"has NaN or infinite values in {tensor.dtype} after level "
                    f"{self.stages[stage]}",
                    tensor=name,
                    hint=Words("lower {}, or store the checkpoint in a wider dtype", Param("lr")),
                )

    def _check_frozen(self, trained: State, stage: int) -> None:
        """Assert, on the bits to be stored, that no weight of an earlier stage has changed."""
        for name, owner in self.nested.owner.items():
            frozen = owner < stage
            before = choose_bits(frozen, self.nested.values[name])
            if not same_bits(before, choose_bits(frozen, trained[name])):
                raise FrozenChanged(
                    f"frozen weights changed while level {self.stages[stage]} was trained",
                    tensor=name,
                    hint="something but the optimizer wrote to the parameter",
                )
        for name in self.shared if stage else ():
            if not same_bits(self.nested.values[name], trained[name]):
                raise FrozenChanged(
                    f"a shared tensor changed while level {self.stages[stage]} was trained",
                    tensor=name,
                    hint="something but the optimizer wrote to the parameter",
                )

    def _settle(self) -> None:
        """Move those of dense into `values`; drop the tensors that are the same for all levels."""
        dense = self.nested.per_level.pop(DENSE)
        self.nested.values |= dense
        differing = sorted(
            {
                name
                for tensors in self.nested.per_level.values()
                for name, tensor in tensors.items()
                if not same_bits(tensor, dense[name])
            }
        )
        for level in self.nested.levels:
            tensors = self.nested.per_level.get(level, {})
            self.nested.per_level[level] = {name: tensors[name] for name in differing}
