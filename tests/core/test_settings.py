"""Settings: keyword-only parameters, and the texts that set them."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import pytest

from elsa_cli.core.settings import Setting, read_settings, settings_of
from elsa_cli.errors import UsageError

if TYPE_CHECKING:
    from fractions import Fraction


def example(
    model: object,
    /,
    batch: int = 3,
    *rest: str,
    rate: float = 0.1,
    name: str = "a",
    on: bool = True,
) -> None:
    """Have settings, and parameters that are none."""


def without(model: object, batch: int = 3) -> None:
    """Have none."""


KNOWN = {
    "rate": Setting(float, 0.1),
    "name": Setting(str, "a"),
    "on": Setting(bool, True),
    "count": Setting(int, 7),
}


def test_settings_are_the_keyword_only_parameters() -> None:
    found = settings_of(example)
    assert found == {name: KNOWN[name] for name in ("rate", "name", "on")}
    assert settings_of(without) == {}


def test_settings_of_a_wrapped_function() -> None:
    @functools.wraps(example)
    def wrapped(*args: Any, **kwargs: Any) -> None:
        """Be the other."""

    assert settings_of(wrapped) == settings_of(example)


def no_default(*, x: int) -> None: ...
def no_annotation(*, x=1) -> None: ...  # type: ignore[no-untyped-def]
def wrong_kind(*, x: list[int] | None = None) -> None: ...
def may_be_none(*, x: int | None = None) -> None: ...


@pytest.mark.parametrize("function", [no_default, no_annotation, wrong_kind, may_be_none])
def test_settings_need_one_of_four_types_and_a_default(function: Any) -> None:
    with pytest.raises(TypeError, match=rf"test_settings.py: in {function.__name__}\(\), x needs"):
        settings_of(function)


def test_an_annotation_of_no_concern_may_be_known_to_type_checkers_alone() -> None:
    def loss(batch: Fraction, *, rate: float = 0.1) -> Fraction:
        return batch

    assert settings_of(loss) == {"rate": KNOWN["rate"]}


class Made:
    """A class, and its objects that can be called, as a recipe may use them."""

    def __init__(self, *, rate: float = 0.1) -> None:
        """Have a setting."""

    def __call__(self, model: object, *, on: bool = True) -> None:
        """Have another."""


class Bare:
    """Objects that lack an annotation."""

    def __call__(self, model: object, *, x=1) -> None:  # type: ignore[no-untyped-def]
        """Have a setting of no type."""


def test_settings_of_classes_and_objects() -> None:
    assert settings_of(Made) == {"rate": KNOWN["rate"]}
    assert settings_of(Made()) == {"on": KNOWN["on"]}
    with pytest.raises(TypeError, match="x needs an annotation and a default"):
        settings_of(Bare())


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("count", "12", 12),
        ("count", "-1", -1),
        ("rate", "1e-3", 1e-3),
        ("rate", "2", 2.0),
        ("name", "", ""),
        ("name", "a=b", "a=b"),
        *[("on", text, True) for text in ("true", "True", "TRUE")],
        *[("on", text, False) for text in ("false", "False")],
    ],
)
def test_values(name: str, text: str, value: object) -> None:
    found = read_settings(KNOWN, {name: text}, "recipe r.py")
    assert found == {**{k: s.default for k, s in KNOWN.items()}, name: value}
    assert type(found[name]) is KNOWN[name].kind


@pytest.mark.parametrize(
    ("name", "text"),
    [("count", "1.5"), ("count", "a"), ("rate", "fast"), ("on", "1"), ("on", "yes"), ("on", "")],
)
def test_values_that_cannot_be_read(name: str, text: str) -> None:
    kind = {"count": "a whole number", "rate": "a number", "on": "true or false"}[name]
    for parameter in ("settings", "recipe_settings"):
        with pytest.raises(UsageError) as caught:
            read_settings(KNOWN, {name: text}, "recipe r.py", parameter)
        assert str(caught.value) == f'{parameter}={{"{name}": "{text}"}} is not {kind}'


def test_an_unknown_setting_names_those_there_are() -> None:
    with pytest.raises(UsageError) as caught:
        read_settings(KNOWN, {"lr": "1", "rate": "1"}, "recipe r.py")
    assert str(caught.value) == (
        "recipe r.py has no option 'lr'; its options are: count, name, on, rate"
    )
    with pytest.raises(UsageError, match=r"its options are: none$"):
        read_settings({}, {"lr": "1"}, "recipe r.py")
