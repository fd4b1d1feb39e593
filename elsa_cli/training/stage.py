"""The stage of one level: its weights are trained around the frozen weights of sparser levels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from elsa_cli.models.norms import recalibrate
from elsa_cli.training.optimizing import Optimizing
from elsa_cli.training.stepping import Setup, Stepper

__all__ = ["StageStepper"]


class StageStepper(Stepper):
    """Trains one level around the finished ones.

    Args:
        setup: The run.
        phase: Index of the phase.
        stage: Index of the level, sparsest first.
        lr: Learning rate at the beginning, or None for the optimizer's default.
        total: Steps of the stage; with 0 nothing is trained.
    """

    def __init__(self, setup: Setup, phase: int, stage: int, lr: float | None, total: int) -> None:
        """Put the level into the model."""
        super().__init__(setup, phase)
        self._stage = stage
        self._freeze = setup.ladder.enter(stage)
        parameters = setup.ladder.trainable(stage)
        self._optimizing: Optimizing | None = None
        if parameters and total:
            trained = list(parameters.values())
            self._optimizing = Optimizing(setup.recipe, setup.options, trained, lr, total)
            self._freeze.attach(self._optimizing.optimizer)
            self._begin(parameters)
        self.network.train()
        if setup.options.norm == "shared" and stage:
            for norm in self.network.norms():
                norm.eval()  # the statistics that the first level has estimated stay

    def step(self, batches: Sequence[Any], step: int) -> Tensor:
        """Make a step, counted from 0; return the loss, 0-d on the device."""
        if self._optimizing is None:  # the shell is empty, and small tensors are shared
            return torch.zeros((), device=self.setup.device)
        self._optimizing.before(step)
        loss = self._backward(batches, step)
        self._clip(self._parameters)
        self._optimize(self._optimizing)
        self._optimizing.after()
        return loss

    @property
    def lr(self) -> float:
        """Learning rate of the last step."""
        return self._optimizing.lr if self._optimizing else 0.0

    def state(self) -> dict[str, Any]:
        """Return what a save in the middle of the stage needs."""
        state: dict[str, Any] = {"model": self.network.live(self.network.slots)}
        if self._optimizing:
            state |= self._optimizing.state()
        return state

    def load(self, state: Mapping[str, Any]) -> None:
        """Continue from such a save."""
        self.network.load(state["model"])
        if self._optimizing:
            self._optimizing.load(dict(state))

    def finish(self) -> None:
        """Check that no held weight has changed, and store the level."""
        self._freeze.check()
        self._freeze.detach()
        if self.setup.options.norm == "recalibrate":
            recalibrate(self.setup.recipe, self.network, self.setup.device)
        self._share_buffers()
        self.setup.ladder.leave(self._stage)
