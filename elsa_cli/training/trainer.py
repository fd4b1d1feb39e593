"""The run: a joint phase if wanted, then level after level; saved, watched, and stopped in time."""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from elsa_cli.core.level import parse_level
from elsa_cli.errors import Interrupted, NonFiniteLoss, Param, Words
from elsa_cli.models.data import Place, Stream
from elsa_cli.models.seeds import seed_everything, seed_of
from elsa_cli.training.diagnosis import why_not_finite
from elsa_cli.training.events import PhaseReport, Tick, Watcher
from elsa_cli.training.gradients import EARLY
from elsa_cli.training.joint import JointStepper
from elsa_cli.training.ladder import Nested
from elsa_cli.training.meter import Meter
from elsa_cli.training.plan import plan
from elsa_cli.training.resume import Saves
from elsa_cli.training.stepping import Setup, StageStepper, Stepper
from elsa_cli.training.stopping import StopSignals

__all__ = ["SAVE_SECONDS", "Trainer"]

SAVE_SECONDS = 600.0  # between saves, where no number of steps is given
LOOK_EVERY = 10  # steps between looks at the loss on a GPU, which has to be waited for

# Chooses owners anew from the dense weights.
Reselect = Callable[[Nested], Mapping[str, Tensor]]


class Trainer:
    """Trains a nested checkpoint in memory.

    Args:
        setup: Recipe, ladder, options, processes, device.
        saves: Where saves go, or None for none.
        watcher: Told what happens.
        reselect: Chooses the masks again after the joint phase.
    """

    def __init__(
        self,
        setup: Setup,
        saves: Saves | None = None,
        watcher: Watcher | None = None,
        reselect: Reselect | None = None,
    ) -> None:
        """Plan the phases.

        Raises:
            UsageError: An option has the wrong number of values, or the data has no length.
        """
        self.setup = setup
        self._saves = saves
        self._watcher = watcher or Watcher()
        self._reselect = reselect
        self.phases = plan(setup, lambda: self._stream(0).steps())
        self.total = sum(phase.steps for phase in self.phases)
        self._before = [sum(p.steps for p in self.phases[:at]) for at in range(len(self.phases))]
        self._reports: list[PhaseReport] = []
        self._saved_at = time.monotonic()

    def _stream(self, phase: int) -> Stream:
        setup = self.setup
        return Stream(
            setup.recipe,
            setup.options.seed,
            phase,
            setup.group.rank,
            setup.group.size,
            setup.options.accumulate,
        )

    def run(self) -> list[PhaseReport]:
        """Train all phases, from the save if there is one; return a report for each.

        Raises:
            TrainingError: See its kinds.
            Interrupted: A signal came; what was done is saved.
        """
        for text in self.setup.ladder.network.remarks():
            self._watcher.noted(text)
        state = self._saves.read() if self._saves else None
        self.setup.group.barrier()  # nobody writes a save before all have looked for one
        first, place, live = 0, Place(), None
        if state:
            first, live = state["phase"], state["live"]
            place = self._place_of(state)
            self._restore(state)
            done = self._done(first, place)
            self._watcher.noted(f"going on from the save at step {done:,} of {self.total:,}")
        with StopSignals() as stop:
            if state and not state["measured"]:
                self._measure(first - 1, stop)
            for number in range(first, len(self.phases)):
                self._run_phase(number, place, live, stop)
                self._measure(number, stop)
                place, live = Place(), None
        return self._reports

    def _place_of(self, state: Mapping[str, Any]) -> Place:
        """Return where a save goes on: with as many processes it is where it was written."""
        place, number, live = Place(*state["place"]), state["phase"], state["live"]
        if live and state["processes"] != self.setup.group.size:
            place = self._stream(number).moved(place, state["processes"])
            # An epoch has fewer steps of more processes.
            place = replace(place, step=place.step * self.phases[number].steps // live["steps"])
            live["meter"]["last"][:3] = [place.step, place.epoch, place.batch]
        return place

    def _done(self, phase: int, place: Place) -> int:
        return self.total if phase == len(self.phases) else self._before[phase] + place.step

    def _stepper(self, number: int) -> Stepper:
        phase = self.phases[number]
        if phase.stage is None:
            return JointStepper(self.setup, number, phase.lr, phase.steps)
        return StageStepper(self.setup, number, phase.stage, phase.lr, phase.steps)

    def _run_phase(
        self, number: int, place: Place, live: Mapping[str, Any] | None, stop: StopSignals
    ) -> None:
        phase, began = self.phases[number], time.monotonic()
        options, group = self.setup.options, self.setup.group
        stepper = self._stepper(number)
        meter = Meter(group, lambda *found: self._tell(number, *found))
        if live is not None:
            stepper.load(live["stepper"])
            stepper.watch.load(live["missing"])
            meter.load(live["meter"])
        walk = self._stream(number).walk(place, phase.steps) if place.step < phase.steps else ()
        for place, batches in walk:
            meter.add(place, stepper.step(batches, place.step - 1), stepper.lr)
            if place.step == EARLY:
                self._judge(number, stepper, EARLY, ended=False)
            due = options.save_every is not None and place.step % options.save_every == 0
            last = place.step == phase.steps
            if not (due or last or self._looks(place) or (stop.asked and group.size == 1)):
                continue
            late = time.monotonic() - self._saved_at > SAVE_SECONDS and not options.save_every
            stops, saves = meter.fetch(stop.asked, late and group.writes)
            if stops or due or saves:
                stepper.check_finite()
                self._save(number, place, self._live(number, stepper, meter))
            if stops:
                raise self._interrupted(stop, number, place)
        meter.close()
        self._judge(number, stepper, phase.steps, ended=True)
        stepper.finish()
        if phase.stage is None and self._reselect and options.reselect:
            self.setup.ladder.nested.owner.update(self._reselect(self.setup.ladder.nested))
        network = self.setup.ladder.network
        group.agree(network.live(network.slots), f"level {phase.name}")
        self._reports.append(
            PhaseReport(
                phase.name,
                phase.steps,
                meter.mean,
                seconds=time.monotonic() - began,
                without_gradient=tuple(stepper.watch.missing) if phase.steps else (),
            )
        )

    def _live(self, number: int, stepper: Stepper, meter: Meter) -> dict[str, Any]:
        """Return what a save in the middle of a phase needs."""
        return {
            "steps": self.phases[number].steps,
            "stepper": stepper.state(),
            "missing": stepper.watch.missing,
            "meter": meter.state(),
        }

    def _judge(self, number: int, stepper: Stepper, steps: int, *, ended: bool) -> None:
        """Say what has had no gradient; see GradientWatch."""
        recipe = self.setup.recipe
        note = stepper.watch.judge(self._title(number), steps, recipe.path, ended=ended)
        if note:
            self._watcher.noted(note)

    def _looks(self, place: Place) -> bool:
        """Tell whether losses are looked at after this step: the same in every process."""
        return self.setup.device.type != "cuda" or place.step % LOOK_EVERY == 0

    def _tell(
        self, number: int, place: Place, loss: float, mean: float, lr: float, ended: bool
    ) -> None:
        """Tell the watcher of a step, or of the end of its epoch."""
        phase = self.phases[number]
        if not math.isfinite(loss):
            hint = why_not_finite(self.setup.ladder.nested, place.step)
            if self._saves is not None and self._saves.exists:
                hint = Words("{}; what was saved before is in {}", hint, self._saves.path)
            raise NonFiniteLoss(
                f"the loss is {loss} at step {place.step:,} of {self._title(number)}",
                file=self.setup.recipe.path,
                hint=hint,
            )
        tick = Tick(
            phase=phase.name,
            number=number + 1,
            phases=len(self.phases),
            epoch=place.epoch + 1,
            step=place.step,
            steps=phase.steps,
            done=self._before[number] + place.step,
            total=self.total,
            loss=loss,
            mean_loss=mean,
            lr=lr,
        )
        (self._watcher.epoch_ended if ended else self._watcher.stepped)(tick)

    def _title(self, number: int) -> str:
        phase = self.phases[number]
        return "the joint phase" if phase.stage is None else f"level {phase.name}"

    def _measure(self, number: int, stop: StopSignals) -> None:
        """Measure a level that is done, report it, and save; what was trained is saved before."""
        setup, network = self.setup, self.setup.ladder.network
        stage = self.phases[number].stage
        if stage is not None and setup.recipe.has("evaluate"):
            self._save(number + 1, Place(), measured=False)
            self._stop_here(stop, number + 1)
            if setup.group.writes:
                # What is measured is what is stored, rounded to the checkpoint's dtypes.
                network.load(setup.ladder.nested.state(setup.ladder.stages[stage]))
                seed_everything(seed_of(setup.options.seed, "evaluate"))
                metrics = setup.recipe.evaluate(network.model)
                self._reports[-1] = replace(self._reports[-1], metrics=metrics)
            setup.group.barrier()
        self._watcher.finished(self._reports[-1])
        self._save(number + 1, Place())
        if number + 1 < len(self.phases):
            self._stop_here(stop, number + 1)

    def _stop_here(self, stop: StopSignals, phase: int) -> None:
        """Raise Interrupted if any process was asked to stop: what is done is saved."""
        asked = torch.tensor([stop.asked], dtype=torch.float64)
        if self.setup.group.reduce(asked).item():
            raise self._interrupted(stop, phase, Place())

    def _save(
        self,
        phase: int,
        place: Place,
        live: Mapping[str, Any] | None = None,
        *,
        measured: bool = True,
    ) -> None:
        """Write a save, in the first process.

        Args:
            phase: The phase that comes next or goes on; may be past the last one.
            place: Where it goes on.
            live: What is needed in the middle of it.
            measured: Whether the phase before has been evaluated.
        """
        self._saved_at = time.monotonic()
        if self._saves is None or not self.setup.group.writes:
            return
        nested = self.setup.ladder.nested
        self._saves.write(
            {
                "phase": phase,
                "place": [place.step, place.epoch, place.batch],
                "live": live,
                "measured": measured,
                "processes": self.setup.group.size,
                "values": nested.values,
                "owner": nested.owner,
                "own": {level.text: own for level, own in nested.own.items()},
                "reports": [vars(report) for report in self._reports],
                "mark": self._watcher.mark(),
                "recipe": self.setup.recipe.digest,
            }
        )

    def _restore(self, state: Mapping[str, Any]) -> None:
        nested = self.setup.ladder.nested
        nested.values.update(state["values"])
        nested.owner.update(state["owner"])
        nested.own = {parse_level(text): own for text, own in state["own"].items()}
        self._reports = [PhaseReport(**fields) for fields in state["reports"]]
        self._watcher.rewind(state["mark"])
        for text in self._saves.elsewhere(state) if self._saves else ():
            self._watcher.noted(text)
        if state["recipe"] != self.setup.recipe.digest:
            self._watcher.noted("the recipe has changed since the save")

    def _interrupted(self, stop: StopSignals, number: int, place: Place) -> Interrupted:
        done = f"{self._done(number, place):,} of {self.total:,} steps"
        if self._saves is None:
            return Interrupted(f"interrupted after {done}", stop.number or signal.SIGTERM)
        return Interrupted(
            f"interrupted after {done}, which are saved in {self._saves.path}",
            stop.number or signal.SIGTERM,
            hint=Words("start it again with {} to continue from there", Param("resume", True)),
        )
