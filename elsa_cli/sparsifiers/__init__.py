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
import inspect
import pkgutil
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, get_type_hints

from elsa_cli.errors import UsageError

if TYPE_CHECKING:  # naming the methods, as --help does, needs no numpy
    from elsa_cli.selection.scan import Scorer

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
    hints = get_type_hints(function)
    options: dict[str, Any] = {}
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind is not inspect.Parameter.KEYWORD_ONLY:
            continue
        if parameter.name not in hints or parameter.default is inspect.Parameter.empty:
            raise TypeError(
                f"{module.__file__}: {parameter.name} needs an annotation and a default"
            )
        options[parameter.name] = parameter.default
    drawn = {"seed": seed} if "seed" in options else {}
    unknown = sorted(settings.keys() - (options.keys() - {"seed"}))
    if unknown:
        known = ", ".join(sorted(options.keys() - {"seed"})) or "none"
        raise UsageError(
            f"method {name} has no option {unknown[0]!r}", hint=f"its options are: {known}"
        )
    for key, text in settings.items():
        options[key] = _read(key, text, hints[key])
    options |= drawn
    return functools.partial(function, **options), {k: v for k, v in options.items() if k != "seed"}


def _read(key: str, text: str, kind: type) -> Any:
    """Read an option's value."""
    try:
        if kind is bool:
            return {"true": True, "false": False}[text.lower()]
        return kind(text)
    except (ValueError, KeyError):
        raise UsageError(f"--set {key}={text}: not a {kind.__name__}") from None
