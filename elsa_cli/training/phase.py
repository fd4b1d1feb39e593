"""One phase while it runs: its steps, their losses, and what is said about them."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from elsa_cli.errors import NonFiniteLoss, Words
from elsa_cli.models.data import Position, Stream
from elsa_cli.training.diagnosis import why_not_finite
from elsa_cli.training.events import PhaseReport, Tick, Watcher
from elsa_cli.training.gradients import EARLY
from elsa_cli.training.joint import JointStepper
from elsa_cli.training.meter import Meter
from elsa_cli.training.plan import Phase, steps_in
from elsa_cli.training.resume import Saves
from elsa_cli.training.stage import StageStepper
from elsa_cli.training.stepping import Setup, Stepper

__all__ = ["PhaseRun", "stream_of"]


def stream_of(setup: Setup, phase_index: int) -> Stream:
    """Return the batches of a phase for this process."""
    group, options = setup.group, setup.options
    return Stream(
        setup.recipe, options.seed, phase_index, group.rank, group.size, options.accumulate
    )


class PhaseRun:
    """Runs one phase, step by step; saves and signals are the trainer's.

    Args:
        setup: The run.
        phases: All phases of the run.
        phase_index: The one to run.
        position: Where it begins.
        watcher: Is called with each step.
        saves: Where the run is saved, or None; only messages need it.
    """

    def __init__(
        self,
        setup: Setup,
        phases: Sequence[Phase],
        phase_index: int,
        position: Position,
        watcher: Watcher,
        saves: Saves | None,
    ) -> None:
        """Put the level, or the joint phase, into the model."""
        self.phase = phases[phase_index]
        self.position = position
        self._setup = setup
        self._phases = phases
        self._index = phase_index
        self._watcher = watcher
        self._saves = saves
        self._began = time.monotonic()
        self.stepper = self._stepper()
        self.meter = Meter(setup.group, self._tell)

    def _stepper(self) -> Stepper:
        phase = self.phase
        if phase.stage is None:
            return JointStepper(self._setup, self._index, phase.lr, phase.steps)
        return StageStepper(self._setup, self._index, phase.stage, phase.lr, phase.steps)

    def load(self, state: Mapping[str, Any]) -> None:
        """Continue from a save in the middle of the phase."""
        self.stepper.load(state["stepper"])
        self.stepper.watch.load(state["missing"])
        self.meter.load(state["meter"], self.position)

    def state(self) -> dict[str, Any]:
        """Return what a save in the middle of the phase needs."""
        return {
            "steps": self.phase.steps,
            "stepper": self.stepper.state(),
            "missing": self.stepper.watch.missing,
            "meter": self.meter.state(),
        }

    def steps(self) -> Iterator[Position]:
        """Make the steps that are left; yield the position after each."""
        if self.position.step >= self.phase.steps:
            return  # without asking the recipe for data
        stream = stream_of(self._setup, self._index)
        for position, batches in stream.walk(self.position, self.phase.steps):
            loss = self.stepper.step(batches, position.step - 1)
            self.meter.add(position, loss, self.stepper.lr)
            self.position = position
            if position.step == EARLY:
                self._judge(EARLY, ended=False)
            yield position

    def finish(self) -> None:
        """Store the result of the phase in the nested network.

        Raises:
            TrainingError: Nothing was trained, a frozen weight changed, or a weight is not finite.
        """
        self.meter.close()
        self._judge(self.phase.steps, ended=True)
        self.stepper.finish()

    def report(self) -> PhaseReport:
        """Return the report of the phase, without metrics."""
        steps = self.phase.steps
        return PhaseReport(
            self.phase.name,
            steps,
            self.meter.mean,
            seconds=time.monotonic() - self._began,
            without_gradient=tuple(self.stepper.watch.missing) if steps else (),
        )

    def _judge(self, steps: int, *, ended: bool) -> None:
        """Note which parameters have had no gradient; see GradientWatch."""
        recipe = self._setup.recipe
        note = self.stepper.watch.judge(self.phase.title, steps, recipe.path, ended=ended)
        if note:
            self._watcher.noted(note)

    def _tell(self, position: Position, loss: float, mean: float, lr: float, ended: bool) -> None:
        """Report a step to the watcher, or the end of its epoch."""
        if not math.isfinite(loss):
            raise self._not_finite(position, loss)
        tick = Tick(
            phase=self.phase.name,
            number=self._index + 1,
            phases=len(self._phases),
            epoch=position.epoch + 1,
            step=position.step,
            steps=self.phase.steps,
            done=steps_in(self._phases[: self._index]) + position.step,
            total=steps_in(self._phases),
            loss=loss,
            mean_loss=mean,
            lr=lr,
        )
        (self._watcher.epoch_ended if ended else self._watcher.stepped)(tick)

    def _not_finite(self, position: Position, loss: float) -> NonFiniteLoss:
        hint = why_not_finite(self._setup.ladder.nested, position.step)
        if self._saves is not None and self._saves.exists:
            hint = Words("{}; what was saved before is in {}", hint, self._saves.path)
        return NonFiniteLoss(
            f"the loss is {loss} at step {position.step:,} of {self.phase.title}",
            file=self._setup.recipe.path,
            hint=hint,
        )
