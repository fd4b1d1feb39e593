"""Densities of layers against published and derived numbers."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from math import prod

import pytest
from hypothesis import given
from hypothesis import strategies as st

from elsa_cli.core.level import parse_level
from elsa_cli.selection.density import DISTRIBUTIONS, erk, layer_counts, uniform
from tests.selection.reference import half_even

Shapes = list[tuple[int, ...]]
LENET: Shapes = [(300, 784), (100, 300), (10, 100)]


def resnet50() -> dict[str, tuple[int, ...]]:
    """Return the convolutions and the classifier of ResNet-50 for 1,000 classes."""
    shapes: dict[str, tuple[int, ...]] = {"conv1": (64, 3, 7, 7)}
    wide = 64
    for stage, (width, blocks) in enumerate([(64, 3), (128, 4), (256, 6), (512, 3)], 1):
        for block in range(blocks):
            at = f"layer{stage}.{block}"
            shapes[f"{at}.conv1"] = (width, wide, 1, 1)
            shapes[f"{at}.conv2"] = (width, width, 3, 3)
            shapes[f"{at}.conv3"] = (4 * width, width, 1, 1)
            if block == 0:
                shapes[f"{at}.downsample.0"] = (4 * width, wide, 1, 1)
            wide = 4 * width
    shapes["fc"] = (1000, 2048)
    return shapes


def total(shapes: Sequence[tuple[int, ...]], densities: Sequence[Fraction]) -> Fraction:
    """Return how many weights the densities keep, not rounded."""
    return sum((d * prod(s) for d, s in zip(densities, shapes, strict=True)), Fraction(0))


@pytest.mark.parametrize(
    ("density", "expected"),
    [("0.1", [0.07957, 0.23019, 1.0]), ("0.05", [0.03848, 0.11133, 0.91851])],
)
def test_erk_of_lenet(density: str, expected: list[float]) -> None:
    assert [float(d) for d in erk(LENET, Fraction(density))] == pytest.approx(expected, abs=5e-6)


def test_erk_of_resnet50() -> None:
    shapes = resnet50()
    sizes = [prod(s) for s in shapes.values()]
    assert sum(sizes) == 25_502_912
    densities = dict(zip(shapes, erk(list(shapes.values()), Fraction("0.1")), strict=True))
    assert [name for name, d in densities.items() if d == 1] == ["layer1.0.conv1"]
    for name, expected in [("conv1", 0.4200), ("layer4.2.conv2", 0.0213), ("fc", 0.0726)]:
        assert float(densities[name]) == pytest.approx(expected, abs=5e-5), name
    kept = layer_counts("erk", list(shapes.values()), parse_level("0.9"))
    assert abs(sum(kept) - sum(sizes) / 10) <= len(sizes) / 2
    # Published accounting: 4 bytes a kept weight, a bit a weight, 27,560 others in fp32.
    assert (4 * sum(kept) + sum(sizes) / 8 + 4 * 27_560) / 1e6 == pytest.approx(13.499, abs=5e-4)


@pytest.mark.parametrize(("level", "ratio"), [("0.8", 0.4138), ("0.9", 0.2418), ("0.95", 0.1217)])
def test_flops_of_resnet50_with_erk(level: str, ratio: float) -> None:
    shapes = resnet50()
    side = {"conv1": 112, "layer1": 56, "layer2": 28, "layer3": 14, "layer4": 7, "fc": 1}
    every = 0
    kept = Fraction(0)
    densities = erk(list(shapes.values()), 1 - Fraction(level))
    for (name, shape), density in zip(shapes.items(), densities, strict=True):
        stage = name.split(".")[0]
        pixels = side[stage] ** 2
        # The stride of a stage is in the second convolution of its first block.
        if name.endswith(".0.conv1") and stage in ("layer2", "layer3", "layer4"):
            pixels *= 4
        every += pixels * prod(shape)
        kept += density * pixels * prod(shape)
    assert float(kept / every) == pytest.approx(ratio, abs=5e-5)


SHAPES = st.lists(
    st.lists(st.integers(1, 60), min_size=2, max_size=4).map(tuple), min_size=1, max_size=8
)
DENSITIES = st.fractions(Fraction(1, 1000), Fraction(1))


@given(SHAPES, DENSITIES)
def test_erk_keeps_the_density_of_the_whole(shapes: Shapes, density: Fraction) -> None:
    densities = erk(shapes, density)
    assert all(0 < d <= 1 for d in densities)
    assert total(shapes, densities) == density * sum(map(prod, shapes))
    # Sparse layers share one epsilon; dense ones would need more than 1 with it.
    raw = [Fraction(sum(s), prod(s)) for s in shapes]
    epsilon = {d / r for d, r in zip(densities, raw, strict=True) if d < 1}
    assert len(epsilon) <= 1
    for d, r in zip(densities, raw, strict=True):
        assert d < 1 or all(e * r >= 1 for e in epsilon)


@given(SHAPES, DENSITIES, DENSITIES)
def test_denser_levels_keep_more_in_every_layer(
    shapes: Shapes, one: Fraction, other: Fraction
) -> None:
    low, high = sorted((one, other))
    for distribution in DISTRIBUTIONS.values():
        pairs = zip(distribution(shapes, low), distribution(shapes, high), strict=True)
        assert all(a <= b for a, b in pairs)


def test_uniform() -> None:
    assert uniform(LENET, Fraction(1, 3)) == [Fraction(1, 3)] * 3
    level = parse_level("0.5")
    shapes: Shapes = [(1, 1), (1, 3), (1, 5), (1, 7)]
    # 0.5, 1.5, 2.5 and 3.5 weights, halves to even.
    assert layer_counts("uniform", shapes, level) == [0, 2, 2, 4]


@given(st.integers(1, 10**12), st.integers(0, 9999))
def test_kept_weights_of_a_level(numel: int, sparsity: int) -> None:
    level = parse_level(f"{sparsity}e-4")
    assert level.kept(numel) == half_even(numel * (10_000 - sparsity), 10_000)
