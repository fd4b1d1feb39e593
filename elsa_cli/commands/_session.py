"""What every command does around its one operation: the screen, the input, the result."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import click

from elsa_cli.commands._input import Input
from elsa_cli.commands._options import Shown, Target
from elsa_cli.commands._wording import Speller
from elsa_cli.errors import UsageError
from elsa_cli.text import json_text, printable
from elsa_cli.ui import Screen

__all__ = ["Session", "session"]

Find = Callable[[Screen], AbstractContextManager[Input | None]]


class Session:
    """One run of a command.

    Attributes:
        screen: Standard error.
        spell: Spells parameters that a text names as options.
        progress: A callback for the operation; it draws a bar.
        source: The input; None if there is none.

    Args:
        screen: Standard error.
        source: The input; None if there is none.
        target: The output that is asked for; None for a command that writes no file.
        progress: A callback for the operation.
        as_json: Whether the result is printed as JSON.
    """

    def __init__(
        self,
        screen: Screen,
        source: Input | None,
        target: Target | None,
        progress: Any,
        *,
        as_json: bool,
    ) -> None:
        """Keep them."""
        self.screen = screen
        self.spell = Speller.current()
        self.progress = progress
        self.source = source
        self._target = target
        self._as_json = as_json

    @property
    def path(self) -> str:
        """Where the input is opened."""
        assert self.source is not None
        return self.source.path

    @property
    def named(self) -> bool:
        """Whether the input has a name; bytes from standard input have none."""
        return self.source is not None and self.source.named

    @property
    def output(self) -> str | None:
        """The output; None where its name is derived from the input's.

        Raises:
            UsageError: The input has no name to derive one from.
        """
        output = None if self._target is None else self._target.output
        if output is None and self.source is not None and not self.source.named:
            raise UsageError(
                "bytes from standard input have no name to derive the output's from",
                hint="give -o FILE, or -o - for standard output",
            )
        return output

    def warn(self, warnings: Sequence[str]) -> None:
        """Show warnings, a line each."""
        for line in warnings:
            self.screen.warn(self.spell.text(line))

    def send(self, outputs: Sequence[str], report: Any, **more: Any) -> None:
        """Print the result: the paths, a line each, or one JSON object.

        The next program in a pipe gets whatever bytes a name is made of; a terminal gets a text.

        Args:
            outputs: The paths; `-` is left out.
            report: What the operation returned.
            more: Further fields of the JSON object.
        """
        if self._as_json:
            # As bytes: JSON is UTF-8, whatever the encoding of standard output is.
            click.echo(json_text({**self._plain(report), **more}).encode())
            return
        terminal = sys.stdout is not None and sys.stdout.isatty()
        for path in outputs:
            if path != "-":
                click.echo(printable(path) if terminal else os.fsencode(path))

    def send_input(self, report: Any, **more: Any) -> None:
        """Print the path of the input, for the next command in a pipe, or one JSON object."""
        self.send([self.path] if self.named else [], report, **more)

    def _plain(self, value: Any) -> Any:
        """Return a report as what JSON can hold; a level becomes its text."""
        from elsa_cli.core.level import Level

        if isinstance(value, Level):
            return value.text
        if isinstance(value, str):
            return self.spell.text(value)
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            fields = dataclasses.fields(value)
            return {f.name: self._plain(getattr(value, f.name)) for f in fields}
        if isinstance(value, Mapping):
            return {str(k): self._plain(v) for k, v in value.items()}
        if isinstance(value, list | tuple):
            return [self._plain(v) for v in value]
        return value


@contextlib.contextmanager
def session(
    label: str,
    shown: Shown,
    find: Find | None = None,
    target: Target | None = None,
    *,
    recipe: bool = False,
) -> Iterator[Session]:
    """Open what a command needs while its operation runs; afterwards it shows and sends.

    Args:
        label: What the progress bar says is being done.
        shown: What is shown and printed.
        find: Finds the input, given the screen; None if the command finds its inputs itself.
        target: The output; None for a command that writes no file.
        recipe: Whether a recipe's model is run.

    Raises:
        UsageError: The output cannot go where it is asked for, or there is no input.
        InputError: The input does not exist.
    """
    if not recipe:  # numpy starts a thread a core for linear algebra, which is not needed here
        os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    screen = Screen(quiet=shown.quiet, verbose=shown.verbose)
    if target is not None:
        _check_stream(target.output, as_json=shown.as_json)
    with contextlib.ExitStack() as stack:
        source = None if find is None else stack.enter_context(find(screen))
        progress = stack.enter_context(screen.progress(label))
        yield Session(screen, source, target, progress, as_json=shown.as_json)


def _check_stream(output: str | None, *, as_json: bool) -> None:
    """Refuse what would mix bytes into something else.

    Raises:
        UsageError: See the messages.
    """
    if output == "-" and as_json:
        raise UsageError("-o - and --json both need standard output", hint="leave out one of them")
    if output == "-" and sys.stdout is not None and sys.stdout.isatty():
        raise UsageError(
            "standard output is a terminal", hint="redirect it, or name a file with -o"
        )
