"""Options that several commands share, each group collected into one value.

`gathered` adds a group of options to a command and hands their values over as one argument:

    @gathered("target", Target, [click.option("-o", "--output"), click.option("--force")])
    def command(target: Target) -> None: ...

The name of an option's parameter is the name of the parameter of the public function, or `no_` and
that name for a flag that turns something off: the messages depend on it (`_wording.py`).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import click

from elsa_cli.errors import UsageError

__all__ = [
    "Choice",
    "Numbers",
    "Shown",
    "Target",
    "checkpoint_argument",
    "choice_options",
    "gathered",
    "output_options",
    "settings_option",
    "shown_options",
    "threads_option",
]

F = TypeVar("F", bound=Callable[..., Any])
Decorator = Callable[[F], F]


def gathered(
    name: str, make: Callable[..., Any], options: Sequence[Callable[[Any], Any]]
) -> Callable[[F], F]:
    """Add options whose values reach the command as one argument.

    Args:
        name: The command's parameter.
        make: Makes the argument from the values, by their names.
        options: The options, in the order of the help.
    """
    params = click.command()(_declare(lambda: None, options)).params
    names = [p.name for p in params if p.name and p.expose_value]

    def add(function: F) -> Any:
        @functools.wraps(function)  # copies the options that were added so far, too
        def collected(**values: Any) -> Any:
            taken = {key: values.pop(key) for key in names}
            return function(**{name: make(**taken)}, **values)

        return _declare(collected, options)

    return add


def _declare(function: Any, options: Sequence[Callable[[Any], Any]]) -> Any:
    """Add options to a function: the last one first, as decorators that stand above it are."""
    for option in reversed(options):
        function = option(function)
    return function


@dataclass(frozen=True)
class Shown:
    """What is shown on the screen and printed.

    Attributes:
        as_json: Print one JSON object.
        quiet: Show nothing but errors.
        verbose: Show details; None if the command has no such option.
    """

    as_json: bool
    quiet: bool
    verbose: bool | None = None


@dataclass(frozen=True)
class Target:
    """Where the output goes.

    Attributes:
        output: The file, `-` for standard output, or None for the default.
        clobber: Replace an existing file.
        force: Let the output replace an input.
    """

    output: str | None
    clobber: bool
    force: bool

    def policy(self) -> dict[str, bool]:
        """Return what may be replaced, as parameters of an operation."""
        return {"clobber": self.clobber, "force": self.force}


@dataclass(frozen=True)
class Choice:
    """Which levels are made, and which tensors take part.

    Attributes:
        levels: The levels as the user wrote them, or None.
        include: Names or globs of tensors to prune.
        exclude: Names or globs of tensors to leave dense.
        roles: NAME=ROLE pairs.
    """

    levels: str | None
    include: tuple[str, ...]
    exclude: tuple[str, ...]
    roles: tuple[str, ...]


class Numbers(click.ParamType):  # type: ignore[type-arg, unused-ignore]  # generic since 8.4
    """One number, or several with commas between them.

    Args:
        kind: int or float.
    """

    name = "numbers"

    def __init__(self, kind: type[int] | type[float]) -> None:
        """Keep the kind."""
        self._kind = kind

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[float, ...]:
        """Return the numbers.

        Raises:
            UsageError: The text is something else.
        """
        try:
            return tuple(self._kind(word) for word in value.split(","))
        except ValueError:
            kinds = "whole numbers" if self._kind is int else "numbers"
            raise UsageError(
                f"{_opt(param)} {value}: not {kinds} with commas between them",
                hint="give one value, or one for each level",
            ) from None


def _opt(param: click.Parameter | None) -> str:
    assert param is not None
    return param.opts[0]


def _pairs(_: click.Context, param: click.Parameter, texts: Sequence[str]) -> dict[str, str]:
    """Split NAME=VALUE texts.

    Raises:
        UsageError: One of them has another form.
    """
    split = [text.partition("=") for text in texts]
    for name, equals, value in split:
        if not equals or not name:
            raise UsageError(f"{_opt(param)} {name}{equals}{value}: not NAME=VALUE")
    return {name: value for name, _, value in split}


def settings_option(flag: str, name: str, help: str) -> Callable[[F], F]:
    """Add an option that takes NAME=VALUE, several times; its value is a dict.

    Args:
        flag: The option.
        name: The parameter.
        help: The help text.
    """
    return click.option(flag, name, multiple=True, metavar="NAME=VALUE", callback=_pairs, help=help)


def checkpoint_argument(name: str) -> Callable[[F], F]:
    """Add the argument that names the input; `-` and none at all mean standard input."""
    return click.argument("checkpoint", metavar=f"[{name}]", required=False)


def threads_option(function: F) -> F:
    """Add the number of threads that read, compute and write."""
    return click.option(
        "--threads",
        type=click.IntRange(1, 256),
        help="Use this many threads.  [default: one for each core, at most 4]",
    )(function)


def shown_options(details: str | None = None) -> Callable[[F], F]:
    """Add the options that say what is shown and printed.

    Args:
        details: The help text of `--verbose`; None for a command without this option.
    """
    more = [click.option("-v", "--verbose", is_flag=True, help=details)]
    return gathered(
        "shown",
        Shown,
        [
            click.option("--json", "as_json", is_flag=True, help="Print one JSON object."),
            click.option("-q", "--quiet", is_flag=True, help="Show nothing but errors."),
            click.option(
                "--debug",
                is_flag=True,
                expose_value=False,
                help="Show the Python traceback of an error.",
            ),
            *(more if details else []),
        ],
    )


def _target(output: str | None, no_clobber: bool, force: bool) -> Target:
    return Target(output, not no_clobber, force)


def output_options(default: str) -> Callable[[F], F]:
    """Add the options of commands that write a file.

    Args:
        default: The default output, for the help text.
    """
    return gathered(
        "target",
        _target,
        [
            click.option(
                "-o",
                "--output",
                metavar="FILE",
                help=f"Write the output to FILE; - means standard output.  [default: {default}]",
            ),
            click.option("--no-clobber", is_flag=True, help="Refuse to replace an existing file."),
            click.option("--force", is_flag=True, help="Let the output replace an input."),
        ],
    )


def choice_options(levels: str, *, required: bool) -> Callable[[F], F]:
    """Add the options that say which levels are made and which tensors are pruned.

    Args:
        levels: The help text of `--levels`.
        required: Whether levels have to be given.
    """
    return gathered(
        "choice",
        Choice,
        [
            click.option("--levels", required=required, metavar="LEVELS", help=levels),
            click.option(
                "--include",
                multiple=True,
                metavar="NAME",
                help="Prune the tensors of this name or glob instead of all weights. A glob takes "
                "matrices only; a name written in full takes any float tensor.",
            ),
            click.option(
                "--exclude",
                multiple=True,
                metavar="NAME",
                help="Leave the tensors of this name or glob dense.",
            ),
            click.option(
                "--role",
                "roles",
                multiple=True,
                metavar="NAME=ROLE",
                help="Say what the tensors of a name or glob are: 'decoder.*=head'. Only weights "
                "are pruned. The roles are weight, embedding, head, router, norm, bias, position, "
                "constant, codes, scale and other.",
            ),
        ],
    )
