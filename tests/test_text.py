"""Text that leaves the program: safe on any terminal, strict as JSON."""

from __future__ import annotations

import json
import os
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from elsa_cli.text import json_text, one_line, plain, printable
from tests.helpers import strict_json

ANY = st.text(st.characters(exclude_categories=()))


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("model.layers.0 é 模型 …", "model.layers.0 é 模型 …"),
        ("two  blanks", "two  blanks"),
        ("\x1b[31mred", r"\x1b[31mred"),
        ("\x07\x00\x7f\x08", r"\x07\x00\x7f\x08"),
        ("a\rb\nc\td", r"a\rb\nc\td"),
        ("\x85\x9b2J", r"\x85\x9b2J"),
        ("\u2028\u2029\xa0", r"\u2028\u2029\xa0"),
        ("\u202a\u202e\u2066\u2069\u200f", r"\u202a\u202e\u2066\u2069\u200f"),
        ("\ufeff\u200b\xad", r"\ufeff\u200b\xad"),
        ("\udcff\udc80", r"\xff\x80"),
        ("\ud800\udbff\udfff", r"\ud800\udbff\udfff"),
        ("\U000e0001", r"\U000e0001"),
        ("a\\\x1b", r"a\\x1b"),
    ],
)
def test_what_is_shown(text: str, shown: str) -> None:
    assert printable(text) == shown
    assert one_line(f"a: {text.replace(chr(10), '')}").isprintable()


@given(ANY)
def test_nothing_shown_steers_anything(text: str) -> None:
    for shown in (printable(text), one_line(text)):
        assert shown.isprintable()
        shown.encode()
    assert printable(text) == text or not text.isprintable()


def test_several_lines_become_one() -> None:
    assert one_line("a\n  b\r\n\n c\u2028d\x0be ") == "a b c d e"
    assert one_line("two  blanks: kept") == "two  blanks: kept"


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | ANY,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(ANY, inner, max_size=4),
    max_leaves=12,
)


@given(VALUES)
def test_json_is_strict_whatever_is_in_it(value: Any) -> None:
    text = json_text(value)
    assert text.isprintable()
    assert strict_json(text.encode()) == plain(value)


@given(st.dictionaries(st.text(), st.text() | st.floats(allow_nan=False, allow_infinity=False)))
def test_json_keeps_what_it_can_hold(value: dict[str, Any]) -> None:
    assert json.loads(json_text(value)) == value == plain(value)


def test_what_json_cannot_hold() -> None:
    odd = {"nan": float("nan"), "inf": (float("inf"), [-float("inf"), -0.0]), "é\x9b\U000e0001": 1}
    assert json_text(odd) == (
        r'{"nan": null, "inf": [null, [null, -0.0]], "é\u009b\udb40\udc01": 1}'
    )
    path = os.fsdecode(b"m\xff\xc3\xa9.safetensors")
    assert json.loads(json_text([path, "\ud800"])) == [r"m\xffé.safetensors", r"\ud800"]
    with pytest.raises(TypeError):
        json_text({"no": object()})


def test_readable_text_is_not_escaped() -> None:
    assert json_text(["é 模型"]) == '["é 模型"]'
