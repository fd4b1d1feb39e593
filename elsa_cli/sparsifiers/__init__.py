"""Sparsifiers: one method a file, which gives scores and decides nothing.

The file's name is the method's name, and so is its function's: `magnitude.py` defines
`magnitude(chunk)`. It takes a `Chunk` and returns a score for each of its weights: unsigned
integers, or non-negative float32 or float64. Keyword-only parameters are the method's options;
each has an annotation (int, float, str or bool) and a default. `seed` is set by `--seed`, the
others by `--set NAME=VALUE`. The function's docstring cites the method's source.
"""

from __future__ import annotations

import functools
import importlib
import pkgutil
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from elsa_cli.core.settings import read_settings, settings_of
from elsa_cli.errors import UsageError

if TYPE_CHECKING:  # naming the methods, as --help does, needs no numpy
    from elsa_cli.selection.scores import Scorer

__all__ = ["bind", "methods"]


def methods() -> list[str]:
    """Return the names of all methods, found by the files that are there."""
    return sorted(m.name for m in pkgutil.iter_modules(__path__) if not m.name.startswith("_"))


def bind(name: str, settings: Mapping[str, str], seed: int) -> tuple[Scorer, dict[str, Any]]:
    """Return a method's scorer with its options set, and the options.

    Args:
        name: The method's name.
        settings: Options as the user wrote them.
        seed: Given to methods that have a `seed` parameter.

    Raises:
        UsageError: There is no such method or option, or a value cannot be read.
    """
    if name not in methods():
        raise UsageError(f"there is no method {name!r}", hint=f"there are {', '.join(methods())}")
    module = importlib.import_module(f"{__name__}.{name}")
    function = getattr(module, name)
    known = settings_of(function)
    drawn = {"seed": seed} if "seed" in known else {}
    options = read_settings(
        {key: known[key] for key in known if key != "seed"}, settings, f"method {name}"
    )
    return functools.partial(function, **options, **drawn), options
