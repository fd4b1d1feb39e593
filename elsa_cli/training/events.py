"""What a training tells while it goes on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

__all__ = ["PhaseReport", "Tick", "Watcher"]


@dataclass(frozen=True)
class Tick:
    """One step.

    Attributes:
        phase: `joint`, or the level that is trained.
        number: Which phase, from 1.
        phases: How many there are.
        epoch: Which epoch of the phase, from 1.
        step: Steps done in the phase.
        steps: Steps of the phase.
        done: Steps done in the run.
        total: Steps of the run.
        loss: Of this step, the mean over the processes.
        mean_loss: Of this epoch up to here.
        lr: Learning rate.
    """

    phase: str
    number: int
    phases: int
    epoch: int
    step: int
    steps: int
    done: int
    total: int
    loss: float
    mean_loss: float
    lr: float


@dataclass(frozen=True)
class PhaseReport:
    """One phase, done.

    Attributes:
        phase: `joint`, or the level.
        steps: Steps of the optimizer.
        loss: Mean loss of the last epoch, or None without a step.
        metrics: What the recipe's evaluate gave, empty without one.
        seconds: Time it took in this process, without what a resumed run did before.
        without_gradient: Parameters that it trains and that had no gradient in any step.
    """

    phase: str
    steps: int
    loss: float | None
    metrics: Mapping[str, float] = field(default_factory=dict)
    seconds: float = 0.0
    without_gradient: tuple[str, ...] = ()


class Watcher:
    """Is told what happens; this one does nothing."""

    def stepped(self, tick: Tick) -> None:
        """Hear of a step."""

    def epoch_ended(self, tick: Tick) -> None:
        """Hear that a step was the last of its epoch, or of its phase."""

    def finished(self, report: PhaseReport) -> None:
        """Hear of a phase that is done."""

    def noted(self, text: str) -> None:
        """Hear of something worth a line."""

    def mark(self) -> int:
        """Return a number to be kept in a save: how much was recorded up to it."""
        return 0

    def rewind(self, mark: int) -> None:
        """Forget what was recorded after a save: it comes again."""
