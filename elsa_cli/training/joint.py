"""The joint phase: before anything is frozen, every step trains one level, drawn at random.

The levels share their weights, so the weights frozen first are trained for all the levels that
will build on them.

The small tensors of the levels (biases, norms and their statistics) are kept in *sets*. With
`norm="per-level"` there is one set for each level, with an optimizer for its vectors, and a step
puts the set of its level into the model. Otherwise there is one set, which all levels share.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from elsa_cli.errors import NothingToDo
from elsa_cli.models.seeds import seed_of
from elsa_cli.models.tensors import bits_of
from elsa_cli.training.optimizing import Optimizing
from elsa_cli.training.stepping import Setup, Stepper

__all__ = ["JointStepper"]


class JointStepper(Stepper):
    """Trains all levels together, one level a step.

    Args:
        setup: The run.
        phase: Index of the phase.
        lr: Learning rate at the beginning, or None for the optimizer's default.
        total: Steps of the phase.
    """

    def __init__(self, setup: Setup, phase: int, lr: float | None, total: int) -> None:
        """Put the dense network into the model, and keep the sets beside it."""
        super().__init__(setup, phase)
        ladder, network = setup.ladder, self.network
        network.load(ladder.nested.values)
        self._sets: list[dict[str, Tensor]] = []
        for stage in range(len(ladder.stages) if setup.options.norm == "per-level" else 1):
            network.load(ladder.start_of(stage))
            self._sets.append({n: network.slots[n].detach().clone() for n in ladder.small})
        parameters = network.parameters
        for name, parameter in parameters.items():
            if parameter.is_floating_point():
                parameter.requires_grad_(name not in network.fixed)
        # Tied tensors are trained once, and one mask stands for all their names.
        first = network.canonical()
        unique = {n: p for n, p in parameters.items() if p.requires_grad and first[n] == n}
        in_sets = {id(parameters[name]) for name in ladder.vectors}
        weights = [p for p in unique.values() if id(p) not in in_sets]
        vectors = [p for p in unique.values() if id(p) in in_sets]
        self._masked = {
            id(parameters[name]): (parameters[name], owner.to(setup.device))
            for name, owner in ladder.nested.owner.items()
        }
        recipe, options = setup.recipe, setup.options
        if not weights:
            raise NothingToDo(
                "build_model() leaves no weight to train: all are without requires_grad",
                file=recipe.path,
            )
        self._weights = Optimizing(recipe, options, weights, lr, total)
        self._vectors = [
            Optimizing(recipe, options, vectors, lr, total) for _ in self._sets if vectors
        ]
        self._begin(unique)
        network.train()

    def _draw(self, step: int) -> int:
        """Return the stage whose level a step trains; the same in every process."""
        seed = seed_of(self.setup.options.seed, self._phase, "level", step)
        return random.Random(seed).randrange(len(self.setup.ladder.stages))

    def _set_of(self, stage: int) -> int:
        """Return the index of the set that a stage's level uses."""
        return stage if len(self._sets) > 1 else 0

    @torch.no_grad()
    def _put_in(self, set_index: int) -> None:
        """Copy a set into the model."""
        for name, tensor in self._sets[set_index].items():
            self.network.slots[name].data.copy_(tensor)

    @torch.no_grad()
    def _take_out(self, set_index: int) -> None:
        """Copy the model's small tensors into a set."""
        for name, tensor in self._sets[set_index].items():
            tensor.copy_(self.network.slots[name].data)

    @torch.no_grad()
    def _mask_weights(self, stage: int) -> list[Tensor]:
        """Zero the weights outside a level; return all masked parameters as they were."""
        before = []
        for parameter, owner in self._masked.values():
            before.append(parameter.detach().clone())
            bits_of(parameter).mul_(owner <= stage)
        return before

    @torch.no_grad()
    def _unmask_weights(self, stage: int, before: Sequence[Tensor]) -> None:
        """Put the weights back, and clear the gradients of those outside the level."""
        for (parameter, owner), weights in zip(self._masked.values(), before, strict=True):
            parameter.data.copy_(weights)
            if parameter.grad is not None:
                bits_of(parameter.grad).mul_(owner <= stage)

    def step(self, batches: Sequence[Any], step: int) -> Tensor:
        """Make a step, counted from 0; return the loss, 0-d on the device."""
        stage = self._draw(step)
        set_index = self._set_of(stage)
        used = [self._weights, *self._vectors[set_index : set_index + 1]]  # there may be no vectors
        for optimizing in used:
            optimizing.before(step)
        before = self._mask_weights(stage)
        self._put_in(set_index)
        loss = self._backward(batches, step)
        self._unmask_weights(stage, before)
        self._clip(self._parameters)
        for optimizing in used:
            self._optimize(optimizing)
        for optimizing in (self._weights, *self._vectors):
            optimizing.after()
        self._take_out(set_index)
        return loss

    @property
    def lr(self) -> float:
        """Learning rate of the last step."""
        return self._weights.lr

    def state(self) -> dict[str, Any]:
        """Return what a save in the middle of the phase needs."""
        return {
            "model": self.network.live(self.network.slots),
            "sets": [{n: t.cpu() for n, t in tensors.items()} for tensors in self._sets],
            "weights": self._weights.state(),
            "vectors": [optimizing.state() for optimizing in self._vectors],
        }

    def load(self, state: Mapping[str, Any]) -> None:
        """Continue from such a save."""
        self.network.load(state["model"])
        for tensors, saved in zip(self._sets, state["sets"], strict=True):
            for name, tensor in saved.items():
                tensors[name].copy_(tensor)
        self._weights.load(state["weights"])
        for optimizing, saved in zip(self._vectors, state["vectors"], strict=True):
            optimizing.load(saved)

    def finish(self) -> None:
        """Store the dense network and every set, in the checkpoint's dtypes."""
        ladder = self.setup.ladder
        nested = ladder.nested
        for set_index, level in enumerate(ladder.stages[: len(self._sets)]):
            self._put_in(set_index)
            self._share_buffers()
            nested.per_level[level] = self.network.read(ladder.small)
        nested.values |= self.network.read((*nested.owner, *ladder.shared))
