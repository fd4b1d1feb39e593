"""One step of training: what the stages and the joint phase have in common, and the stages."""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from elsa_cli.errors import NonFiniteLoss, Param, Words
from elsa_cli.models.data import to_device
from elsa_cli.models.distributed import Group, is_peer_error
from elsa_cli.models.norms import recalibrate
from elsa_cli.models.recipe import Recipe
from elsa_cli.models.seeds import seed_everything, seed_of
from elsa_cli.models.tensors import is_finite
from elsa_cli.training.gradients import GradientWatch
from elsa_cli.training.ladder import Ladder
from elsa_cli.training.optimizing import Optimizing
from elsa_cli.training.options import TrainOptions

__all__ = ["Setup", "StageStepper", "Stepper"]


@dataclass(frozen=True)
class Setup:
    """What every phase of a run works with."""

    recipe: Recipe
    ladder: Ladder
    options: TrainOptions
    group: Group
    device: torch.device


class Stepper(ABC):
    """Trains the model through one phase.

    Args:
        setup: The run.
        phase: Number of the phase.
    """

    def __init__(self, setup: Setup, phase: int) -> None:
        """Keep the run."""
        self.setup = setup
        self.network = setup.ladder.network
        self.watch = GradientWatch({}, ())
        self._phase = phase
        self._model: nn.Module = self.network.model
        self._parameters: list[nn.Parameter] = []

    def _begin(self, parameters: Mapping[str, nn.Parameter]) -> None:
        """Make the model ready to train parameters, each given once by name."""
        model = self.network.model
        self.setup.group.broadcast((*model.parameters(), *model.buffers()))
        self._parameters = list(parameters.values())
        self.watch = GradientWatch(parameters, self.setup.ladder.nested.owner)
        if self.setup.options.compile:
            self._model = torch.compile(model)  # type: ignore[assignment]

    def _backward(self, batches: Sequence[Any], step: int) -> Tensor:
        """Add up the gradients of the mean loss of some batches in each process; return that loss.

        Gradients are averaged over the processes; the loss is this one's.
        """
        setup = self.setup
        group, seed = setup.group, setup.options.seed
        total = torch.zeros((), device=setup.device)
        group.broadcast(self.network.model.buffers())  # what each has made of its own batches
        for at, batch in enumerate(batches):
            # By the batch's number among all that make the step, on whichever process it is.
            seed_everything(seed_of(seed, self._phase, "step", step, at * group.size + group.rank))
            with self._autocast():
                loss = setup.recipe.loss(self._model, to_device(batch, setup.device))
            share = loss / len(batches)
            if share.requires_grad:  # unless all that is trained is left out of this batch
                try:
                    share.backward()  # type: ignore[no-untyped-call]
                except Exception as error:
                    raise setup.recipe.blame("loss, backward", error) from error
            total += share.detach()
        group.average(self._parameters)
        self.watch.look()
        return total

    def _autocast(self) -> contextlib.AbstractContextManager[Any]:
        if self.setup.options.precision == "bf16":
            return torch.autocast(self.setup.device.type, torch.bfloat16)
        return contextlib.nullcontext()

    def _clip(self, parameters: Sequence[nn.Parameter]) -> None:
        if self.setup.options.clip_norm is not None:
            nn.utils.clip_grad_norm_(parameters, self.setup.options.clip_norm)

    def _optimize(self, optimizing: Optimizing) -> None:
        try:
            optimizing.step()
        except RuntimeError as error:
            raise is_peer_error(error) or error from error

    @abstractmethod
    def step(self, batches: Sequence[Any], step: int) -> Tensor:
        """Make a step, counted from 0; return the loss, 0-d on the device."""

    @property
    @abstractmethod
    def lr(self) -> float:
        """Learning rate of the last step."""

    @abstractmethod
    def state(self) -> dict[str, Any]:
        """Return what a save in the middle of the phase needs."""

    @abstractmethod
    def load(self, state: Mapping[str, Any]) -> None:
        """Go on from such a save."""

    @abstractmethod
    def finish(self) -> None:
        """End the phase: store what it came to."""

    def _share_buffers(self) -> None:
        """Give every process the first one's buffers: each has seen batches of its own."""
        self.setup.group.broadcast(self.network.slots[n] for n in self.network.buffers())

    def check_finite(self) -> None:
        """Raise NonFiniteLoss if a weight is not finite, lest that be saved."""
        for name, parameter in self.network.parameters.items():
            if not is_finite(parameter.detach()):
                raise NonFiniteLoss(
                    "has NaN or infinite values",
                    tensor=name,
                    hint=Words("lower {}, or use {}", Param("lr"), Param("clip_norm")),
                )


class StageStepper(Stepper):
    """Trains one level around those that are done.

    Args:
        setup: The run.
        phase: Number of the phase.
        stage: Which level.
        lr: Its learning rate, or None for the optimizer's default.
        total: Its steps.
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
                norm.eval()  # what the first level has estimated stays

    def step(self, batches: Sequence[Any], step: int) -> Tensor:
        """Make a step, counted from 0; return the loss, 0-d on the device."""
        if self._optimizing is None:  # the shell is empty, and norms are shared
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
        found: dict[str, Any] = {"model": self.network.live(self.network.slots)}
        if self._optimizing:
            found |= self._optimizing.state()
        return found

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on from such a save."""
        self.network.load(state["model"])
        if self._optimizing:
            self._optimizing.load(dict(state))

    def finish(self) -> None:
        """Check that nothing done has changed, and store the level."""
        self._freeze.check()
        self._freeze.detach()
        if self.setup.options.norm == "recalibrate":
            recalibrate(self.setup.recipe, self.network, self.setup.device)
        self._share_buffers()
        self.setup.ladder.leave(self._stage)
