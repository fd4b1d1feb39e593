"""What a training reports while it runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

__all__ = ["PhaseReport", "Tick", "Watcher"]


@dataclass(frozen=True)
class Tick:
    """One step.

    Attributes:
        phase: `joint`, or the level that is trained.
        number: The phase's number in the run, from 1.
        phases: Number of phases.
        epoch: The epoch of the phase, from 1.
        step: Steps done in the phase.
        steps: Steps of the phase.
        done: Steps done in the run.
        total: Steps of the run.
        loss: Loss of this step, the mean over the processes.
        mean_loss: Mean loss of this epoch so far.
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
    """One finished phase.

    Attributes:
        phase: `joint`, or the level.
        steps: Steps of the optimizer.
        loss: Mean loss of the last epoch, or None without a step.
        metrics: What the recipe's evaluate returned; empty without one.
        seconds: Time of the phase in this process, without the runs before a resume.
        without_gradient: Parameters that it should train and that had no gradient in any step.
    """

    phase: str
    steps: int
    loss: float | None
    metrics: Mapping[str, float] = field(default_factory=dict)
    seconds: float = 0.0
    without_gradient: tuple[str, ...] = ()


class Watcher:
    """Receives what happens; this one ignores it."""

    def stepped(self, tick: Tick) -> None:
        """Receive a step."""

    def epoch_ended(self, tick: Tick) -> None:
        """Receive the last step of an epoch, or of a phase, for a second time."""

    def finished(self, report: PhaseReport) -> None:
        """Receive the report of a finished phase."""

    def noted(self, text: str) -> None:
        """Receive a line of text for the user."""

    def mark(self) -> int:
        """Return how much was recorded so far, to be kept in a save."""
        return 0

    def rewind(self, mark: int) -> None:
        """Forget what was recorded after a save: the resumed run records it again."""
