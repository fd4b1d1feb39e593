"""Rows of a weight norm keep a weight each: champions against loops, and the whole choice."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from elsa_cli.core.dtypes import DTYPES, Bits
from elsa_cli.core.hashing import position_hash
from elsa_cli.core.level import parse_levels
from elsa_cli.errors import UsageError
from elsa_cli.selection.masks import Rule
from elsa_cli.selection.naming import Siblings
from elsa_cli.selection.rows import Champions, normed_dims
from elsa_cli.selection.scores import Chunk
from elsa_cli.storage.container import TensorSpec, lay_out
from tests.helpers import Tensor, encode_floats, random_bits
from tests.selection.reference import (
    Mask,
    absolute,
    assert_nested,
    assert_same_masks,
    chosen_masks,
    hashes,
    layer_masks,
    ranked_masks,
)

Shape = tuple[int, ...]
Floats = NDArray[np.float64]


def rows_of(shape: Shape, dim: int | None) -> NDArray[np.int64]:
    """Return the row of each weight, (numel,)."""
    if dim is None:
        return np.zeros(prod(shape), np.int64)
    return np.asarray(np.indices(shape)[dim].reshape(-1), np.int64)


def champions_of(
    scores: NDArray[np.generic], shape: Shape, dim: int | None, first: int
) -> set[int]:
    """Return the best of each row by a loop; ties by the hash of the position."""
    best: dict[int, int] = {}
    order = hashes(first + scores.size)[first:]
    for at, row in enumerate(rows_of(shape, dim).tolist()):
        if row not in best or (scores[at], order[at]) > (scores[best[row]], order[best[row]]):
            best[row] = at
    return set(best.values())


CASES: list[tuple[Shape, int | None]] = [
    ((6, 8), 0),
    ((6, 8), 1),
    ((6, 8), None),
    ((5, 4, 3), 0),
    ((5, 4, 3), 1),
    ((5, 4, 3), 2),
    ((5, 4, 3), None),
    ((1, 7), 0),
    ((7, 1), 0),
    ((2, 3, 2, 5), 2),
]


@pytest.mark.parametrize("kind", ["distinct", "ties", "constant", "zeros", "nan"])
@pytest.mark.parametrize("step", [1, 3, 8, 1000])
@pytest.mark.parametrize(("shape", "dim"), CASES)
def test_champions_like_the_loop(shape: Shape, dim: int | None, step: int, kind: str) -> None:
    rng = np.random.default_rng(1)
    numel, first = prod(shape), 1000
    keys: Bits = {
        "distinct": rng.permutation(numel),
        "ties": rng.integers(0, 3, numel),
        "constant": np.full(numel, 7),
        "zeros": np.zeros(numel),
        "nan": rng.choice([0x7FC0_0000, 0x7FC0_0001, 5], numel),
    }[kind].astype("<u4")
    champions = Champions(shape, dim)
    starts = list(range(0, numel, step))
    rng.shuffle(starts)
    for start in starts:
        champions.see(
            start,
            keys[start : start + step],
            lambda where, start=start: position_hash(
                where.astype(np.uint64) + np.uint64(first + start)
            ),
        )
    champions.done()
    expected = champions_of(keys, shape, dim, first)
    assert champions.count == len(expected)
    for start in starts:
        part = keys[start : start + step]
        before = part.copy()
        lifted = champions.lift(start, part)
        np.testing.assert_array_equal(part, before)
        found = {start + int(at) for at in np.flatnonzero(lifted != part)}
        assert found == {at for at in expected if start <= at < start + step}
        assert (lifted[lifted != part] > keys.max()).all()


@pytest.mark.parametrize("dtype", ["<u1", "<u2", "<u4", "<u8"])
def test_champions_come_first_whatever_the_keys(dtype: str) -> None:
    """Keys of sparsifiers may be any integers, the largest included."""
    top = np.iinfo(dtype).max
    keys = np.array([[top, top, top - 1], [0, 1, 2], [top // 2 + 1, 0, 0]], dtype)
    champions = Champions((3, 3), 0)
    champions.see(0, keys.reshape(-1), lambda where: where.astype(np.uint64))
    champions.done()
    lifted = champions.lift(0, keys.reshape(-1))
    assert set(np.flatnonzero(lifted == lifted.max()).tolist()) == {1, 5, 6}


def test_which_tensors_are_normed() -> None:
    shapes: dict[str, Shape] = {
        "a.weight_v": (8, 4, 3),
        "a.weight_g": (8, 1, 1),
        "b.parametrizations.weight.original1": (8, 4, 3),
        "b.parametrizations.weight.original0": (1, 1, 3),
        "c.weight_v": (8, 4),
        "c.weight_g": (),
        "d.weight_v": (1, 4),
        "d.weight_g": (1, 1),
        "e.weight_v": (8, 4),  # alone
        "f.parametrizations.weight.original": (8, 4),
        "g.weight_v": (8,),
        "g.weight_g": (1,),
        "rnn.weight_hh_l0_weight_v": (8, 4),
        "rnn.weight_hh_l0_weight_g": (8, 1),
        "weight_v": (8, 4),
        "weight_g": (1, 4),
        "weight": (8, 4),
    }
    tensors = lay_out(TensorSpec(name, DTYPES["F32"], shape) for name, shape in shapes.items())
    assert normed_dims(tensors, Siblings(tensors)) == {
        "a.weight_v": 0,
        "b.parametrizations.weight.original1": 2,
        "c.weight_v": None,
        "d.weight_v": None,
        "rnn.weight_hh_l0_weight_v": 0,
        "weight_v": 1,
    }


# -- Choice ---------------------------------------------------------------------------------------

# Name, companion, shape, shape of the companion, the dimension of the rows.
NORMS: list[tuple[str, str, Shape, Shape, int | None]] = [
    ("a.weight_v", "a.weight_g", (12, 5, 3), (12, 1, 1), 0),
    (
        "b.parametrizations.weight.original1",
        "b.parametrizations.weight.original0",
        (6, 20),
        (1, 20),
        1,
    ),
    ("c.weight_v", "c.weight_g", (9, 9), (), None),
]
LEVELS = "0,0.5,0.8,0.93"


def network(dtype: str, kind: str, seed: int = 0) -> tuple[list[Tensor], dict[str, Floats]]:
    """Return weight norms, of which some rows are far smaller than all else, and a plain layer."""
    rng = np.random.default_rng(seed)
    tensors: list[Tensor] = []
    scores = {}
    for name, companion, shape, small, dim in NORMS:
        data = random_bits(rng, dtype, shape, kind)
        if kind == "normal":
            rows = rows_of(shape, dim)
            values = rng.standard_normal(prod(shape)) * 10.0 ** -(rows % 4)
            data = encode_floats(dtype, values).tobytes()
        tensors.append((name, dtype, shape, data))
        tensors.append((companion, dtype, small, random_bits(rng, dtype, small, "normal")))
        scores[name] = absolute(dtype, data)
    data = random_bits(rng, dtype, (40, 20), kind)
    tensors.append(("d.weight", dtype, (40, 20), data))
    scores["d.weight"] = absolute(dtype, data)
    return tensors, scores


def with_champions(scores: Mapping[str, Floats]) -> dict[str, Floats]:
    """Return scores in which the best of each row comes before all others."""
    above = max(float(s.max()) for s in scores.values()) * 2 + 1
    found, at = {}, 0
    kinds = {name: (shape, dim) for name, _, shape, _, dim in NORMS}
    for name in sorted(scores):
        found[name] = scores[name].copy()
        if name in kinds:
            best = list(champions_of(scores[name], *kinds[name], at))
            found[name][best] = above
        at += scores[name].size
    return found


def assert_rows_live(masks: list[dict[str, Mask]]) -> None:
    for mask in masks:
        for name, _, shape, _, dim in NORMS:
            kept = np.bincount(rows_of(shape, dim), mask[name])
            assert (kept >= 1).all(), name


@pytest.mark.parametrize("direct", [1, 1 << 22])
@pytest.mark.parametrize("kind", ["normal", "ties", "constant", "weird"])
@pytest.mark.parametrize("dtype", ["F32", "BF16", "F64", "F8_E4M3", "F8_E5M2FNUZ"])
def test_every_row_keeps_a_weight(dtype: str, kind: str, direct: int, tmp_path: Path) -> None:
    tensors, scores = network(dtype, kind)
    numel = sum(s.size for s in scores.values())
    counts = [level.kept(numel) for level in parse_levels(LEVELS)]
    masks = chosen_masks(tmp_path / "m", tensors, LEVELS, direct=direct)
    assert_same_masks(masks, ranked_masks(with_champions(scores), counts))
    assert [sum(int(m.sum()) for m in mask.values()) for mask in masks] == counts
    assert_nested(masks)
    assert_rows_live(masks)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("kind", ["normal", "ties"])
def test_in_each_layer(kind: str, threads: int, tmp_path: Path) -> None:
    tensors, scores = network("F32", kind)
    levels = "0.3,0.8"
    masks = chosen_masks(
        tmp_path / "m", tensors, levels, Rule.of("layer", None, None), threads=threads
    )
    lifted = with_champions(scores)
    expected = [
        layer_masks(lifted, {name: level.kept(s.size) for name, s in scores.items()})
        for level in parse_levels(levels)
    ]
    assert_same_masks(masks, expected)
    assert_nested(masks)
    assert_rows_live(masks)


def test_without_protection_rows_would_die() -> None:
    """What the other tests are worth: by magnitude alone, these rows keep nothing."""
    _, scores = network("F32", "normal")
    numel = sum(s.size for s in scores.values())
    plain = ranked_masks(scores, [level.kept(numel) for level in parse_levels(LEVELS)])
    with pytest.raises(AssertionError):
        assert_rows_live(plain)


@pytest.mark.parametrize("high", [False, True])
def test_scores_of_any_kind(high: bool, tmp_path: Path) -> None:
    """Integers with their highest bit set, and floats."""
    tensors, _ = network("F32", "normal")

    def scorer(chunk: Chunk) -> NDArray[np.generic]:
        keys = position_hash(chunk.positions())
        if chunk.name == "d.weight":  # the largest integers of all
            keys |= np.uint64(2**64 - 1)
        return keys if high else (keys >> np.uint64(40)).astype(np.float64)

    masks = chosen_masks(tmp_path / "m", tensors, LEVELS, scorer=scorer)
    assert_nested(masks)
    assert_rows_live(masks)


def test_nan_is_the_best_of_its_row_where_it_may_be(tmp_path: Path) -> None:
    tensors, _ = network("F32", "normal")
    name, dtype, shape, data = tensors[0]
    bits = np.frombuffer(data, "<u4").copy()
    bits[7], bits[22] = 0xFFC0_0000, 0x7F80_0000
    tensors[0] = (name, dtype, shape, bits.tobytes())
    masks = chosen_masks(tmp_path / "m", tensors, LEVELS, finite=False)
    assert all(mask[name][7] and mask[name][22] for mask in masks)
    assert_rows_live(masks)


@pytest.mark.parametrize("scope", ["global", "layer"])
def test_fewer_weights_than_rows(scope: str, tmp_path: Path) -> None:
    tensors, _ = network("F32", "normal")
    rule = Rule.of(scope, None, None)
    with pytest.raises(UsageError, match=r"level 0\.99 keeps [0-9]+ weights, .* rows") as caught:
        chosen_masks(tmp_path / "m", tensors, "0.5,0.99", rule)
    assert caught.value.tensor in {name for name, *_ in NORMS}
    assert "out with exclude" in str(caught.value)


def test_exactly_as_many_weights_as_rows(tmp_path: Path) -> None:
    tensors = network("F32", "normal")[0][:2]  # 12 rows of 180 weights
    (mask,) = chosen_masks(tmp_path / "m", tensors, "0.9333")
    assert mask["a.weight_v"].reshape(12, 15).sum(axis=1).tolist() == [1] * 12
