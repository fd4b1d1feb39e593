"""What the commands that run a recipe share."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import click

from elsa_cli.errors import Misfit
from elsa_cli.ui import Screen

__all__ = ["explained", "number", "recipe_options", "screen_of"]

F = TypeVar("F", bound=Callable[..., Any])


def recipe_options(function: F) -> F:
    """Add the options that say what is run, and where."""
    for option in (
        click.option(
            "--threads",
            type=click.IntRange(1, 1024),
            help="Threads of torch on the CPU.  [default: torch's own]",
        ),
        click.option(
            "--seed",
            type=click.IntRange(min=0),
            default=0,
            show_default=True,
            help="Of everything random.",
        ),
        click.option(
            "--device",
            default="auto",
            show_default=True,
            metavar="auto|cpu|cuda",
            help="Where to compute; auto takes a GPU if there is one.",
        ),
        click.option(
            "--set",
            "settings",
            multiple=True,
            metavar="NAME=VALUE",
            help="A setting of the recipe.",
        ),
        click.option(
            "--recipe",
            required=True,
            metavar="FILE.py",
            help="Says what the model, the data and the loss are; see docs/recipes.md.",
        ),
    ):
        function = option(function)
    return function


def screen_of(*, quiet: bool) -> Screen:
    """Return the screen: of several processes, only the first one talks."""
    return Screen(quiet=quiet or os.environ.get("RANK", "0") != "0")


def number(value: float) -> str:
    """Return a metric or a loss with four or five digits."""
    return f"{value:.5g}" if abs(value) >= 10 else f"{value:.4f}"


@contextlib.contextmanager
def explained(screen: Screen) -> Iterator[None]:
    """Show the names side by side where a checkpoint does not fit a model."""
    try:
        yield
    except Misfit as error:
        screen.table(["only in the checkpoint", "only in the model"], error.pairs)
        raise
