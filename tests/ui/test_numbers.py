"""Numbers and lists of names."""

from __future__ import annotations

import pytest

from elsa_cli.ui import count, listed, percent, size


@pytest.mark.parametrize(
    ("nbytes", "text"),
    [
        (0, "0 B"),
        (1, "1 B"),
        (999, "999 B"),
        (1000, "1 kB"),
        (1234, "1.23 kB"),
        (99_949, "99.9 kB"),
        (999_499, "999 kB"),
        (999_500, "1 MB"),
        (94_900_000, "94.9 MB"),
        (102_400_000_000, "102 GB"),
        (10**12, "1 TB"),
        (5 * 10**18, "5e+03 PB"),
    ],
)
def test_size(nbytes: int, text: str) -> None:
    assert size(nbytes) == text


def test_percent_and_count() -> None:
    assert [percent(f) for f in (0, 0.1, 0.12345, 1)] == [
        "0.00 %",
        "10.00 %",
        "12.35 %",
        "100.00 %",
    ]
    assert count(25_502_912) == "25,502,912"


@pytest.mark.parametrize(
    ("names", "text"),
    [
        ([], ""),
        (["a"], "a"),
        (["a", "b", "c"], "a, b, c"),
        (["a", "b", "c", "d"], "a, b, c and 1 more"),
        (["a"] * 2003, "a, a, a and 2,000 more"),
    ],
)
def test_a_list_of_names(names: list[str], text: str) -> None:
    assert listed(names) == text
    assert listed(names, 5000) == ", ".join(names)
