"""Settings: the keyword-only parameters of a sparsifier or of a recipe's functions.

Each has an annotation (int, float, str or bool) and a default.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from elsa_cli.errors import Param, UsageError, Words

__all__ = ["Setting", "read_settings", "settings_of"]

KINDS = {int: "a whole number", float: "a number", str: "a text", bool: "true or false"}
NAMED: dict[Any, type] = {kind.__name__: kind for kind in KINDS}


@dataclass(frozen=True)
class Setting:
    """One setting: its type and its default."""

    kind: type
    default: Any

    def read(self, name: str, text: str, parameter: str = "settings") -> Any:
        """Return the value that a text stands for.

        Args:
            name: The setting's name, for the error.
            text: The value as the user wrote it.
            parameter: Where settings are given, for the error.

        Raises:
            UsageError: It stands for none.
        """
        try:
            if self.kind is bool:
                return {"true": True, "false": False}[text.lower()]
            return self.kind(text)
        except (ValueError, KeyError):
            raise UsageError(
                Words("{} is not {}", Param(parameter, {name: text}), KINDS[self.kind])
            ) from None


def settings_of(function: Callable[..., Any]) -> dict[str, Setting]:
    """Return the settings of a function.

    Raises:
        TypeError: A keyword-only parameter has no default, or none of the four types.
    """
    found = {}
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind is not inspect.Parameter.KEYWORD_ONLY:
            continue
        # By name where annotations are kept as text: others of them may be for type checkers alone.
        kind = NAMED.get(getattr(parameter.annotation, "__name__", parameter.annotation))
        if kind is None or parameter.default is inspect.Parameter.empty:
            name = getattr(function, "__name__", type(function).__name__)
            raise TypeError(
                f"{_file_of(function)}: in {name}(), {parameter.name} "
                "needs an annotation and a default (an int, float, str or bool)"
            )
        found[parameter.name] = Setting(kind, parameter.default)
    return found


def _file_of(function: Callable[..., Any]) -> str:
    code = getattr(function, "__code__", None)
    return str(sys.modules[function.__module__].__file__) if code is None else code.co_filename


def read_settings(
    known: Mapping[str, Setting],
    given: Mapping[str, str],
    owner: str,
    parameter: str = "settings",
) -> dict[str, Any]:
    """Return the value of every setting: what is given, or the default.

    Args:
        known: All settings.
        given: Values as the user wrote them.
        owner: Whose settings they are, for the error.
        parameter: The parameter of the public functions that gives them, for the error.

    Raises:
        UsageError: There is no such setting, or a value cannot be read.
    """
    unknown = sorted(given.keys() - known.keys())
    if unknown:
        raise UsageError(
            f"{owner} has no option {unknown[0]!r}",
            hint=f"its options are: {', '.join(sorted(known)) or 'none'}",
        )
    return {
        name: setting.read(name, given[name], parameter) if name in given else setting.default
        for name, setting in known.items()
    }
