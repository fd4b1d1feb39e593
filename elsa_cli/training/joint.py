"""The joint phase: before anything is frozen, every step trains one level, drawn at random.

The levels share their weights, and a core that is frozen later is trained with those who will
build on it in mind. Each level has per-level tensors of its own.
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
    """Trains all levels at once, one a step.

    Args:
        setup: The run.
        phase: Number of the phase.
        lr: Learning rate, or None for the optimizer's default.
        total: Steps of the phase.
    """

    def __init__(self, setup: Setup, phase: int, lr: float | None, total: int) -> None:
        """Put the dense network into the model, and keep per-level tensors beside it."""
        super().__init__(setup, phase)
        ladder, network = setup.ladder, self.network
        self._sets = len(ladder.stages) if setup.options.norm == "per-level" else 1
        network.load(ladder.nested.values)
        self._own: list[dict[str, Tensor]] = []
        for stage in range(self._sets):
            network.load(ladder.start_of(stage))
            self._own.append({n: network.slots[n].detach().clone() for n in ladder.small})
        parameters = network.parameters
        for name, parameter in parameters.items():
            if parameter.is_floating_point():
                parameter.requires_grad_(name not in network.fixed)
        # Tied tensors once, and one mask for all their names.
        own = {id(parameters[n]) for n in ladder.vectors}
        first = network.canonical()
        unique = {n: p for n, p in parameters.items() if p.requires_grad and first[n] == n}
        weights = [p for p in unique.values() if id(p) not in own]
        vectors = [p for p in unique.values() if id(p) in own]
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
            Optimizing(recipe, options, vectors, lr, total)
            for _ in range(self._sets if vectors else 0)
        ]
        self._begin(unique)
        network.train()

    def _draw(self, step: int) -> int:
        """Return the stage whose level a step trains; the same in every process."""
        seed = seed_of(self.setup.options.seed, self._phase, "level", step)
        return random.Random(seed).randrange(len(self.setup.ladder.stages))

    @torch.no_grad()
    def _show(self, stage: int) -> list[Tensor]:
        """Mask the model to a level; return the weights as they were."""
        was = []
        for parameter, owner in self._masked.values():
            was.append(parameter.detach().clone())
            bits_of(parameter).mul_(owner <= stage)
        self._move(stage % self._sets, into_model=True)
        return was

    @torch.no_grad()
    def _move(self, number: int, *, into_model: bool) -> None:
        """Copy a set of per-level tensors into the model, or back from it."""
        for name, tensor in self._own[number].items():
            slot = self.network.slots[name].data
            (slot if into_model else tensor).copy_(tensor if into_model else slot)

    def step(self, batches: Sequence[Any], step: int) -> Tensor:
        """Make a step, counted from 0; return the loss, 0-d on the device."""
        stage = self._draw(step)
        number = stage % self._sets
        used = [self._weights, *self._vectors[number : number + 1]]
        for optimizing in used:
            optimizing.before(step)
        was = self._show(stage)
        loss = self._backward(batches, step)
        with torch.no_grad():
            for (parameter, owner), weights in zip(self._masked.values(), was, strict=True):
                parameter.data.copy_(weights)
                if parameter.grad is not None:
                    bits_of(parameter.grad).mul_(owner <= stage)
        self._clip(self._parameters)
        for optimizing in used:
            self._optimize(optimizing)
        for optimizing in (self._weights, *self._vectors):
            optimizing.after()
        self._move(number, into_model=False)
        return loss

    @property
    def lr(self) -> float:
        """Learning rate of the last step."""
        return self._weights.lr

    def state(self) -> dict[str, Any]:
        """Return what a save in the middle of the phase needs."""
        return {
            "model": self.network.live(self.network.slots),
            "own": [{n: t.cpu() for n, t in own.items()} for own in self._own],
            "weights": self._weights.state(),
            "vectors": [optimizing.state() for optimizing in self._vectors],
        }

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on from such a save."""
        self.network.load(state["model"])
        for own, saved in zip(self._own, state["own"], strict=True):
            for name, tensor in saved.items():
                own[name].copy_(tensor)
        self._weights.load(state["weights"])
        for optimizing, saved in zip(self._vectors, state["vectors"], strict=True):
            optimizing.load(saved)

    def finish(self) -> None:
        """Store the dense network and each level's own tensors, in the checkpoint's dtypes."""
        ladder = self.setup.ladder
        nested = ladder.nested
        for number, level in enumerate(ladder.stages[: self._sets]):
            self._move(number, into_model=True)
            self._share_buffers()
            nested.own[level] = self.network.read(ladder.small)
        nested.values |= self.network.read((*nested.owner, *ladder.shared))
