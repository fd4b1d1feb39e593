"""What people see: tables, warnings and progress bars, all on standard error.

The one importer of rich, and only when there is something to draw.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["Screen", "TrainingLine", "count", "highlight", "listed", "percent", "size"]

BAR_AFTER = 1.0  # seconds; shorter work shows no bar
PLAIN_WIDTH = 200  # columns where there is no terminal, so that no name is cut off in a log
UNITS = ("B", "kB", "MB", "GB", "TB", "PB")


def size(nbytes: int) -> str:
    """Return a number of bytes in decimal units, three digits: 94.9 MB."""
    value, unit = float(nbytes), 0
    while value >= 999.5 and unit < len(UNITS) - 1:
        value, unit = value / 1000, unit + 1
    return f"{nbytes} B" if unit == 0 else f"{value:.3g} {UNITS[unit]}"


def count(number: int) -> str:
    """Return a number with separators."""
    return f"{number:,}"


def listed(names: Sequence[str], most: int = 3) -> str:
    """Return the first names in a line, and how many more there are."""
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {count(more)} more" if more > 0 else "")


def highlight(text: str, colour: str) -> str:
    """Return a text in bold, and in a colour unless NO_COLOR forbids it (no-color.org)."""
    return click.style(text, fg=None if os.environ.get("NO_COLOR") else colour, bold=True)


def percent(fraction: float) -> str:
    """Return a fraction as a percentage with two decimals."""
    return f"{100 * fraction:.2f} %"


class Screen:
    """Standard error, as one run may use it.

    Args:
        quiet: Show nothing but errors.
        verbose: Show details too.
    """

    def __init__(self, *, quiet: bool = False, verbose: bool = False) -> None:
        """Keep the choices."""
        self.quiet = quiet
        self.verbose = verbose

    def _console(self) -> Console:
        from rich.console import Console

        terminal = sys.stderr is not None and sys.stderr.isatty()
        return Console(
            stderr=True,
            width=None if terminal else PLAIN_WIDTH,
            force_terminal=terminal,
            highlight=False,
            legacy_windows=False,
        )

    def table(
        self, columns: Sequence[str], rows: Sequence[Sequence[str]], title: str | None = None
    ) -> None:
        """Draw a table; the first column is text, the others are numbers."""
        if self.quiet:
            return
        from rich import box
        from rich.table import Table
        from rich.text import Text

        table = Table(
            title=None if title is None else Text(title),
            title_justify="left",
            title_style="bold",
            box=box.SIMPLE_HEAD,
            pad_edge=False,
        )
        for at, column in enumerate(columns):
            table.add_column(column, justify="right" if at else "left", overflow="fold")
        for row in rows:
            table.add_row(*(Text(cell) for cell in row))
        self._console().print(table)

    def note(self, text: str) -> None:
        """Show a line."""
        if not self.quiet:
            click.echo(text, err=True)

    def warn(self, text: str) -> None:
        """Show a warning, one line."""
        if not self.quiet:
            click.echo(highlight("Warning: ", "yellow") + text, err=True)

    @contextlib.contextmanager
    def training_line(self) -> Iterator[TrainingLine]:
        """Give a line that says where a training is; it is drawn on a terminal only."""
        line = TrainingLine(self, shown=self._draws())
        try:
            yield line
        finally:
            line.stop()

    def _draws(self) -> bool:
        return not self.quiet and sys.stderr is not None and sys.stderr.isatty()

    @contextlib.contextmanager
    def progress(self, label: str) -> Iterator[Any]:
        """Give a callback for an operation; it draws a bar on a terminal, after a second."""
        bar = _Bar(label, shown=self._draws())
        try:
            yield bar
        finally:
            bar.stop()


class TrainingLine:
    """One line that says where a training is, on a terminal only."""

    def __init__(self, screen: Screen, *, shown: bool) -> None:
        """Draw nothing yet."""
        self._screen = screen
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
        self._drawn.update(self._task, description=what, completed=done, total=total, speed=speed)

    def note(self, text: str) -> None:
        """Show a line of text, above the one that changes."""
        if self._drawn is None:
            self._screen.note(text)
        else:
            self._drawn.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def _start(self, done: int) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        self._drawn = Progress(
            TextColumn("{task.description}"),
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


class _Bar:
    """A progress bar that appears if the work takes long."""

    def __init__(self, label: str, *, shown: bool) -> None:
        self._label = label
        self._shown = shown
        self._began = time.monotonic()
        self._lock = threading.Lock()
        self._done = 0
        self._total: int | None = None
        self._drawn: Any = None
        self._task: Any = None

    def __call__(self, done: int, total: int | None = None) -> None:
        """Add `done` bytes; `total` begins a stage of so many bytes."""
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
