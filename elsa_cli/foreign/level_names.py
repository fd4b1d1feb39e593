"""Which levels sparse checkpoints of other tools are, told by how many weights they keep."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from fractions import Fraction

from elsa_cli.core.level import Level, parse_level
from elsa_cli.errors import NotABundle, UsageError

__all__ = ["name_levels", "shortest_level"]


def shortest_level(kept: int, numel: int, file: str) -> Level:
    """Return the level with the fewest decimals that keeps `kept` of `numel` weights."""
    for digits in range(1, 25):
        value = round(1 - Fraction(kept, numel), digits)
        if 0 < value < 1:
            level = parse_level(str(Decimal(value.numerator) / Decimal(value.denominator)))
            if level.kept(numel) == kept:
                return level
    raise NotABundle(f"keeps {kept:,} of {numel:,} weights, which no level describes", file=file)


def name_levels(
    given: Sequence[Level] | None, kept: Sequence[int], numel: int, files: Sequence[str]
) -> tuple[Level, ...]:
    """Return the level of each sparse checkpoint, sparsest first.

    Args:
        given: The levels that the user named, or None to derive them from the counts.
        kept: The weights that each checkpoint keeps, sparsest first.
        numel: The weights that take part.
        files: The checkpoints, for messages.

    Raises:
        NotABundle: No level describes a count, or two checkpoints have the same one.
        UsageError: There are more or fewer levels than checkpoints.
    """
    if given is None:
        named = [shortest_level(k, numel, file) for k, file in zip(kept, files, strict=True)]
    elif len(given) != len(files):
        raise UsageError(
            f"{len(given)} levels for {len(files)} sparse checkpoints",
            hint="name one level for each",
        )
    else:
        named = sorted(given, reverse=True)
    for k, level in enumerate(named):
        if level in named[:k]:
            raise NotABundle("has the level of another one", file=files[k])
    return tuple(named)
