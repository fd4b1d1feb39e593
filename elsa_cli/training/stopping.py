"""Signals that ask a training to stop: the first lets it save, the second ends it at once."""

from __future__ import annotations

import contextlib
import signal
import threading
from types import FrameType
from typing import Any, Self

__all__ = ["SIGNALS", "StopSignals"]

# Ctrl-C; the end of a login; the signals that batch systems send before they end a job.
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)


class StopSignals(contextlib.AbstractContextManager["StopSignals"]):
    """While it is entered, remembers a signal instead of ending the process.

    Signals that are ignored stay so, as SIGHUP is under nohup.

    Attributes:
        signal: The signal that came, or 0.
    """

    def __init__(self) -> None:
        """Begin with no signal."""
        self.signal = 0
        self._before: dict[int, Any] = {}

    @property
    def asked(self) -> bool:
        """Whether a signal came."""
        return self.signal != 0

    def _remember(self, signum: int, _: FrameType | None) -> None:
        self.signal = signum
        signal.signal(signum, self._before[signum])

    def __enter__(self) -> Self:
        """Install the handlers; Python allows that in the main thread only."""
        if threading.current_thread() is threading.main_thread():
            for signum in SIGNALS:
                handler = signal.getsignal(signum)
                if handler not in (signal.SIG_IGN, None):
                    self._before[signum] = signal.signal(signum, self._remember)
        return self

    def __exit__(self, *_: object) -> None:
        """Put the handlers from before back."""
        for signum, handler in self._before.items():
            signal.signal(signum, handler)
