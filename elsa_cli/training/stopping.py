"""Signals that ask a training to stop: it ends its step and saves; a second one ends it at once."""

from __future__ import annotations

import contextlib
import signal
import threading
from types import FrameType, TracebackType
from typing import Any, Self

__all__ = ["SIGNALS", "StopSignals"]

# Ctrl-C; the end of a session; what batch systems send before they end a job.
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)


class StopSignals(contextlib.AbstractContextManager["StopSignals"]):
    """Remembers signals instead of dying from them, while it is entered.

    What is ignored stays ignored, as SIGHUP is under nohup.

    Attributes:
        number: The signal that came, or 0.
    """

    def __init__(self) -> None:
        """Begin with no signal."""
        self.number = 0
        self._before: dict[int, Any] = {}

    @property
    def asked(self) -> bool:
        """Whether a signal came."""
        return self.number != 0

    def _hear(self, number: int, _: FrameType | None) -> None:
        self.number = number
        signal.signal(number, self._before[number])

    def __enter__(self) -> Self:
        """Take the signals; only the main thread can."""
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                handler = signal.getsignal(number)
                if handler not in (signal.SIG_IGN, None):
                    self._before[number] = signal.signal(number, self._hear)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Give the signals back."""
        for number, handler in self._before.items():
            signal.signal(number, handler)
