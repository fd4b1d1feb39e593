"""Scales over FP8 codes: how they lie, how they are expanded, what is kept by |code · scale|."""

from __future__ import annotations

import math
import tempfile
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from elsa_cli.core.dtypes import DTYPES
from elsa_cli.core.floats import to_float
from elsa_cli.core.level import parse_levels
from elsa_cli.errors import NonFinite
from elsa_cli.selection.masks import Rule
from elsa_cli.selection.scaled import Factors, Grid, fit_scale
from elsa_cli.storage.container import Container
from tests.helpers import BITS, FLOATS, Tensor, encode_floats, random_bits, write_safetensors
from tests.selection.reference import (
    absolute,
    assert_nested,
    assert_same_masks,
    chosen_masks,
    layer_masks,
    ranked_masks,
)

Shape = tuple[int, ...]
Floats = NDArray[np.float64]

FITS: list[tuple[Shape, Shape, str, Shape, Shape]] = [
    # weight, scale, dtype, shape of the grid, block
    ((), (), "F32", (), ()),
    ((), (1,), "F32", (), ()),
    ((8, 16), (), "F32", (1, 1), (8, 16)),
    ((8, 16), (1,), "F32", (1, 1), (8, 16)),
    ((8, 16), (1, 1, 1), "BF16", (1, 1), (8, 16)),
    ((8, 16), (8,), "F32", (8, 1), (1, 16)),
    ((8, 16), (8, 1), "F32", (8, 1), (1, 16)),
    ((8, 16), (8, 1, 1), "F32", (8, 1), (1, 16)),
    ((8, 16), (1, 16), "F32", (1, 16), (8, 1)),
    ((8, 8), (8,), "F32", (8, 1), (1, 8)),  # rows, where it could be columns
    ((5, 8, 16), (5,), "F32", (5, 1, 1), (1, 8, 16)),
    ((5, 8, 16), (5, 1, 1), "F32", (5, 1, 1), (1, 8, 16)),
    ((5, 8, 16), (5, 8), "F32", (5, 8, 1), (1, 1, 16)),
    ((5, 8, 16), (5, 8, 1), "F32", (5, 8, 1), (1, 1, 16)),
    ((5, 8, 16), (5, 1, 16), "F32", (5, 1, 16), (1, 8, 1)),
    ((64, 8, 3, 3), (64, 1, 1, 1), "F32", (64, 1, 1, 1), (1, 8, 3, 3)),
    ((64, 8, 3, 3), (64,), "F32", (64, 1, 1, 1), (1, 8, 3, 3)),
    ((300, 200), (3, 2), "F32", (3, 2), (128, 128)),
    ((256, 300), (2, 3), "F32", (2, 3), (128, 128)),
    ((128, 256), (1, 2), "F32", (1, 2), (128, 128)),
    ((4, 300, 200), (4, 3, 2), "BF16", (4, 3, 2), (1, 128, 128)),
    ((300, 200), (10, 7), "F32", (10, 7), (32, 32)),
    ((7, 256), (7, 8), "F8_E8M0", (7, 8), (1, 32)),
    ((7, 256), (7, 8), "U8", (7, 8), (1, 32)),
    ((7, 250), (7, 8), "U8", (7, 8), (1, 32)),
    ((7, 32), (7, 1), "U8", (7, 1), (1, 32)),
    ((7, 256), (7, 16), "F32", (7, 16), (1, 16)),
    ((100, 60), (5, 3), "F32", (5, 3), (20, 20)),  # no usual side, but an even one
    ((256, 1536), (2, 3), "F32", (2, 3), (128, 512)),  # blocks that are no squares
]


@pytest.mark.parametrize(("weight", "scale", "dtype", "shape", "block"), FITS)
def test_how_a_scale_lies(
    weight: Shape, scale: Shape, dtype: str, shape: Shape, block: Shape
) -> None:
    grid = fit_scale(weight, scale, DTYPES[dtype])
    assert grid == Grid(shape, block)
    for size, side, count in zip(weight, block, shape, strict=True):
        assert -(-size // side) == count


@pytest.mark.parametrize(
    ("weight", "scale", "dtype"),
    [
        ((), (2,), "F32"),
        ((8, 16), (16,), "F32"),
        ((8, 16), (3,), "F32"),
        ((8, 16), (8, 3), "F32"),
        ((8, 16), (0, 16), "F32"),
        ((8, 16), (16, 8), "F32"),
        ((8, 16), (2, 8, 16), "F32"),
        ((5, 8, 16), (8,), "F32"),
        ((5, 8, 16), (8, 16), "F32"),
        ((300, 200), (4, 2, 1, 7), "F32"),
        ((7, 256), (7, 2), "U8"),  # bytes that are powers of two stand for 32 weights each
        ((7, 256), (7, 1), "U8"),
        ((7, 256), (1,), "U8"),
        ((7, 256), (7, 256), "U8"),
    ],
)
def test_scales_that_do_not_fit(weight: Shape, scale: Shape, dtype: str) -> None:
    assert fit_scale(weight, scale, DTYPES[dtype]) is None


def expanded(scale: Floats, weight: Shape, grid: Grid) -> Floats:
    """Return a scale for each weight, by repeating along one dimension after the other."""
    scale = scale.reshape(grid.shape)
    for dim, (side, size) in enumerate(zip(grid.block, weight, strict=True)):
        scale = np.repeat(scale, side, axis=dim).take(range(size), axis=dim)
    return scale.reshape(-1)


def values_of(dtype: str, data: bytes) -> Floats:
    """Return the magnitudes of scales, decoded by hand."""
    if dtype in ("U8", "F8_E8M0"):
        return np.array([2.0 ** (code - 127) for code in data])
    return absolute(dtype, data)


@pytest.mark.parametrize(("weight", "scale", "dtype", "shape", "block"), FITS)
@given(data=st.data())
def test_factors_like_the_whole_expanded(
    weight: Shape, scale: Shape, dtype: str, shape: Shape, block: Shape, data: st.DataObject
) -> None:
    rng = np.random.default_rng(data.draw(st.integers(0, 9)))
    count = math.prod(scale)
    if dtype in ("U8", "F8_E8M0"):
        raw = rng.integers(100, 140, count, np.uint8).tobytes()
    else:
        raw = random_bits(rng, dtype, scale, "normal")
    numel = math.prod(weight)
    start = data.draw(st.integers(0, numel - 1))
    size = data.draw(st.integers(1, numel - start))
    with tempfile.TemporaryDirectory() as folder:
        tensors: list[Tensor] = [
            ("s", dtype, scale, raw),
            ("w", "F8_E4M3", weight, bytes(numel)),
        ]
        write_safetensors(Path(folder) / "m", tensors)
        with Container(Path(folder) / "m") as container:
            by_name = {t.name: t for t in container.tensors}
            factors = Factors(container, by_name["s"], by_name["w"], Grid(shape, block))
            found = factors.take(start, size)
    assert found.dtype == np.float64
    whole = expanded(values_of(dtype, raw), weight, Grid(shape, block))
    np.testing.assert_array_equal(found, whole[start : start + size])


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16", "F64"])
def test_scales_that_are_not_finite(bad: float, dtype: str, tmp_path: Path) -> None:
    scales = np.array([1.0, bad, 2.0, 1.0])
    check_refused(tmp_path, dtype, encode_floats(dtype, scales).tobytes(), (4, 1), (4, 32))


@pytest.mark.parametrize("dtype", ["F8_E8M0", "U8"])
def test_a_power_of_two_that_is_nan(dtype: str, tmp_path: Path) -> None:
    check_refused(tmp_path, dtype, bytes([127, 255, 127, 127]), (4, 1), (4, 32))


@pytest.mark.parametrize(("dtype", "code"), [("F8_E4M3", 0x7F), ("F8_E5M2", 0x7D)])
def test_an_fp8_scale_that_is_nan(dtype: str, code: int, tmp_path: Path) -> None:
    check_refused(tmp_path, dtype, bytes([0x30, code, 0x30, 0x30]), (4, 1), (4, 32))


def check_refused(folder: Path, dtype: str, raw: bytes, scale: Shape, weight: Shape) -> None:
    tensors: list[Tensor] = [
        ("a.weight", "F8_E4M3", weight, bytes(math.prod(weight))),
        ("a.weight_scale", dtype, scale, raw),
    ]
    with pytest.raises(NonFinite, match=r"among the scales of a\.weight") as caught:
        chosen_masks(folder / "m", tensors, "0.5")
    assert caught.value.tensor == "a.weight_scale"


# -- Choice ---------------------------------------------------------------------------------------

LEVELS = "0,0.25,0.5,0.9,0.99"


def mixed(rng: np.random.Generator, kind: str) -> tuple[list[Tensor], dict[str, Floats]]:
    """Return a network of FP8 with every kind of scale beside others, and its true magnitudes."""
    layers: list[tuple[str, str, Shape, str, Shape]] = [
        ("a", "F8_E4M3", (16, 24), "F32", ()),
        ("b", "F8_E5M2", (16, 24), "F32", (16, 1)),
        ("c", "F8_E4M3", (16, 24), "BF16", (1, 24)),
        ("d", "F8_E5M2", (40, 150), "F16", (1, 2)),
        ("e", "F8_E4M3", (12, 70), "F8_E8M0", (12, 3)),
        ("f", "F8_E4M3", (12, 70), "U8", (12, 3)),
        ("g", "F8_E4M3FNUZ", (3, 6, 8), "F32", (3, 6, 1)),
        ("h", "F8_E5M2FNUZ", (3, 6, 8), "F32", (3,)),
    ]
    tensors: list[Tensor] = []
    truth = {}
    for name, dtype, shape, of_scale, scale in layers:
        codes = random_bits(rng, dtype, shape, kind)
        if of_scale in ("F8_E8M0", "U8"):
            raw = rng.integers(120, 130, math.prod(scale), np.uint8).tobytes()
        else:
            signed = rng.standard_normal(math.prod(scale)) * 0.3
            raw = encode_floats(of_scale, signed).tobytes()
        grid = fit_scale(shape, scale, DTYPES[of_scale])
        assert grid is not None
        tensors += [(f"{name}.weight", dtype, shape, codes)]
        tensors += [(f"{name}.weight_scale", of_scale, scale, raw)]
        factors = expanded(values_of(of_scale, raw), shape, grid)
        truth[f"{name}.weight"] = absolute(dtype, codes) * factors
    for name, dtype in (("i", "BF16"), ("j", "F32"), ("k", "F8_E4M3"), ("l", "F16")):
        data = random_bits(rng, dtype, (20, 30), kind)
        tensors.append((f"{name}.weight", dtype, (20, 30), data))
        truth[f"{name}.weight"] = absolute(dtype, data)
    return tensors, truth


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("kind", ["normal", "ties", "weird"])
def test_all_compete_by_code_times_scale(kind: str, threads: int, tmp_path: Path) -> None:
    tensors, truth = mixed(np.random.default_rng(3), kind)
    numel = sum(values.size for values in truth.values())
    counts = [level.kept(numel) for level in parse_levels(LEVELS)]
    masks = chosen_masks(tmp_path / "m", tensors, LEVELS, threads=threads)
    assert_same_masks(masks, ranked_masks(truth, counts))
    assert_nested(masks)


@pytest.mark.parametrize("kind", ["normal", "ties"])
def test_each_layer_by_code_times_scale(kind: str, tmp_path: Path) -> None:
    tensors, truth = mixed(np.random.default_rng(4), kind)
    levels = parse_levels(LEVELS)
    masks = chosen_masks(tmp_path / "m", tensors, LEVELS, Rule.of("layer", None, None))
    expected = [
        layer_masks(truth, {name: level.kept(v.size) for name, v in truth.items()})
        for level in levels
    ]
    assert_same_masks(masks, expected)


def test_groups_by_code_times_scale(tmp_path: Path) -> None:
    """A scale for each column changes which of a group is the best."""
    codes = encode_floats("F8_E4M3", np.tile([4.0, 3.0, 2.0, 1.0], 8)).tobytes()
    scale = np.tile(np.array([1, 2, 4, 8], "<f4"), 1).tobytes()
    tensors: list[Tensor] = [
        ("a.weight", "F8_E4M3", (8, 4), codes),
        ("a.weight_scale", "F32", (1, 4), scale),
    ]
    (mask,) = chosen_masks(tmp_path / "m", tensors, "0.5", Rule.of(None, None, 4))
    assert mask["a.weight"].reshape(8, 4).tolist() == [[False, False, True, True]] * 8


def test_the_product_is_exact(tmp_path: Path) -> None:
    """Codes and scales whose products differ in the last of 28 bits, and in float32 not at all."""
    codes = encode_floats("F8_E4M3", np.array([1.125, 1.0] * 16)).tobytes()
    one = np.float32(1 + 2**-23)
    other = np.float32(float(one) * 1.125)
    assert Fraction(float(other)) != Fraction(float(one)) * Fraction(9, 8)
    assert np.float32(np.float32(1.125) * one) == other
    larger = Fraction(float(other)) > Fraction(float(one)) * Fraction(9, 8)
    tensors: list[Tensor] = [
        ("a.weight", "F8_E4M3", (2, 16), codes),
        ("a.weight_scale", "F32", (), one.tobytes()),
        ("b.weight", "F32", (2, 8), np.full(16, other, "<f4").tobytes()),
    ]
    (mask,) = chosen_masks(tmp_path / "m", tensors, "0.75")  # 12 of 48
    assert mask["a.weight" if not larger else "b.weight"].sum() == 12


def test_case_of_a_public_report(tmp_path: Path) -> None:
    """FP8 with a scale beside BF16 of the same distribution: each keeps about its share."""
    rng = np.random.default_rng(0)
    one, two = rng.standard_normal((2, 256, 256)) * 0.02
    scale = np.abs(one).max() / 448
    tensors: list[Tensor] = [
        (
            "a.weight",
            "F8_E4M3",
            (256, 256),
            encode_floats("F8_E4M3", one.reshape(-1) / scale).tobytes(),
        ),
        ("a.weight_scale", "F32", (1,), np.array([scale], "<f4").tobytes()),
        ("b.weight", "BF16", (256, 256), encode_floats("BF16", two.reshape(-1)).tobytes()),
    ]
    (mask,) = chosen_masks(tmp_path / "m", tensors, "0.5")
    assert 0.45 < mask["a.weight"].mean() < 0.55
    assert mask["a.weight"].sum() + mask["b.weight"].sum() == 65536


# -- Values of raw bits ---------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", FLOATS)
def test_values_of_finite_bits(dtype: str) -> None:
    data = random_bits(np.random.default_rng(0), dtype, (500,), "weird")
    bits = np.frombuffer(data, f"<u{BITS[dtype] // 8}")
    sign = bits >> (BITS[dtype] - 1) == 1
    found = to_float(bits, DTYPES[dtype])
    np.testing.assert_array_equal(np.abs(found), absolute(dtype, data))
    np.testing.assert_array_equal(found < 0, sign & (found != 0))


@pytest.mark.parametrize(
    ("dtype", "bits", "infinite"),
    [
        ("F64", 0x7FF0_0000_0000_0000, True),
        ("F64", 0x7FF0_0000_0000_0001, False),
        ("F32", 0x7F80_0000, True),
        ("F32", 0x7FC0_0000, False),
        ("F16", 0x7C00, True),
        ("F16", 0x7C01, False),
        ("BF16", 0x7F80, True),
        ("BF16", 0x7F81, False),
        ("F8_E5M2", 0x7C, True),
        ("F8_E5M2", 0x7D, False),
        ("F8_E5M2", 0x7F, False),
        ("F8_E4M3", 0x7F, False),
        ("F8_E4M3", 0xFF, False),
        ("F8_E4M3FNUZ", 0x80, False),
        ("F8_E5M2FNUZ", 0x80, False),
        ("F8_E8M0", 0xFF, False),
    ],
)
def test_values_that_are_not_finite(dtype: str, bits: int, infinite: bool) -> None:
    (value,) = to_float(np.array([bits], f"<u{BITS[dtype] // 8}"), DTYPES[dtype])
    assert np.isinf(value) if infinite else np.isnan(value)


def test_powers_of_two() -> None:
    codes = np.arange(255, dtype=np.uint8)
    found = to_float(codes, DTYPES["F8_E8M0"])
    assert [Fraction(v) for v in found.tolist()] == [
        Fraction(2) ** (code - 127) for code in range(255)
    ]
