"""Standard error: tables, lines, warnings."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Collection, Iterator, Sequence
from typing import Any

import click

from elsa_cli.text import printable
from elsa_cli.ui.numbers import count
from elsa_cli.ui.progress import Bar, TrainingLine

__all__ = ["Screen", "highlight"]

MOST_ROWS = 40  # rows of a table on a terminal, where lines that scroll away are lost
PLAIN_TERMINALS = ("dumb", "unknown")  # as in rich


def highlight(text: str, colour: str) -> str:
    """Return a text in bold, and in a colour unless NO_COLOR forbids it (no-color.org)."""
    return click.style(text, fg=None if os.environ.get("NO_COLOR") else colour, bold=True)


def _on_terminal() -> bool:
    return sys.stderr is not None and sys.stderr.isatty()


def _width() -> int:
    """Return the columns of the terminal."""
    wanted = os.environ.get("COLUMNS", "")
    if wanted.isdecimal() and int(wanted):
        return int(wanted)
    try:
        return os.get_terminal_size(sys.stderr.fileno()).columns or 80
    except (OSError, ValueError):
        return 80


def _bold(text: str) -> str:
    return text if os.environ.get("TERM") in PLAIN_TERMINALS else click.style(text, bold=True)


class Screen:
    """Standard error, as one run may use it.

    Texts may come from a file; escapes keep them from steering the terminal.

    Args:
        quiet: Show nothing but errors.
        verbose: Show details too; None if the command has no such option.
    """

    def __init__(self, *, quiet: bool = False, verbose: bool | None = None) -> None:
        """Keep the choices."""
        self.quiet = quiet
        self.verbose = verbose

    def table(
        self,
        columns: Sequence[str],
        rows: Sequence[Sequence[str]],
        title: str | None = None,
        texts: Collection[str] = (),
    ) -> None:
        """Draw a table; the first column is text and so are those in `texts`, others are numbers.

        On a terminal, a long one is cut to its first and its last rows, unless the user asked for
        details. Elsewhere every row is there, in one line.
        """
        if self.quiet or sys.stderr is None:
            return
        from elsa_cli.ui.tables import draw

        terminal, gap = _on_terminal(), None
        if terminal and not self.verbose and len(rows) > MOST_ROWS:
            half = MOST_ROWS // 2
            how = "redirect standard error to see" if self.verbose is None else "-v shows"
            gap = (half, f"… {count(len(rows) - 2 * half)} more rows; {how} them all")
            rows = [*rows[:half], *rows[-half:]]
        lines = draw(
            columns,
            rows,
            title=title,
            texts=texts,
            width=_width() if terminal else None,
            gap=gap,
            bold=_bold if terminal else str,
            rule="─" if "utf" in (getattr(sys.stderr, "encoding", None) or "utf").lower() else "-",
        )
        click.echo("\n".join(lines), err=True)

    def note(self, text: str) -> None:
        """Show a line."""
        if not self.quiet:
            click.echo(printable(text), err=True)

    def warn(self, text: str) -> None:
        """Show a warning, one line."""
        if not self.quiet:
            click.echo(highlight("Warning: ", "yellow") + printable(text), err=True)

    def problem(self, text: str) -> None:
        """Show a line that belongs to an error, also under `--quiet`."""
        click.echo(printable(text), err=True)

    def _draws(self) -> bool:
        return not self.quiet and _on_terminal()

    @contextlib.contextmanager
    def training_line(self) -> Iterator[TrainingLine]:
        """Give a line that says where a training is; it is drawn on a terminal only."""
        line = TrainingLine(self.note, shown=self._draws())
        try:
            yield line
        finally:
            line.stop()

    @contextlib.contextmanager
    def progress(self, label: str) -> Iterator[Any]:
        """Give a callback for an operation; it draws a bar on a terminal, after a second."""
        bar = Bar(label, shown=self._draws())
        try:
            yield bar
        finally:
            bar.stop()
