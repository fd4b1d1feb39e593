"""Text that leaves the program: safe on any terminal, and strict as JSON.

Names come from files that others made. A tensor, a metadata key or a path can hold escape
sequences, characters that reverse the direction of a line, or bytes that are no text at all.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["counted", "json_text", "listed", "one_line", "plain", "printable"]

LONE = re.compile("[\ud800-\udfff]")
ESCAPED_BYTES = range(0xDC80, 0xDD00)  # how Python spells the bytes of a path that are no UTF-8


def printable(text: str) -> str:
    r"""Return a text that cannot steer a terminal: `\x1b` for an escape, `\u202e` for an override.

    Control characters, line breaks, overrides of the direction, invisible characters, lone
    surrogates and whatever else Unicode calls not printable are shown as escapes; a byte of a path
    that is no UTF-8 is shown as `\xff`.
    """
    return text if text.isprintable() else "".join(map(_shown, text))


def _shown(character: str) -> str:
    if character.isprintable():
        return character
    if LONE.match(character):
        return _without_surrogates(character)
    return character.encode("unicode_escape").decode()


def one_line(text: str) -> str:
    """Return a text of several lines as one, printable."""
    lines = (line.strip() for line in text.splitlines())
    return printable(" ".join(line for line in lines if line))


def _without_surrogates(text: str) -> str:
    r"""Spell out what UTF-8 cannot hold: `\xff` for a byte of a path, `\ud800` for the rest."""

    def spell(found: re.Match[str]) -> str:
        code = ord(found[0])
        return f"\\x{code - 0xDC00:02x}" if code in ESCAPED_BYTES else f"\\u{code:04x}"

    return LONE.sub(spell, text)


def plain(value: Any) -> Any:
    r"""Return a value of dicts, lists, texts and numbers as strict JSON can hold it.

    A number that is not finite becomes None. A text keeps all that UTF-8 can hold; a byte of a
    path that is none becomes the four characters `\xff`.
    """
    if isinstance(value, str):
        return _without_surrogates(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {_without_surrogates(str(k)): plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    return value


def json_text(value: Any) -> str:
    r"""Return a value as strict JSON in one line, valid as UTF-8 and safe on a terminal.

    See `plain` for what JSON cannot hold. What is not printable is written as JSON's own escapes,
    which every parser turns back.
    """
    text = json.dumps(plain(value), ensure_ascii=False, allow_nan=False)
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else json.dumps(c)[1:-1] for c in text)


def counted(number: int, noun: str) -> str:
    """Return a number of things: 1 tensor, 1,200 tensors."""
    return f"{number:,} {noun}" + ("" if number == 1 else "s")


def listed(names: Sequence[str], most: int = 3) -> str:
    """Return names with commas between them, and how many more there are: a, b, c and 5 more."""
    shown = ", ".join(names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most:,} more"
