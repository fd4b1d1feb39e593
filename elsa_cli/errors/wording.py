"""Text that names parameters, spelled for Python here and for the command line by `cli.py`.

The library speaks Python: the hint "leave out clobber=False" helps who called a function. Who typed
a command needs "leave out --no-clobber". So a message keeps the parameters that it names apart from
the text around them:

    hint = Words("leave out {}", Param("clobber", False))
    str(hint)                   "leave out clobber=False"
    hint.spelled(as_options)    "leave out --no-clobber"

A `Words` is a str, the Python spelling, so it goes wherever a text goes. Only `{}` is a field; all
other braces, and whatever a value holds, stay as they are. An f-string around a `Words` loses the
fields: nest one `Words` in another instead.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Self

__all__ = ["Call", "Param", "Words"]

UNSAID: Any = object()


@dataclass(frozen=True)
class Param:
    """A parameter of a public function, or of `TrainOptions`.

    Attributes:
        name: Its name in Python.
        value: The value it has or should have; left out where the name alone is meant.
    """

    name: str
    value: Any = UNSAID

    @property
    def valued(self) -> bool:
        """Whether a value is part of it."""
        return self.value is not UNSAID

    def __str__(self) -> str:
        """Return `clobber=False`, or the name alone."""
        return f"{self.name}={_literal(self.value)}" if self.valued else self.name


@dataclass(frozen=True, init=False)
class Call:
    """A public function, with parameters.

    Attributes:
        name: The function's name.
        params: The parameters that are to be given.
    """

    name: str
    params: tuple[Param, ...]

    def __init__(self, name: str, *params: Param) -> None:
        """Keep both."""
        object.__setattr__(self, "name", name)
        object.__setattr__(self, "params", params)

    def __str__(self) -> str:
        """Return `sparsify(allow_nonfinite=True)`."""
        return f"{self.name}({', '.join(map(str, self.params))})"


def _literal(value: Any) -> str:
    """Return a value as Python source, with double quotes."""
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{_literal(k)}: {_literal(v)}' for k, v in value.items())}}}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_literal, value))}]"
    return str(value)


class Words(str):
    """A text that remembers which parameters and functions it names.

    Args:
        template: The text, with a `{}` for each part.
        parts: A `Param`, a `Call`, another `Words`, or anything that is shown as its text.

    Raises:
        ValueError: There are more or fewer parts than fields.
    """

    __slots__ = ("_given", "parts")

    parts: tuple[str | Param | Call, ...]
    _given: tuple[Any, ...]

    def __new__(cls, template: str, *parts: Any) -> Self:
        """Put the parts into the text."""
        texts = template.split("{}")
        if len(texts) != len(parts) + 1:
            raise ValueError(f"{len(parts)} parts for {len(texts) - 1} fields: {template!r}")
        flat: list[str | Param | Call] = [texts[0]]
        for part, text in zip(parts, texts[1:], strict=True):
            if isinstance(part, Words):
                flat += part.parts
            else:
                flat.append(part if isinstance(part, Param | Call) else str(part))
            flat.append(text)
        words = super().__new__(cls, "".join(map(str, flat)))
        words.parts = tuple(flat)
        words._given = (template, *parts)
        return words

    def __getnewargs__(self) -> tuple[Any, ...]:
        """Return what a copy is made from."""
        return self._given

    def __add__(self, other: str) -> Words:
        """Return both, with the fields of both."""
        return Words("{}{}", self, other)

    def __radd__(self, other: str) -> Words:
        """Return both, with the fields of both."""
        return Words("{}{}", other, self)

    def spelled(self, spell: Callable[[Param | Call], str]) -> str:
        """Return the text, in which parameters and functions are spelled as `spell` says."""
        return "".join(part if isinstance(part, str) else spell(part) for part in self.parts)
