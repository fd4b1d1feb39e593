"""How many weights each layer keeps, when every layer has a count of its own.

A distribution is a function of the layers' shapes and the density of the whole network; it
returns a density for each layer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction
from math import prod

from elsa_cli.core.level import Level

__all__ = ["DISTRIBUTIONS", "erk", "layer_counts", "uniform"]

Shape = tuple[int, ...]


def uniform(shapes: Sequence[Shape], density: Fraction) -> list[Fraction]:
    """Give every layer the same density."""
    return [density for _ in shapes]


def erk(shapes: Sequence[Shape], density: Fraction) -> list[Fraction]:
    """Give layer l the density epsilon * sum(dims) / prod(dims), at most 1.

    Erdős–Rényi-Kernel (Evci et al., Rigging the Lottery, arXiv 1911.11134). Layers that would
    exceed 1 are dense, and epsilon is solved again for the others.

    Args:
        shapes: Shape of each layer's weight, (out, in) or (out, in, kh, kw).
        density: Kept fraction of all weights together, in (0, 1].

    Returns:
        The density of each layer; exact fractions, so layers nest from level to level.
    """
    sizes = [prod(shape) for shape in shapes]
    raw = [Fraction(sum(shape), prod(shape)) for shape in shapes]
    dense: set[int] = set()
    while True:
        left = density * sum(sizes) - sum(sizes[i] for i in dense)
        weight = sum((raw[i] * sizes[i] for i in range(len(sizes)) if i not in dense), Fraction(0))
        epsilon = left / weight if weight else Fraction(0)
        over = {i for i in range(len(sizes)) if i not in dense and epsilon * raw[i] > 1}
        if not over:
            return [Fraction(1) if i in dense else epsilon * raw[i] for i in range(len(sizes))]
        dense |= over


DISTRIBUTIONS: dict[str, Callable[[Sequence[Shape], Fraction], list[Fraction]]] = {
    "uniform": uniform,
    "erk": erk,
}


def layer_counts(name: str, shapes: Sequence[Shape], level: Level) -> list[int]:
    """Return the kept weights of each layer: round(density * weights), halves to even."""
    densities = DISTRIBUTIONS[name](shapes, 1 - level.sparsity)
    counts: dict[tuple[int, int], int] = {}  # many layers are alike, and fractions are slow
    for density, shape in zip(densities, shapes, strict=True):
        key = (id(density), prod(shape))
        if key not in counts:
            counts[key] = round(density * key[1])
    return [counts[id(d), prod(shape)] for d, shape in zip(densities, shapes, strict=True)]
