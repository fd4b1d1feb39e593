"""The losses of a phase: they stay on the device until they are fetched, several at once.

On a GPU a loss can only be read once the step that computes it has ended. So the training keeps
losses as tensors, queues further steps, and fetches the losses together every few steps.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from elsa_cli.models.data import Position
from elsa_cli.models.distributed import Group

__all__ = ["Meter"]

# Is called with the position after a step, the step's loss, the mean loss of its epoch so far, the
# learning rate, and whether the call is for the end of the epoch.
Tell = Callable[[Position, float, float, float, bool], None]


@dataclass(frozen=True)
class _Step:
    """A step whose loss is known, as the mean over the processes."""

    position: Position
    loss: float
    lr: float


class Meter:
    """Collects the losses of steps, and reports each step once its loss is fetched.

    Args:
        group: The processes, over which losses are averaged.
        tell: Is called for every step in order, and once more for the last step of each epoch.
    """

    def __init__(self, group: Group, tell: Tell) -> None:
        """Begin with no step."""
        self._group = group
        self._tell = tell
        self._waiting: list[tuple[Position, Tensor, float]] = []
        self._last: _Step | None = None
        self._sum = 0.0  # of the losses of the last epoch
        self._count = 0

    @property
    def mean(self) -> float | None:
        """Mean loss of the last epoch, or None without a step."""
        return self._sum / self._count if self._count else None

    def add(self, position: Position, loss: Tensor, lr: float) -> None:
        """Keep the loss of a step, 0-d on the device, and its learning rate."""
        self._waiting.append((position, loss, lr))

    def fetch(self, stops: bool, saves: bool) -> tuple[bool, bool]:
        """Wait for the losses, average them over the processes, and report their steps.

        Every process calls this after the same steps.

        Args:
            stops: Whether this process was asked to stop.
            saves: Whether it is time for a save in this process.

        Returns:
            Whether any process was asked to stop, and whether it is time for a save in any.
        """
        flags = torch.tensor([stops, saves], dtype=torch.float64)
        losses = torch.stack([loss.double() for _, loss, _ in self._waiting]).cpu()
        *sums, stops_any, saves_any = self._group.reduce(torch.cat([losses, flags])).tolist()
        for (position, _, lr), total in zip(self._waiting, sums, strict=True):
            self._report(_Step(position, total / self._group.size, lr))
        self._waiting.clear()
        return stops_any > 0, saves_any > 0

    def _report(self, step: _Step) -> None:
        """Report a step, after the end of the epoch before it if it is the first of the next."""
        if self._last is not None and self._last.position.epoch != step.position.epoch:
            self.close()
            self._sum, self._count = 0.0, 0
        self._sum += step.loss
        self._count += 1
        self._last = step
        self._tell(step.position, step.loss, self._sum / self._count, step.lr, False)

    def close(self) -> None:
        """Report that the epoch of the last step has ended."""
        if self._last is not None:
            last = self._last
            self._tell(last.position, last.loss, self._sum / self._count, last.lr, True)

    def state(self) -> dict[str, Any]:
        """Return what a save needs; all losses have to be fetched before."""
        last = None if self._last is None else [self._last.loss, self._last.lr]
        return {"sum": self._sum, "count": self._count, "last": last}

    def load(self, state: Mapping[str, Any], position: Position) -> None:
        """Continue from a save.

        Args:
            state: As `state` gave it.
            position: The position after the last step of the save. Run with another number of
                processes, the phase has another position there than it had when it was saved.
        """
        self._sum, self._count = state["sum"], state["count"]
        if state["last"] is not None:
            loss, lr = state["last"]
            self._last = _Step(position, loss, lr)
