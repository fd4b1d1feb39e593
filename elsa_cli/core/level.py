"""Levels: a sparsity in [0, 1), kept as the exact decimal that the user wrote."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from decimal import Context, Decimal, InvalidOperation
from fractions import Fraction

from elsa_cli.errors import UsageError

__all__ = ["DENSE", "Level", "parse_level", "parse_levels"]


@dataclass(frozen=True, order=True)
class Level:
    """One sparsity level.

    Attributes:
        sparsity: Fraction of prunable weights that are zero, exact, in [0, 1).
        text: Its canonical spelling: `dense`, or a plain decimal such as `0.9`.
    """

    sparsity: Fraction
    text: str = field(compare=False)

    def kept(self, numel: int) -> int:
        """Return round((1 - sparsity) * numel), halves to even, without rounding error."""
        return round((1 - self.sparsity) * numel)

    def __str__(self) -> str:
        """Return the canonical spelling."""
        return self.text


DENSE = Level(Fraction(0), "dense")


def parse_level(text: str) -> Level:
    """Read one level: `0.9`, `.90`, `90%`, `0` or `dense`.

    Raises:
        UsageError: It is not a number, or not in [0, 1).
    """
    word = text.strip()
    if word.lower() == "dense":
        return DENSE
    percent = word.endswith("%")
    try:
        value = Decimal(word.removesuffix("%").strip())
    except InvalidOperation:
        value = Decimal("nan")
    if not value.is_finite() or abs(value.adjusted()) > 50:
        raise UsageError(
            f"{text!r} is not a level", hint="give a sparsity such as 0.9, 90% or dense"
        )
    exact = Context(prec=len(word) + 60)
    if percent:
        value = value.scaleb(-2, exact)
    if not 0 <= value < 1:
        raise UsageError(
            f"level {word} is outside [0, 1)",
            hint="a level is the fraction of weights that are zero, such as 0.9 or 90%",
        )
    if value == 0:
        return DENSE
    return Level(Fraction(value), format(value.normalize(exact), "f"))


def parse_levels(text: str | Iterable[str | float | Level]) -> tuple[Level, ...]:
    """Read a list of levels, sparsest first; `dense` may be among them and comes last.

    Args:
        text: `0.5,0.7,90%`, or an iterable of such words, numbers or levels.

    Raises:
        UsageError: None is given, one cannot be read, or one stands twice.
    """
    words = text.split(",") if isinstance(text, str) else list(text)
    levels = [w if isinstance(w, Level) else parse_level(str(w)) for w in words]
    if not levels:
        raise UsageError("no level is given", hint="give at least one, such as 0.9")
    for level in levels:
        if levels.count(level) > 1:
            raise UsageError(f"level {level} is given twice", hint="name each level once")
    return tuple(sorted(levels, reverse=True))
