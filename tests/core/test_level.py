from __future__ import annotations

from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from elsa_cli.core.level import DENSE, Level, parse_level, parse_levels
from elsa_cli.errors import UsageError


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("0.9", "0.9"),
        (".9", "0.9"),
        ("0.90", "0.9"),
        ("00.9", "0.9"),
        (" 0.9 ", "0.9"),
        ("+0.9", "0.9"),
        ("9e-1", "0.9"),
        ("90%", "0.9"),
        ("90 %", "0.9"),
        ("99.95%", "0.9995"),
        ("0.5%", "0.005"),
        ("1e-7", "0.0000001"),
        ("0.333333333333333333333333333333", "0.333333333333333333333333333333"),
        ("dense", "dense"),
        ("DENSE", "dense"),
        ("0", "dense"),
        ("0.0", "dense"),
        ("-0", "dense"),
        ("0%", "dense"),
    ],
)
def test_spellings(text: str, canonical: str) -> None:
    level = parse_level(text)
    assert str(level) == level.text == canonical
    assert level.sparsity == (0 if canonical == "dense" else Fraction(canonical))
    assert parse_level(level.text) == level


@given(st.decimals(0, Decimal("0." + "9" * 40), places=40))
@example(Decimal("0." + "9" * 40))
@example(Decimal("0." + "1" * 40))
def test_round_trip(value: Decimal) -> None:
    level = parse_level(format(value, "f"))
    assert level.sparsity == Fraction(value)
    again = parse_level(level.text)
    assert (again.sparsity, again.text) == (level.sparsity, level.text)


@given(st.decimals(0, Decimal("99." + "9" * 38), places=38))
@example(Decimal("99." + "9" * 38))
def test_percent_is_exact(value: Decimal) -> None:
    assert parse_level(format(value, "f") + "%").sparsity == Fraction(value) / 100


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "x",
        "0,9",
        "0.9.1",
        "nan",
        "inf",
        "-inf",
        "sNaN",
        "%",
        "0x1",
        "1e-60",
        "1e999999999",
    ],
)
def test_what_is_no_number(text: str) -> None:
    with pytest.raises(UsageError, match="is not a level; give a sparsity") as caught:
        parse_level(text)
    assert repr(text) in str(caught.value)


@pytest.mark.parametrize("text", ["1", "1.0", "100%", "-0.1", "2", "90", "-1e-9", "dense%"])
def test_what_is_out_of_range(text: str) -> None:
    with pytest.raises(UsageError):
        parse_level(text)


def test_kept_is_exact_and_rounds_halves_to_even() -> None:
    assert parse_level("0.9").kept(10**18) == 10**17
    assert [parse_level("0.5").kept(n) for n in (1, 2, 3, 5, 7)] == [0, 1, 2, 2, 4]
    assert [parse_level("0.3").kept(n) for n in (0, 1, 10, 100)] == [0, 1, 7, 70]
    assert parse_level("0.1").kept(3) == 3
    assert DENSE.kept(17) == 17


@given(st.integers(0, 10**12), st.integers(0, 10**6 - 1), st.integers(0, 10**6 - 1))
def test_kept_falls_with_sparsity(numel: int, a: int, b: int) -> None:
    low, high = sorted((a, b))
    sparse, dense = parse_level(f"{Decimal(high) / 10**6}"), parse_level(f"{Decimal(low) / 10**6}")
    assert 0 <= sparse.kept(numel) <= dense.kept(numel) <= numel


def test_levels_are_ordered_sparsest_first_with_dense_last() -> None:
    levels = parse_levels("0.5, dense,90%,.7")
    assert [str(level) for level in levels] == ["0.9", "0.7", "0.5", "dense"]
    assert parse_levels(["0.5", 0.7, parse_level("0.9"), 0]) == levels
    assert parse_levels([0.1]) == parse_levels("0.1")


def test_equal_levels_have_equal_hashes() -> None:
    assert {parse_level("0.9"), parse_level("90%")} == {Level(Fraction(9, 10), "0.9")}


@pytest.mark.parametrize("text", ["0.5,0.50", "0,dense", "50%,0.7,0.5"])
def test_a_level_given_twice(text: str) -> None:
    with pytest.raises(UsageError, match="twice"):
        parse_levels(text)


@pytest.mark.parametrize("levels", ["", ",", "0.5,", "0.5,,0.7", []])
def test_no_level(levels: str | list[str]) -> None:
    with pytest.raises(UsageError):
        parse_levels(levels)
