"""What the commands that run a recipe share."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import TypeVar

import click

from elsa_cli.commands._options import Shown, Target, gathered, settings_option
from elsa_cli.commands._session import Find, Session, session
from elsa_cli.errors import Misfit

__all__ = ["Running", "number", "recipe_options", "recipe_session"]

F = TypeVar("F", bound=Callable[..., object])


@dataclass(frozen=True)
class Running:
    """Which recipe is run, and where.

    Attributes:
        recipe: The Python file.
        settings: Its settings.
        device: Where to compute.
        seed: Seed for everything random.
        threads: Threads of torch on the CPU.
    """

    recipe: str
    settings: dict[str, str]
    device: str
    seed: int
    threads: int | None


def recipe_options(function: F) -> F:
    """Add the options that say what is run, and where."""
    return gathered(
        "running",
        Running,
        [
            click.option(
                "--recipe",
                required=True,
                metavar="FILE.py",
                help="Take the model, the data and the loss from this Python file; see "
                "docs/recipes.md.",
            ),
            settings_option("--set", "settings", "Change a setting of the recipe."),
            click.option(
                "--device",
                default="auto",
                show_default=True,
                metavar="auto|cpu|cuda",
                help="Compute on this device; auto takes a GPU if there is one.",
            ),
            click.option(
                "--seed",
                type=click.IntRange(min=0),
                default=0,
                show_default=True,
                help="Seed for everything random.",
            ),
            click.option(
                "--threads",
                type=click.IntRange(1, 1024),
                help="Let torch use this many threads on the CPU.  [default: torch's own]",
            ),
        ],
    )(function)


def number(value: float) -> str:
    """Return a metric or a loss with four or five digits."""
    return f"{value:.5g}" if abs(value) >= 10 else f"{value:.4f}"


@contextlib.contextmanager
def recipe_session(
    label: str, shown: Shown, find: Find, target: Target | None = None
) -> Iterator[Session]:
    """Open a session in which a recipe runs; of several processes, only the first one talks.

    Where the checkpoint does not fit the model, the names of both are shown side by side.

    Args:
        label: What the progress bar says is being done.
        shown: What is shown and printed.
        find: Finds the input, given the screen.
        target: The output; None for a command that writes no file.
    """
    quiet = shown.quiet or os.environ.get("RANK", "0") != "0"
    with session(label, replace(shown, quiet=quiet), find, target, recipe=True) as run:
        try:
            yield run
        except Misfit as error:
            run.screen.table(["only in the checkpoint", "only in the model"], error.pairs)
            raise
