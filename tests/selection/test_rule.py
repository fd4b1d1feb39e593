"""Scope, distribution and group: what goes together."""

from __future__ import annotations

import pytest

from elsa_cli.errors import UsageError
from elsa_cli.selection.masks import Rule


@pytest.mark.parametrize(
    ("scope", "distribution", "group", "expected"),
    [
        (None, None, None, Rule("global")),
        ("global", None, None, Rule("global")),
        ("layer", None, None, Rule("layer", "uniform")),
        (None, "erk", None, Rule("layer", "erk")),
        ("layer", "erk", None, Rule("layer", "erk")),
        (None, None, 4, Rule("layer", "uniform", 4)),
        ("layer", "uniform", 2, Rule("layer", "uniform", 2)),
    ],
)
def test_what_is_left_open(
    scope: str | None, distribution: str | None, group: int | None, expected: Rule
) -> None:
    assert Rule.of(scope, distribution, group) == expected


@pytest.mark.parametrize(
    ("scope", "distribution", "group", "message"),
    [
        ("global", "erk", None, 'scope="layer"'),
        ("global", "uniform", None, 'scope="layer"'),
        ("global", None, 4, 'leave out scope="global"'),
        (None, "erk", 4, 'distribution="erk"'),
        (None, None, 1, "2 or more"),
        (None, None, 0, "2 or more"),
        (None, None, -4, "2 or more"),
        ("row", None, None, "no scope 'row'"),
        (None, "er", None, "no distribution 'er'"),
    ],
)
def test_what_contradicts(
    scope: str | None, distribution: str | None, group: int | None, message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        Rule.of(scope, distribution, group)
