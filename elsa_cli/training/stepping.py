"""One step of training: the parts that the stages and the joint phase share."""

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
from elsa_cli.models.recipe import Recipe
from elsa_cli.models.seeds import seed_everything, seed_of
from elsa_cli.models.tensors import is_finite
from elsa_cli.training.gradients import GradientWatch
from elsa_cli.training.ladder import Ladder
from elsa_cli.training.optimizing import Optimizing
from elsa_cli.training.options import TrainOptions

__all__ = ["Setup", "Stepper"]


@dataclass(frozen=True)
class Setup:
    """Everything that the phases of a run work with.

    Attributes:
        recipe: Data, loss, and perhaps an optimizer.
        ladder: The levels and the model.
        options: How to train.
        group: The processes.
        device: Where this process computes.
    """

    recipe: Recipe
    ladder: Ladder
    options: TrainOptions
    group: Group
    device: torch.device


class Stepper(ABC):
    """Trains the model through one phase.

    Args:
        setup: The run.
        phase: Index of the phase; random numbers depend on it.

    Attributes:
        watch: Which trained parameters have had a gradient.
    """

    def __init__(self, setup: Setup, phase: int) -> None:
        """Begin with nothing to train."""
        self.setup = setup
        self.network = setup.ladder.network
        self.watch = GradientWatch({}, ())
        self._phase = phase
        self._model: nn.Module = self.network.model
        self._parameters: list[nn.Parameter] = []

    def _begin(self, parameters: Mapping[str, nn.Parameter]) -> None:
        """Make the model ready to train.

        Args:
            parameters: What is trained, each parameter once, by name.
        """
        model = self.network.model
        self.setup.group.broadcast((*model.parameters(), *model.buffers()))
        self._parameters = list(parameters.values())
        self.watch = GradientWatch(parameters, self.setup.ladder.nested.owner)
        if self.setup.options.compile:
            self._model = torch.compile(model)  # type: ignore[assignment]

    def _backward(self, batches: Sequence[Any], step: int) -> Tensor:
        """Accumulate the gradient of the mean loss of some batches; return that loss.

        Gradients are averaged over the processes; the loss, 0-d on the device, is that of this
        process alone.

        Args:
            batches: The batches of this process.
            step: The step, from 0; random numbers depend on it.
        """
        setup = self.setup
        group, seed = setup.group, setup.options.seed
        total = torch.zeros((), device=setup.device)
        group.broadcast(self.network.model.buffers())  # each process has updated them differently
        for index, batch in enumerate(batches):
            # The seed depends on the batch's index in the step, whatever process computes it.
            in_step = index * group.size + group.rank
            seed_everything(seed_of(seed, self._phase, "step", step, in_step))
            with self._autocast():
                loss = setup.recipe.loss(self._model, to_device(batch, setup.device))
            share = loss / len(batches)
            if share.requires_grad:  # unless this batch uses no trained parameter
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
        """Continue from such a save."""

    @abstractmethod
    def finish(self) -> None:
        """Store the result of the phase."""

    def _share_buffers(self) -> None:
        """Replace the buffers of every process by those of the first: each saw other batches."""
        self.setup.group.broadcast(self.network.slots[n] for n in self.network.buffers())

    def check_finite(self) -> None:
        """Raise NonFiniteLoss if a weight is not finite, so that no such weight is saved."""
        for name, parameter in self.network.parameters.items():
            if not is_finite(parameter.detach()):
                raise NonFiniteLoss(
                    "has NaN or infinite values",
                    tensor=name,
                    hint=Words("lower {}, or use {}", Param("lr"), Param("clip_norm")),
                )
