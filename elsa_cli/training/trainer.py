"""The run: a joint phase if there is one, then level after level; saved, and stopped by signals."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from elsa_cli.core.level import parse_level
from elsa_cli.errors import Interrupted, Param, Words
from elsa_cli.models.data import Position
from elsa_cli.models.seeds import seed_everything, seed_of
from elsa_cli.training.events import PhaseReport, Watcher
from elsa_cli.training.phase import PhaseRun, stream_of
from elsa_cli.training.plan import plan, steps_in
from elsa_cli.training.resume import Saves
from elsa_cli.training.stepping import Setup
from elsa_cli.training.stopping import StopSignals

__all__ = ["SAVE_SECONDS", "Trainer"]

SAVE_SECONDS = 600.0  # between saves, unless save_every says after how many steps
LOOK_EVERY = 10  # steps between looks at the loss on a GPU, each of which waits for the GPU

# Returns new owners of all weights, chosen from the dense weights as they are now.
Reselect = Callable[[], Mapping[str, Tensor]]


class Trainer:
    """Trains a nested network in memory.

    Args:
        setup: Recipe, ladder, options, processes, device.
        saves: Where the run is saved, or None.
        watcher: Is called with what happens.
        reselect: Chooses the masks again after the joint phase.

    Attributes:
        phases: The phases of the run, in order.
        total: Their steps together.

    Raises:
        UsageError: An option has the wrong number of values, or the data has no length.
    """

    def __init__(
        self,
        setup: Setup,
        saves: Saves | None = None,
        watcher: Watcher | None = None,
        reselect: Reselect | None = None,
    ) -> None:
        """Plan the phases."""
        self.setup = setup
        self._saves = saves
        self._watcher = watcher or Watcher()
        self._reselect = reselect
        self.phases = plan(setup, lambda: stream_of(setup, 0).steps())
        self.total = steps_in(self.phases)
        self._reports: list[PhaseReport] = []
        self._saved_at = time.monotonic()

    def run(self) -> list[PhaseReport]:
        """Train all phases, from the save if there is one; return a report for each.

        Raises:
            TrainingError: See its kinds.
            Interrupted: A signal came; the steps so far are saved.
        """
        for text in self.setup.ladder.network.remarks():
            self._watcher.noted(text)
        state = self._saves.read() if self._saves else None
        self.setup.group.barrier()  # no process writes a save before all have looked for one
        first, position, live = 0, Position(), None
        if state:
            first, live = state["phase"], state["live"]
            position = self._position_of(state)
            self._restore(state)
            done = self._done(first, position)
            self._watcher.noted(f"continuing from the save at step {done:,} of {self.total:,}")
        with StopSignals() as stop:
            if state and not state["measured"]:
                self._measure(first - 1, stop)
            for phase_index in range(first, len(self.phases)):
                self._run_phase(phase_index, position, live, stop)
                self._measure(phase_index, stop)
                position, live = Position(), None
        return self._reports

    def _position_of(self, state: Mapping[str, Any]) -> Position:
        """Return where this run continues a save, in its own counts of steps and batches."""
        position, phase_index, live = Position(*state["position"]), state["phase"], state["live"]
        if live and state["processes"] != self.setup.group.size:
            position = stream_of(self.setup, phase_index).moved(position, state["processes"])
            # With more processes an epoch has fewer steps.
            steps = position.step * self.phases[phase_index].steps // live["steps"]
            position = replace(position, step=steps)
        return position

    def _done(self, phase_index: int, position: Position) -> int:
        """Return the steps of the run that are done at a position."""
        return steps_in(self.phases[:phase_index]) + position.step

    def _run_phase(
        self,
        phase_index: int,
        position: Position,
        live: Mapping[str, Any] | None,
        stop: StopSignals,
    ) -> None:
        """Train a phase from a position on, and store its result; `live` is a save's state."""
        setup = self.setup
        run = PhaseRun(setup, self.phases, phase_index, position, self._watcher, self._saves)
        if live is not None:
            run.load(live)
        for position in run.steps():
            ends = position.step == run.phase.steps
            if ends or self._pauses(position) or (stop.asked and setup.group.size == 1):
                self._pause(phase_index, run, stop)
        run.finish()
        ladder = setup.ladder
        if run.phase.stage is None and self._reselect and setup.options.reselect:
            ladder.nested.owner.update(self._reselect())
        setup.group.agree(ladder.network.live(ladder.network.slots), f"level {run.phase.name}")
        self._reports.append(run.report())

    def _pauses(self, position: Position) -> bool:
        """Tell whether to pause after a step: the same in every process, as all have to meet."""
        return self._save_is_due(position) or self._looks(position)

    def _save_is_due(self, position: Position) -> bool:
        every = self.setup.options.save_every
        return every is not None and position.step % every == 0

    def _looks(self, position: Position) -> bool:
        """Tell whether losses are looked at after a step."""
        return self.setup.device.type != "cuda" or position.step % LOOK_EVERY == 0

    def _pause(self, phase_index: int, run: PhaseRun, stop: StopSignals) -> None:
        """Look at the losses; save if it is time; stop if any process was asked to.

        Raises:
            NonFiniteLoss: A loss or a weight is not finite; nothing is saved then.
            Interrupted: After a save.
        """
        options, group = self.setup.options, self.setup.group
        late = time.monotonic() - self._saved_at > SAVE_SECONDS and not options.save_every
        stops, saves = run.meter.fetch(stop.asked, late and group.writes)
        if stops or saves or self._save_is_due(run.position):
            run.stepper.check_finite()
            self._save(phase_index, run.position, run.state())
        if stops:
            raise self._interrupted(stop, phase_index, run.position)

    def _measure(self, phase_index: int, stop: StopSignals) -> None:
        """Evaluate a finished level, report it, and save; it is saved before it is evaluated."""
        setup, network = self.setup, self.setup.ladder.network
        stage = self.phases[phase_index].stage
        if stage is not None and setup.recipe.has("evaluate"):
            self._save(phase_index + 1, Position(), measured=False)
            self._stop_here(stop, phase_index + 1)
            if setup.group.writes:
                # The network is measured as it is stored, rounded to the checkpoint's dtypes.
                network.load(setup.ladder.nested.state(setup.ladder.stages[stage]))
                seed_everything(seed_of(setup.options.seed, "evaluate"))
                metrics = setup.recipe.evaluate(network.model)
                self._reports[-1] = replace(self._reports[-1], metrics=metrics)
            setup.group.barrier()
        self._watcher.finished(self._reports[-1])
        self._save(phase_index + 1, Position())
        if phase_index + 1 < len(self.phases):
            self._stop_here(stop, phase_index + 1)

    def _stop_here(self, stop: StopSignals, phase_index: int) -> None:
        """Raise Interrupted if any process was asked to stop; everything is saved already."""
        asked = torch.tensor([stop.asked], dtype=torch.float64)
        if self.setup.group.reduce(asked).item():
            raise self._interrupted(stop, phase_index, Position())

    def _interrupted(self, stop: StopSignals, phase_index: int, position: Position) -> Interrupted:
        done = f"{self._done(phase_index, position):,} of {self.total:,} steps"
        if self._saves is None:
            return Interrupted(f"interrupted after {done}", stop.signal or signal.SIGTERM)
        return Interrupted(
            f"interrupted after {done}, which are saved in {self._saves.path}",
            stop.signal or signal.SIGTERM,
            hint=Words("start it again with {} to continue from there", Param("resume", True)),
        )

    def _save(
        self,
        phase_index: int,
        position: Position,
        live: Mapping[str, Any] | None = None,
        *,
        measured: bool = True,
    ) -> None:
        """Write a save, in the first process.

        Args:
            phase_index: The phase to continue with; may be past the last one.
            position: The position in that phase.
            live: State of the phase, unless it begins.
            measured: Whether the phase before has been evaluated.
        """
        self._saved_at = time.monotonic()
        if self._saves is None or not self.setup.group.writes:
            return
        nested = self.setup.ladder.nested
        self._saves.write(
            {
                "phase": phase_index,
                "position": [position.step, position.epoch, position.batch],
                "live": live,
                "measured": measured,
                "processes": self.setup.group.size,
                "values": nested.values,
                "owner": nested.owner,
                "per_level": {level.text: state for level, state in nested.per_level.items()},
                "reports": [vars(report) for report in self._reports],
                "mark": self._watcher.mark(),
                "recipe": self.setup.recipe.digest,
            }
        )

    def _restore(self, state: Mapping[str, Any]) -> None:
        """Put the network and the reports of a save back, and note what differs from its run."""
        nested = self.setup.ladder.nested
        nested.values.update(state["values"])
        nested.owner.update(state["owner"])
        nested.per_level = {parse_level(text): saved for text, saved in state["per_level"].items()}
        self._reports = [PhaseReport(**fields) for fields in state["reports"]]
        self._watcher.rewind(state["mark"])
        for text in self._saves.elsewhere(state) if self._saves else ():
            self._watcher.noted(text)
        if state["recipe"] != self.setup.recipe.digest:
            self._watcher.noted("the recipe has changed since the save")
