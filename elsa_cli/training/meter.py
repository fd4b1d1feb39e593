"""The losses of a phase, fetched from the device now and then."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from elsa_cli.models.data import Place
from elsa_cli.models.distributed import Group

__all__ = ["Meter"]

# Takes a place, its loss, the mean of the epoch, the learning rate, and whether the epoch ended.
Tell = Callable[[Place, float, float, float, bool], None]


class Meter:
    """Collects losses on the device, and tells of them once they are fetched.

    Args:
        group: The processes, over which losses are averaged.
        tell: Told of every step, and again of the last one of each epoch.
    """

    def __init__(self, group: Group, tell: Tell) -> None:
        """Begin with nothing."""
        self._group = group
        self._tell = tell
        self._waiting: list[tuple[Place, Tensor, float]] = []
        self._last: tuple[Place, float, float] | None = None
        self._sum = 0.0
        self._count = 0

    @property
    def mean(self) -> float | None:
        """Mean loss of the last epoch, or None without a step."""
        return self._sum / self._count if self._count else None

    def add(self, place: Place, loss: Tensor, lr: float) -> None:
        """Keep the loss of a step, 0-d, and its learning rate."""
        self._waiting.append((place, loss, lr))

    def fetch(self, stops: bool, saves: bool) -> tuple[bool, bool]:
        """Wait for the losses and tell of them.

        Args:
            stops: Whether this process was asked to stop.
            saves: Whether this process finds that it is time for a save.

        Returns:
            Whether any process was asked to stop, or finds it time for a save.
        """
        flags = torch.tensor([stops, saves], dtype=torch.float64)
        losses = torch.stack([loss.double() for _, loss, _ in self._waiting]).cpu()
        *sums, stops_any, saves_any = self._group.reduce(torch.cat([losses, flags])).tolist()
        for (place, _, lr), total in zip(self._waiting, sums, strict=True):
            if self._last is not None and self._last[0].epoch != place.epoch:
                self.close()
                self._sum, self._count = 0.0, 0
            loss = total / self._group.size
            self._sum += loss
            self._count += 1
            self._last = (place, loss, lr)
            self._tell(place, loss, self._sum / self._count, lr, False)
        self._waiting.clear()
        return stops_any > 0, saves_any > 0

    def close(self) -> None:
        """Tell that the epoch of the last step has ended."""
        if self._last is not None:
            place, loss, lr = self._last
            self._tell(place, loss, self._sum / self._count, lr, True)

    def state(self) -> dict[str, Any]:
        """Return what a save needs; nothing may be waiting."""
        last = None
        if self._last is not None:
            place, loss, lr = self._last
            last = [place.step, place.epoch, place.batch, loss, lr]
        return {"sum": self._sum, "count": self._count, "last": last}

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on from a save."""
        self._sum, self._count = state["sum"], state["count"]
        if state["last"] is not None:
            step, epoch, batch, loss, lr = state["last"]
            self._last = (Place(step, epoch, batch), loss, lr)
