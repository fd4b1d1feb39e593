"""Many small tensors: worked on together, with the bytes that each by itself gives."""

from __future__ import annotations

import os
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from elsa_cli import extract, inspect, load_level, pack, sparsify, unpack, verify
from elsa_cli.core import batch
from elsa_cli.errors import BadManifest, NotABundle
from elsa_cli.storage.container import Container
from tests.helpers import Tensor, library_order, random_bits, read_safetensors, write_safetensors
from tests.operations.models import flip, place, save, stored_masks, zeroed

COUNT = 500
MANY = 2000  # where calls are counted
LEVELS = ("0.9", "0.5")
FEW = 120  # calls that an operation may take, however many tensors there are
COUNTED = ("preadv", "pwrite", "copy_file_range")

KINDS: dict[str, tuple[tuple[str, tuple[int, ...]], ...]] = {
    "even": (("F32", (8, 8)),),
    "odd": (("F32", (3, 3)),),
    "mixed": (("F32", (3, 5)), ("BF16", (5, 3)), ("F8_E4M3FNUZ", (7, 3)), ("F64", (2, 4))),
    "biases": (("F16", (4, 5)), ("F16", (5,))),
}


def tensors_of(kind: str, count: int) -> list[Tensor]:
    rng = np.random.default_rng(31)
    parts = KINDS[kind]
    return [
        (f"m.{n}.w", dtype, shape, random_bits(rng, dtype, shape, "normal"))
        for n in range(count)
        for dtype, shape in [parts[n % len(parts)]]
    ]


class Files:
    """A network of many small tensors in every form."""

    def __init__(self, folder: Path, kind: str, count: int = COUNT) -> None:
        self.folder = folder
        self.tensors = tensors_of(kind, count)
        if count == MANY and kind != "mixed":
            self.tensors = library_order(self.tensors)
        self.dense = save(folder / "dense", self.tensors)
        self.nested, self.packed = folder / "nested", folder / "packed"
        sparsify(self.dense, ",".join(LEVELS), self.nested, masks="tensors")
        pack(self.nested, self.packed)
        extract(self.nested, LEVELS, folder / "sparse-{level}")
        self.sparse = [folder / f"sparse-{level}" for level in LEVELS]
        for path, mark in zip(self.sparse, (1, 2), strict=True):
            found, metadata = read_safetensors(path)
            rows = [
                (
                    name,
                    dtype,
                    shape,
                    bytes([data[0] ^ mark]) + data[1:] if len(shape) == 1 else data,
                )
                for name, (dtype, shape, data) in found.items()
            ]
            write_safetensors(path, library_order(rows), metadata)
        self.bundle = folder / "bundle"
        pack([self.dense, *self.sparse], self.bundle)

    def operations(self, threads: int = 2) -> dict[str, Callable[[], Any]]:
        to = self.folder / "again"
        return {
            "extract": lambda: extract(self.nested, 0.9, to, threads=threads),
            "extract dense": lambda: extract(self.nested, "dense", to, threads=threads),
            "extract packed": lambda: extract(self.packed, 0.5, to, threads=threads),
            "pack": lambda: pack(self.nested, to, threads=threads),
            "unpack": lambda: unpack(self.packed, to, threads=threads),
            "bundle": lambda: pack([self.dense, *self.sparse], to, threads=threads),
            "verify": lambda: verify(self.nested, threads=threads),
            "verify packed": lambda: verify(self.packed, threads=threads),
            "inspect": lambda: inspect(self.dense, threads=threads),
            "load": lambda: load_level(self.nested, 0.9, framework="numpy"),
            "load packed": lambda: load_level(self.packed, 0.9, framework="numpy"),
        }


@pytest.fixture(scope="module", params=KINDS)
def files(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Files:
    return Files(tmp_path_factory.mktemp(request.param), request.param)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Count calls of the system, starts of threads, and walks over all tensors of a file."""
    counted: Counter[str] = Counter()

    def count(owner: Any, name: str) -> None:
        call = getattr(owner, name)

        def counting(*args: Any, **kwargs: Any) -> Any:
            counted[name] += 1
            return call(*args, **kwargs)

        monkeypatch.setattr(owner, name, counting)

    for name in COUNTED:
        count(os, name)
    count(threading.Thread, "start")

    class Walked(tuple[Any, ...]):
        __slots__ = ()

        def __iter__(self) -> Iterator[Any]:
            counted["walks"] += 1
            return super().__iter__()

    begin = Container.__init__

    def opened(self: Container, path: Any) -> None:
        begin(self, path)
        self.tensors = Walked(self.tensors)

    monkeypatch.setattr(Container, "__init__", opened)
    return counted


@pytest.mark.parametrize("kind", ["even", "odd"])
def test_calls_do_not_grow_with_the_tensors(kind: str, tmp_path: Path, calls: Counter[str]) -> None:
    files = Files(tmp_path, kind, MANY)
    for what, operation in files.operations().items():
        calls.clear()
        operation()
        assert calls["preadv"], what
        assert calls["walks"], what
        for name, found in calls.items():
            assert found < FEW, (what, name)


def test_dtypes_in_any_order_share_calls(tmp_path: Path, calls: Counter[str]) -> None:
    """As in a file that another writer made, with the dtypes in turns."""
    files = Files(tmp_path, "mixed", MANY)
    for what in ("verify packed", "inspect", "unpack", "load packed", "extract packed"):
        calls.clear()
        files.operations()[what]()
        assert 0 < calls["preadv"] < FEW, what


@pytest.mark.parametrize("threads", [1, 3])
def test_each_by_itself_gives_the_same_bytes(
    files: Files, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    again = files.folder / "again"
    written: dict[str, Any] = {}
    for what, operation in files.operations(threads).items():
        again.unlink(missing_ok=True)
        result = operation()
        written[what] = again.read_bytes() if again.exists() else result
    monkeypatch.setattr(batch, "SMALL", 0)
    for what, operation in files.operations(1).items():
        again.unlink(missing_ok=True)
        result = operation()
        if again.exists():
            assert again.read_bytes() == written[what], what
        elif what.startswith("load"):
            assert result.keys() == written[what].keys()
            for name, array in result.items():
                assert array.tobytes() == written[what][name].tobytes(), (what, name)
        else:
            assert result == written[what], what


def test_levels_are_those_of_the_masks(files: Files) -> None:
    for level, sparse in zip(LEVELS, files.sparse, strict=True):
        masks = stored_masks(files.nested, level)
        expected = zeroed(files.tensors, masks)
        extract(files.packed, level, files.folder / "level")
        assert read_safetensors(files.folder / "level")[0] == expected
        again = stored_masks(files.packed, level)
        assert {n: m.tobytes() for n, m in again.items()} == {
            n: m.tobytes() for n, m in masks.items()
        }
        extract(files.bundle, level, files.folder / "level")
        assert (files.folder / "level").read_bytes() == sparse.read_bytes()
    assert unpack(files.packed, files.folder / "level")
    assert (files.folder / "level").read_bytes() == files.nested.read_bytes()


def test_a_damaged_tensor_among_many_is_named(files: Files, tmp_path: Path) -> None:
    name = files.tensors[COUNT // 2][0]
    nested, packed = tmp_path / "nested", tmp_path / "packed"
    nested.write_bytes(files.nested.read_bytes())
    flip(nested, place(nested, name)[0])
    assert [p.where for p in verify(nested).problems] == [name]
    nested.write_bytes(files.nested.read_bytes())
    begin, end = place(nested, "elsa.mask.0.9")
    flip(nested, (begin + end) // 2)
    problems = verify(nested).problems
    wheres = {p.where for p in problems}
    assert "elsa.mask.0.9" in wheres
    assert len(wheres) == 2
    (tensor,) = wheres - {"elsa.mask.0.9"}
    with pytest.raises(BadManifest) as caught:
        pack(nested, packed)
    assert caught.value.tensor == tensor
    assert not packed.exists()


def test_damaged_coded_masks_among_many_are_named(files: Files, tmp_path: Path) -> None:
    packed, out = tmp_path / "packed", tmp_path / "out"
    packed.write_bytes(files.packed.read_bytes())
    begin, end = place(packed, "elsa.shell.0.9.mask")
    for part in range(1, 9):
        flip(packed, begin + (end - begin) * part // 9)
    found = [p for p in verify(packed).problems if p.where != "0.9"]
    assert 1 <= len(found) <= 8
    assert {p.where for p in found} <= {t[0] for t in files.tensors}
    for what in (lambda: extract(packed, 0.5, out), lambda: unpack(packed, out)):
        with pytest.raises(BadManifest) as caught:
            what()
        assert caught.value.tensor in {p.where for p in found}
        assert not out.exists()


def test_a_bundle_names_the_first_tensor_that_does_not_fit(files: Files, tmp_path: Path) -> None:
    """By the order of the dense file, though many are compared at once."""
    sparse = tmp_path / "sparse"
    kept = stored_masks(files.nested, "0.9")
    wrong = [n for n, _, s, _ in files.tensors if len(s) > 1 and kept[n].any()][3:9:2]
    raw = bytearray(files.sparse[0].read_bytes())
    for name in wrong:
        begin, end = place(files.sparse[0], name)
        size = (end - begin) // kept[name].size
        raw[begin + size * int(np.flatnonzero(kept[name])[0])] ^= 1
    sparse.write_bytes(raw)
    with Container(files.dense) as container:
        first = next(t.name for t in container.tensors if t.name in wrong)
    with pytest.raises(NotABundle, match=r"1 of .* kept weights differ") as caught:
        pack([files.dense, sparse, files.sparse[1]], tmp_path / "out")
    assert caught.value.tensor == first
    swapped = tmp_path / "swapped"
    extract(files.nested, 0.5, swapped)
    begin, end = place(swapped, wrong[0])
    raw = bytearray(swapped.read_bytes())
    raw[begin:end] = bytes(end - begin)
    swapped.write_bytes(raw)
    with pytest.raises(NotABundle, match="are zero here") as caught:
        pack([files.dense, files.sparse[0], swapped], tmp_path / "out")
    assert caught.value.tensor == wrong[0]
    assert not (tmp_path / "out").exists()
