"""Options that commands share, and how reports leave the program."""

from __future__ import annotations

import dataclasses
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import click

from elsa_cli.errors import UsageError
from elsa_cli.text import json_text, printable
from elsa_cli.ui import Screen, count

if TYPE_CHECKING:
    from elsa_cli.operations.chosen import RoleRow

__all__ = [
    "check_stream",
    "checkpoint_argument",
    "choice_options",
    "default_output",
    "output_options",
    "run_options",
    "send",
    "show_roles",
    "shown_options",
    "to_json",
]

F = TypeVar("F", bound=Callable[..., Any])


def checkpoint_argument(name: str) -> Callable[[F], F]:
    """Add the argument that names the input; `-` and none at all mean standard input."""
    return click.argument("checkpoint", metavar=f"[{name}]", required=False)


def run_options(function: F) -> F:
    """Add the options that every command on checkpoints has."""
    verbose = click.option("-v", "--verbose", is_flag=True, help="Show a row for each tensor.")
    threads = click.option(
        "--threads",
        type=click.IntRange(1, 256),
        help="Number of threads.  [default: one a core, 4 at most]",
    )
    return threads(shown_options(verbose(function)))


def shown_options(function: F) -> F:
    """Add the options of what is shown and printed."""
    for option in (
        click.option("--debug", is_flag=True, expose_value=False, help="Show tracebacks."),
        click.option("-q", "--quiet", is_flag=True, help="Show nothing but errors."),
        click.option("--json", "as_json", is_flag=True, help="Print one JSON object."),
    ):
        function = option(function)
    return function


def output_options(what: str) -> Callable[[F], F]:
    """Add the options of commands that write a file.

    Args:
        what: The default output, for the help text.
    """

    def add(function: F) -> F:
        for option in (
            click.option("--force", is_flag=True, help="Let the output replace an input."),
            click.option("--no-clobber", is_flag=True, help="Refuse to replace an existing file."),
            click.option(
                "-o",
                "--output",
                metavar="FILE",
                help=f"Where it goes; - is standard output.  [default: {what}]",
            ),
        ):
            function = option(function)
        return function

    return add


def choice_options(function: F) -> F:
    """Add the options that say which tensors are pruned."""
    for option in (
        click.option(
            "--role",
            "roles",
            multiple=True,
            metavar="NAME=ROLE",
            help="Say what tensors are, by a name or glob: 'decoder.*=head'. Only weights are "
            "pruned. Roles are weight, embedding, head, router, norm, bias, position, constant, "
            "codes, scale and other.",
        ),
        click.option(
            "--exclude",
            multiple=True,
            metavar="NAME",
            help="Leave these tensors dense, by a name or glob.",
        ),
        click.option(
            "--include",
            multiple=True,
            metavar="NAME",
            help="Prune these tensors instead of all weights. A glob takes matrices only; a name "
            "written in full takes any float.",
        ),
    ):
        function = option(function)
    return function


def check_stream(output: str | None, as_json: bool) -> None:
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


def default_output(output: str | None, named: bool) -> str | None:
    """Return the output, which must be given if the input has no name to derive one from.

    Raises:
        UsageError: It is not.
    """
    if output is None and not named:
        raise UsageError(
            "bytes from standard input have no name to derive the output's from",
            hint="give -o FILE, or -o - for standard output",
        )
    return output


def send(screen: Screen, outputs: Sequence[str], payload: dict[str, Any] | None) -> None:
    """Print the result: the paths, a line each, or one JSON object.

    The next program in a pipe gets whatever bytes a name is made of; a terminal gets a text.
    """
    if payload is not None:
        # As bytes: the encoding of standard output is the terminal's affair, that of JSON is not.
        click.echo(json_text(payload).encode())
        return
    terminal = sys.stdout is not None and sys.stdout.isatty()
    for path in outputs:
        if path != "-":
            click.echo(printable(path) if terminal else os.fsencode(path))


def show_roles(screen: Screen, roles: Sequence[RoleRow]) -> None:
    """Show what was left dense, a line a role."""
    if roles:
        screen.table(
            ["left dense", "tensors", "parameters", "largest"],
            [[row.role, count(row.tensors), count(row.parameters), row.example] for row in roles],
            texts=("largest",),
        )


def to_json(value: Any) -> Any:
    """Return a report as what JSON can hold; a level becomes its text."""
    from elsa_cli.core.level import Level

    if isinstance(value, Level):
        return value.text
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: to_json(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(k): to_json(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [to_json(v) for v in value]
    return value
