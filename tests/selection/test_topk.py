"""Cuts and masks against a full sort."""

from __future__ import annotations

import itertools
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from elsa_cli.core.hashing import position_hash
from elsa_cli.selection import topk
from elsa_cli.selection.scan import Scan
from tests.helpers import BITS, FLOATS, Tensor, random_bits
from tests.selection.reference import assert_same_masks, reference_masks, selected_masks

KINDS = ["normal", "ties", "constant", "weird"]


def network(seed: int, kinds: list[str], dtypes: list[str], size: int = 700) -> list[Tensor]:
    rng = np.random.default_rng(seed)
    return [
        (f"t{(at * 7) % 10}.{dtype}.{kind}", dtype, (size,), random_bits(rng, dtype, (size,), kind))
        for at, (dtype, kind) in enumerate((d, k) for d in dtypes for k in kinds)
    ]


def counts_of(numel: int) -> list[int]:
    """Return counts to keep, sparsest first, with both ends and their neighbours."""
    return sorted({0, 1, numel // 100, numel // 10, numel // 3, numel // 2, numel - 1, numel})


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", FLOATS)
def test_one_dtype(dtype: str, kind: str, tmp_path: Path) -> None:
    tensors = network(1, [kind], [dtype])
    counts = counts_of(700)
    masks = selected_masks(tmp_path / "m", tensors, counts)
    assert_same_masks(masks, reference_masks(tensors, counts))


@pytest.mark.parametrize("without", [(), ("F64",)], ids=["with F64", "without F64"])
@pytest.mark.parametrize("kind", KINDS)
def test_all_dtypes_compete(kind: str, without: tuple[str, ...], tmp_path: Path) -> None:
    tensors = network(2, [kind], [d for d in FLOATS if d not in without], 300)
    counts = counts_of(300 * len(tensors))
    masks = selected_masks(tmp_path / "m", tensors, counts, step=128)
    assert_same_masks(masks, reference_masks(tensors, counts))


def test_zeros_of_both_signs_are_ties(tmp_path: Path) -> None:
    for dtype in FLOATS:
        width = BITS[dtype]
        sign = 0 if dtype.endswith("FNUZ") else 1 << (width - 1)
        zeros = np.where(np.arange(512) % 3 == 0, sign, 0).astype(f"<u{width // 8}")
        tensors: list[Tensor] = [("a", dtype, (512,), zeros.tobytes())]
        counts = [0, 51, 256, 512]
        masks = selected_masks(tmp_path / "m", tensors, counts)
        assert_same_masks(masks, reference_masks(tensors, counts))


def test_levels_nest_and_counts_are_exact(tmp_path: Path) -> None:
    tensors = network(3, ["ties", "constant"], ["F16", "BF16"])
    numel = 700 * len(tensors)
    counts = list(range(0, numel + 1, 97))
    masks = selected_masks(tmp_path / "m", tensors, counts)
    flat = [np.concatenate([m[name] for name in sorted(m)]) for m in masks]
    assert [int(m.sum()) for m in flat] == counts
    assert not any((a & ~b).any() for a, b in itertools.pairwise(flat))


def test_ties_favour_no_tensor_and_no_row(tmp_path: Path) -> None:
    data = np.ones(8192, "<f4").tobytes()
    tensors: list[Tensor] = [("a", "F32", (64, 128), data), ("b", "F32", (64, 128), data)]
    (mask,) = selected_masks(tmp_path / "m", tensors, [4096], step=4096)
    for name in "ab":
        rows = mask[name].reshape(64, 128)
        assert 0.23 < rows.mean() < 0.27
        assert rows.mean(axis=0).max() < 0.55
        assert 0.1 < rows.mean(axis=1).min() <= rows.mean(axis=1).max() < 0.45


@pytest.mark.parametrize("room", [0, 7, 300, 1 << 20])
@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("direct", [1, 1 << 22])
def test_every_way_of_narrowing(direct: int, threads: int, room: int, tmp_path: Path) -> None:
    for dtypes in (["F32"], ["F64"], ["F8_E4M3"], ["BF16"], ["F16", "F32", "F8_E5M2"]):
        tensors = network(4, KINDS, dtypes, 500)
        counts = counts_of(500 * len(tensors))
        masks = selected_masks(
            tmp_path / "m", tensors, counts, threads, step=200, direct=direct, room=room
        )
        assert_same_masks(masks, reference_masks(tensors, counts))


def passes_of(
    tensors: list[Tensor], counts: list[int], room: int, path: Path, patch: pytest.MonkeyPatch
) -> int:
    """Return how often everything is read, having checked the masks."""
    passes = 0
    real = Scan.pieces

    def counted(scan: Scan) -> object:
        nonlocal passes
        passes += 1
        return real(scan)

    patch.setattr(Scan, "pieces", counted)
    masks = selected_masks(path, tensors, counts, step=512, direct=1, room=room)
    assert_same_masks(masks, reference_masks(tensors, counts))
    return passes - 1  # one of them makes the masks


@pytest.mark.parametrize("dtype", ["F32", "BF16", "F64"])
def test_two_passes_find_most_cuts(
    dtype: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tensors = network(5, ["normal"], [dtype], 20_000)
    assert passes_of(tensors, [2000, 6000, 10_000], 3 << 10, tmp_path / "m", monkeypatch) == 2


@pytest.mark.parametrize("misled", ["high", "low"])
def test_digits_that_are_not_spread_evenly(
    misled: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The cut lies far from where it is foretold: one more pass finds it."""
    rng = np.random.default_rng(5)
    low = rng.integers(0, 100, 6000, np.uint32)  # of the 16 bits after the first digit
    low += np.uint32(0 if misled == "high" else 65400)
    keys = np.uint32(0x3F80_0000) + low
    tensors: list[Tensor] = [("w", "F32", keys.shape, keys.astype("<u4").tobytes())]
    assert passes_of(tensors, [3000], 200, tmp_path / "m", monkeypatch) == 3


def test_more_near_the_cut_than_there_is_room_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All weights are as large as the cut, which lies where it is foretold: they are not kept."""
    keys = np.full(6000, 0x3F80_8000, "<u4")
    tensors: list[Tensor] = [("w", "F32", keys.shape, keys.tobytes())]
    assert passes_of(tensors, [3000], 600, tmp_path / "m", monkeypatch) == 3


def test_hashes_that_are_not_spread_evenly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the largest weights, all with one key, none has a hash near the middle."""
    first = position_hash(np.arange(200_000, dtype=np.uint64)) >> np.uint64(60)
    tied = (first == 0) | (first == 15)
    values = np.where(tied, 0x3F80, 0x3F00).astype("<u2")
    tensors: list[Tensor] = [("w", "BF16", values.shape, values.tobytes())]
    above = int(np.count_nonzero(first == 15))
    assert passes_of(tensors, [above + 5], 300, tmp_path / "m", monkeypatch) == 3


@pytest.mark.parametrize("order", ["ascending", "descending"])
def test_sorted_weights(order: str, tmp_path: Path) -> None:
    values = np.sort(np.random.default_rng(6).standard_normal(6000).astype("<f4"))
    if order == "descending":
        values = values[::-1]
    tensors: list[Tensor] = [("w", "F32", values.shape, values.tobytes())]
    counts = counts_of(values.size)
    masks = selected_masks(tmp_path / "m", tensors, counts, step=512, direct=1, room=128)
    assert_same_masks(masks, reference_masks(tensors, counts))


@given(data=st.data())
def test_any_network(data: st.DataObject) -> None:
    tensors = network(
        data.draw(st.integers(0, 2**32)),
        data.draw(st.lists(st.sampled_from(KINDS), min_size=1, max_size=3, unique=True)),
        data.draw(st.lists(st.sampled_from(list(FLOATS)), min_size=1, max_size=3, unique=True)),
        data.draw(st.integers(1, 300)),
    )
    numel = sum(t[2][0] for t in tensors)
    counts = sorted(data.draw(st.sets(st.integers(0, numel), min_size=1, max_size=5)))
    step = 8 * data.draw(st.integers(1, 20))
    threads = data.draw(st.sampled_from([1, 2]))
    direct = data.draw(st.sampled_from([1, 1 << 22]))
    room = data.draw(st.sampled_from([0, 1, 50, 400, 1 << 20]))
    with tempfile.TemporaryDirectory() as folder:
        masks = selected_masks(
            Path(folder) / "m", tensors, counts, threads, step, direct=direct, room=room
        )
    assert_same_masks(masks, reference_masks(tensors, counts))


# -- Few weights, all of whose keys are held ------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtypes", [["F32"], ["F8_E4M3"], ["F16", "F64", "F8_E5M2FNUZ"]])
def test_few_weights_are_cut_where_many_are(
    dtypes: list[str], kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tensors = network(7, [kind], dtypes, 611)
    numel = 611 * len(tensors)
    counts = sorted({*counts_of(numel), *range(0, numel, 53)})
    direct = selected_masks(tmp_path / "m", tensors, counts, step=64, direct=numel + 1)
    assert_same_masks(direct, reference_masks(tensors, counts))
    monkeypatch.setattr(topk, "few_cuts", None)  # the other way is taken, or this raises
    masks = selected_masks(tmp_path / "m", tensors, counts, step=64, direct=numel, room=300)
    assert_same_masks(masks, direct)


def test_few_weights_do_not_depend_on_pieces_and_order(tmp_path: Path) -> None:
    tensors = network(8, ["ties", "constant"], ["BF16", "F32"], 333)
    counts = counts_of(333 * len(tensors))
    expected = reference_masks(tensors, counts)
    for step in (8, 64, 4096):
        for order in (tensors, tensors[::-1]):
            masks = selected_masks(tmp_path / "m", order, counts, step=step)
            assert_same_masks([{k: m[k] for k in sorted(m)} for m in masks], expected)


def test_one_weight(tmp_path: Path) -> None:
    tensors: list[Tensor] = [("w", "F32", (1,), np.zeros(1, "<f4").tobytes())]
    masks = selected_masks(tmp_path / "m", tensors, [0, 1])
    assert [m["w"].tolist() for m in masks] == [[False], [True]]
