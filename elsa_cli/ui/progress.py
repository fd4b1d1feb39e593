"""Progress bars and lines, on a terminal only; rich is imported when one is drawn."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

from elsa_cli.text import printable

__all__ = ["Bar", "TrainingLine"]

BAR_AFTER = 1.0  # seconds; shorter work shows no bar


class TrainingLine:
    """One line that says where a training is, on a terminal only.

    Args:
        note: Shows a line of text where nothing is drawn.
        shown: Whether it may be drawn.
    """

    def __init__(self, note: Callable[[str], None], *, shown: bool) -> None:
        """Draw nothing yet."""
        self._note = note
        self._shown = shown
        self._drawn: Any = None
        self._task: Any = None
        self._began = (0.0, 0)  # when, and after how many steps

    def update(self, what: str, done: int, total: int) -> None:
        """Show a text, how much is done, steps a second and the time left."""
        if not self._shown:
            return
        now = time.monotonic()
        if self._drawn is None:
            self._start(done)
            self._began = (now, done)
        rate = (done - self._began[1]) / (now - self._began[0]) if now > self._began[0] else 0.0
        speed = f"{rate:.3g} steps/s" if rate else ""
        what = printable(what)
        self._drawn.update(self._task, description=what, completed=done, total=total, speed=speed)

    def note(self, text: str) -> None:
        """Show a line of text, above the one that changes."""
        if self._drawn is None:
            self._note(text)
        else:
            self._drawn.console.print(
                printable(text), markup=False, emoji=False, highlight=False, soft_wrap=True
            )

    def _start(self, done: int) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        self._drawn = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=20),
            TextColumn("{task.percentage:>3.0f} %"),
            TextColumn("{task.fields[speed]}"),
            TimeRemainingColumn(),
            TextColumn("left"),
            console=Console(stderr=True, highlight=False),
            transient=True,
        )
        self._task = self._drawn.add_task("", completed=done, speed="")
        self._drawn.start()

    def stop(self) -> None:
        """Take the line off the screen."""
        if self._drawn is not None:
            self._drawn.stop()
            self._drawn = None


class Bar:
    """A progress bar that appears if the work takes long.

    Args:
        label: What is being done.
        shown: Whether it may be drawn.
    """

    def __init__(self, label: str, *, shown: bool) -> None:
        """Draw nothing yet."""
        self._label = label
        self._shown = shown
        self._began = time.monotonic()
        self._lock = threading.Lock()
        self._done = 0
        self._total: int | None = None
        self._drawn: Any = None
        self._task: Any = None

    def __call__(self, done: int, total: int | None = None) -> None:
        """Add `done` bytes; `total` begins a stage of `total` bytes."""
        if not self._shown:
            return
        with self._lock:
            if total is not None:
                self._total, self._done = total, 0
            self._done += done
            if self._drawn is None and time.monotonic() - self._began > BAR_AFTER:
                self._start()
            if self._drawn is not None:
                self._drawn.update(self._task, completed=self._done, total=self._total)

    def _start(self) -> None:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            DownloadColumn,
            Progress,
            TextColumn,
            TimeRemainingColumn,
            TransferSpeedColumn,
        )

        self._drawn = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            DownloadColumn(),
            TransferSpeedColumn(),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            transient=True,
        )
        self._task = self._drawn.add_task(self._label, total=self._total, completed=self._done)
        self._drawn.start()

    def stop(self) -> None:
        """Take the bar off the screen."""
        with self._lock:
            self._shown = False
            if self._drawn is not None:
                self._drawn.stop()
