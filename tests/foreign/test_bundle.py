"""Bundling a dense checkpoint and sparse ones that other tools made."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from elsa_cli.checkpoint.manifest import Manifest
from elsa_cli.checkpoint.opening import open_any
from elsa_cli.checkpoint.packed.reader import PackedReader
from elsa_cli.checkpoint.packed.writer import write_packed
from elsa_cli.core.level import parse_levels
from elsa_cli.errors import NotABundle, UsageError
from elsa_cli.foreign.bundle import Bundle
from elsa_cli.storage.container import Container
from elsa_cli.storage.output import OutputFile
from tests.helpers import FLOATS, Tensor, Tensors, raw_bits, write_safetensors
from tests.networks import read_level

RNG = np.random.default_rng(12)
NUMEL = 20 * 10


def values(dtype: str = "F32", numel: int = NUMEL) -> Any:
    """Return raw bits of weights of which none is zero."""
    bits = np.frombuffer(RNG.bytes(numel * 8), "<u8").astype(raw_bits(dtype, b"").dtype)
    return bits | bits.dtype.type(1)


def keep(dense: Any, kept: int) -> Any:
    """Zero all but the first `kept` weights in an order that is the same for all."""
    order = np.random.default_rng(13).permutation(dense.size)
    return np.where(order < kept, dense, 0).astype(dense.dtype)


def save(path: Path, **tensors: tuple[str, Sequence[int], Any]) -> Path:
    rows: list[Tensor] = [
        (name.replace("__", "."), dtype, shape, bytes(data.tobytes()))
        for name, (dtype, shape, data) in tensors.items()
    ]
    return write_safetensors(path, rows, {"format": "pt", "from": path.name})


def bundle(
    folder: Path, dense: Path, *sparse: Path, levels: str | None = None, threads: int = 1
) -> tuple[Manifest, dict[str, Tensors]]:
    """Bundle into a packed file; return the manifest and the tensors of every level."""
    named = None if levels is None else parse_levels(levels)
    target = folder / "bundle"
    with ExitStack() as stack:
        files = [stack.enter_context(Container(path)) for path in (dense, *sparse)]
        spool = stack.enter_context(OutputFile(target))
        out = stack.enter_context(OutputFile(target))
        source = Bundle.of(files[0], files[1:], named, spool, threads)
        write_packed(out, source, threads)
        out.commit()
    opened = open_any(target)
    assert isinstance(opened, PackedReader)
    with opened:
        assert opened.metadata == {"format": "pt", "from": dense.name}
        found = {level.text: read_level(opened, level.text) for level in opened.available}
        return opened.manifest, found


def refused(folder: Path, dense: Path, *sparse: Path, levels: str | None = None) -> NotABundle:
    before = sorted(os.listdir(folder))
    with pytest.raises(NotABundle) as caught:
        bundle(folder, dense, *sparse, levels=levels)
    assert sorted(os.listdir(folder)) == before
    assert len(str(caught.value).splitlines()) == 1
    return caught.value


SHAPE = (20, 10)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("threads", [1, 3])
def test_levels_come_out_as_they_went_in(tmp_path: Path, dtype: str, threads: int) -> None:
    w, v, norm = values(dtype), values(dtype), values("F32", 10)
    steps = np.arange(4, dtype="<i8")

    def network(name: str, kept: int, n: int) -> Path:
        return save(
            tmp_path / name,
            w=(dtype, SHAPE, keep(w, kept)),
            same=(dtype, SHAPE, v),
            norm__weight=("F32", (10,), norm + np.uint32(n)),
            norm__same=("F32", (10,), norm),
            steps=("I64", (), steps[n : n + 1]),
            ids=("I32", (2, 2), np.arange(4, dtype="<i4")),
        )

    files = [network("d", NUMEL, 0), network("a", 100, 1), network("b", 20, 2)]
    manifest, found = bundle(tmp_path, *files, threads=threads)
    assert list(found) == ["0.9", "0.5", "dense"]
    for level, path in zip(found, (files[2], files[1], files[0]), strict=True):
        with Container(path) as container:
            expected = {
                t.name: (t.dtype.name, t.shape, container.read(t)) for t in container.tensors
            }
        assert found[level] == expected
    assert [(t.name, t.kept) for t in manifest.tensors] == [("w", (20, 100))]
    assert manifest.per_level == ("norm.weight", "steps")
    assert manifest.method == {"name": "bundle"}


def test_the_order_of_the_sparse_files_does_not_matter(tmp_path: Path) -> None:
    w = values()
    files = [
        save(tmp_path / f"{kept}", w=("F32", SHAPE, keep(w, kept))) for kept in (200, 10, 150, 60)
    ]
    manifest, found = bundle(tmp_path, *files)
    first = (tmp_path / "bundle").read_bytes()
    assert list(found) == ["0.95", "0.7", "0.25", "dense"]
    assert bundle(tmp_path, files[0], *reversed(files[1:])) == (manifest, found)
    assert (tmp_path / "bundle").read_bytes() == first


def test_levels_can_be_named(tmp_path: Path) -> None:
    w = values()
    files = [save(tmp_path / f"{k}", w=("F32", SHAPE, keep(w, k))) for k in (200, 98, 21)]
    assert list(bundle(tmp_path, *files)[1]) == ["0.895", "0.51", "dense"]
    manifest, found = bundle(tmp_path, *files, levels="0.5,90%")
    assert list(found) == ["0.9", "0.5", "dense"]
    assert manifest.tensors[0].kept == (21, 98)
    with pytest.raises(UsageError, match="3 levels for 2 sparse checkpoints"):
        bundle(tmp_path, *files, levels="0.5,0.7,0.9")


@pytest.mark.parametrize(
    ("kept", "numel", "level"), [(1, 3, "0.7"), (333, 1000, "0.667"), (1, 200, "0.995")]
)
def test_a_level_is_the_shortest_decimal_that_keeps_so_many(
    tmp_path: Path, kept: int, numel: int, level: str
) -> None:
    w = values(numel=numel)
    dense = save(tmp_path / "d", w=("F32", (1, numel), w))
    sparse = save(tmp_path / "s", w=("F32", (1, numel), keep(w, kept)))
    manifest, found = bundle(tmp_path, dense, sparse)
    assert list(found) == [level, "dense"]
    assert manifest.levels[0].kept(numel) == kept == manifest.tensors[0].kept[0]


def test_negative_zeros(tmp_path: Path) -> None:
    """A −0.0 in place of a weight is a zeroed one; one that dense has too is kept."""
    w = values(numel=8)
    w[0], w[1] = 0x8000_0000, 0
    s = w.copy()
    s[4:] = 0
    s[5] = 0x8000_0000
    dense = save(tmp_path / "d", w=("F32", (2, 4), w))
    sparse = save(tmp_path / "s", w=("F32", (2, 4), s))
    manifest, found = bundle(tmp_path, dense, sparse)
    assert manifest.tensors[0].kept == (3,)  # −0.0 and two others; +0.0 is no weight
    s[5] = 0
    assert next(iter(found.values()))["w"][2] == s.tobytes()
    assert found["dense"]["w"][2] == w.tobytes()


@pytest.mark.parametrize("dtype", ["F8_E4M3FNUZ", "F8_E5M2FNUZ"])
def test_the_nan_without_a_sign_is_no_zero(tmp_path: Path, dtype: str) -> None:
    w = values(dtype, 8)
    w[0] = 1
    s = w.copy()
    s[0] = 0x80  # NaN here, −0.0 elsewhere
    s[4:] = 0
    dense = save(tmp_path / "d", w=(dtype, (2, 4), w))
    error = refused(tmp_path, dense, save(tmp_path / "s", w=(dtype, (2, 4), s)))
    assert "1 of 4 kept weights differ" in str(error)


def test_a_changed_weight_is_named_and_counted(tmp_path: Path) -> None:
    w, v = values(), values()
    dense = save(tmp_path / "d", a=("F32", SHAPE, w), w=("F32", SHAPE, v))
    s = keep(v, 50)
    s[np.flatnonzero(s)[:3]] ^= np.uint32(1)  # the last bit of the mantissa
    sparse = save(tmp_path / "s", a=("F32", SHAPE, keep(w, 50)), w=("F32", SHAPE, s))
    error = refused(tmp_path, dense, sparse)
    assert (error.tensor, error.file) == ("w", str(sparse))
    assert "3 of 50 kept weights differ" in str(error)


def test_masks_that_do_not_nest_are_named_and_counted(tmp_path: Path) -> None:
    w = values()
    dense = save(tmp_path / "d", w=("F32", SHAPE, w))
    s = keep(w, 100)
    lost = np.flatnonzero(keep(w, 20))[:2]
    s[lost] = 0
    one = save(tmp_path / "s20", w=("F32", SHAPE, keep(w, 20)))
    other = save(tmp_path / "s100", w=("F32", SHAPE, s))
    error = refused(tmp_path, dense, other, one)
    assert (error.tensor, error.file) == ("w", str(other))
    assert f"2 weights kept in {one} are zero here" in str(error)


@pytest.mark.parametrize(
    ("other", "tensor", "words"),
    [
        ({"w": ("F32", SHAPE)}, "b", "missing"),
        ({"w": ("F32", SHAPE), "b": ("F32", (4,)), "x": ("F32", (1,))}, "x", "missing"),
        ({"w": ("F32", (10, 20)), "b": ("F32", (4,))}, "w", "[10, 20]"),
        ({"w": ("F32", SHAPE), "b": ("I32", (4,))}, "b", "I32"),
    ],
)
def test_other_names_shapes_or_dtypes(
    tmp_path: Path, other: dict[str, tuple[str, Sequence[int]]], tensor: str, words: str
) -> None:
    def network(name: str, specs: dict[str, tuple[str, Sequence[int]]]) -> Path:
        return save(
            tmp_path / name,
            **{k: (d, s, np.ones(int(np.prod(s)), "<u4")) for k, (d, s) in specs.items()},
        )

    dense = network("d", {"w": ("F32", SHAPE), "b": ("F32", (4,))})
    error = refused(tmp_path, dense, network("s", other))
    assert error.tensor == tensor
    assert words in str(error)
    assert str(dense) in str(error)
    assert str(tmp_path / "s") in str(error)


def test_what_is_no_sparse_network(tmp_path: Path) -> None:
    w, ids = values(), np.arange(NUMEL, dtype="<i4")
    dense = save(tmp_path / "d", w=("F32", SHAPE, w), ids=("I32", SHAPE, ids))
    same = save(tmp_path / "same", w=("F32", SHAPE, w), ids=("I32", SHAPE, ids))
    assert "no sparse checkpoint differs" in str(refused(tmp_path, dense, same))
    other = save(tmp_path / "o", w=("F32", SHAPE, keep(w, 9)), ids=("I32", SHAPE, ids[::-1]))
    error = refused(tmp_path, dense, other)
    assert (error.tensor, "I32" in str(error)) == ("ids", True)
    half = save(tmp_path / "h", w=("F32", SHAPE, keep(w, 100)), ids=("I32", SHAPE, ids))
    twin = save(tmp_path / "t", w=("F32", SHAPE, keep(w, 100)), ids=("I32", SHAPE, ids))
    assert "has the level of another one" in str(refused(tmp_path, dense, half, twin))
    none = save(tmp_path / "n", w=("F32", SHAPE, keep(w, 0)), ids=("I32", SHAPE, ids))
    error = refused(tmp_path, dense, none)
    assert "keeps 0 of 200 weights" in str(error)
    assert error.file == str(none)


def test_tensors_longer_than_a_piece(tmp_path: Path) -> None:
    numel = (1 << 18) + 9
    w = values("F16", numel)
    dense = save(tmp_path / "d", w=("F16", (1, numel), w))
    sparse = save(tmp_path / "s", w=("F16", (1, numel), keep(w, numel // 4)))
    _, found = bundle(tmp_path, dense, sparse, levels="0.75", threads=2)
    assert found["0.75"]["w"][2] == keep(w, numel // 4).tobytes()
    assert found["dense"]["w"][2] == w.tobytes()
