from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open

from elsa_cli.checkpoint.manifest import Entry, Manifest
from elsa_cli.checkpoint.nested import placement as module
from elsa_cli.checkpoint.nested.placement import Places
from elsa_cli.checkpoint.nested.reader import NestedReader
from elsa_cli.checkpoint.opening import open_any
from elsa_cli.core.batch import Batch
from elsa_cli.core.bits import unpack_bits
from elsa_cli.core.dtypes import DTYPES
from elsa_cli.core.level import parse_levels
from elsa_cli.core.work import Scratch
from elsa_cli.errors import BadManifest, LevelNotStored, UsageError
from elsa_cli.storage.header import TensorSpec
from tests.helpers import nbytes, raw_bits, read_safetensors, write_safetensors
from tests.networks import (
    Network,
    bytes_of,
    edit,
    make,
    manifest_of,
    masks_of,
    read_level,
    widen,
    write_nested,
)

NET = make()
LEVELS = ("0.9", "0.7", "0.5", "dense")


@pytest.fixture(params=["header", "tensors"])
def masks(request: pytest.FixtureRequest) -> str:
    """Where the masks are."""
    return str(request.param)


def opened(path: Path) -> NestedReader:
    reader = open_any(path)
    assert isinstance(reader, NestedReader)
    return reader


def test_every_level_is_read(tmp_path: Path, masks: str) -> None:
    with opened(write_nested(tmp_path / "m", NET, masks)) as reader:
        assert [str(level) for level in reader.available] == list(LEVELS)
        assert reader.metadata == NET.metadata
        for level in (*LEVELS, *reversed(LEVELS)):
            assert read_level(reader, level) == NET.level(level)
        with pytest.raises(LevelNotStored):
            read_level(reader, "0.6")


def test_tensors_longer_than_a_piece(tmp_path: Path, masks: str) -> None:
    """One weight more and one less than whole pieces, and a piece that ends inside a byte."""
    from elsa_cli.core.work import CHUNK

    specs = [("a", "F8_E5M2", (CHUNK + 1,)), ("b", "F16", (2, CHUNK - 1)), ("c", "BF16", (3, 3))]
    net = make("long", ("0.75", "0.25"), specs, shared=(), per_level=())
    with opened(write_nested(tmp_path / "m", net, masks)) as reader:
        for level in ("0.75", "0.25", "dense"):
            assert read_level(reader, level) == net.level(level)


def test_any_position_of_any_mask(tmp_path: Path, masks: str) -> None:
    rng = np.random.default_rng(11)
    with opened(write_nested(tmp_path / "m", NET, masks)) as reader:
        for _ in range(300):
            at = int(rng.integers(len(NET.prunable)))
            entry = reader.manifest.tensors[at]
            start = int(rng.integers(entry.numel // 8 + 1)) * 8
            count = int(rng.integers(entry.numel - start + 1)) if entry.numel > start else 0
            part = Batch(at, [count], [entry.dtype], start)
            for piece, cells, packed in reader.pieces(part, Scratch()):
                assert (piece.start, piece.count) == (start, count)
                raw = raw_bits(entry.dtype.name, NET.level("dense")[entry.name][2])
                assert (cells == raw[start : start + count]).all()
                for level, bits in zip(NET.masks, packed, strict=True):
                    whole = NET.masks[level][entry.name]
                    assert (unpack_bits(bits, count) == whole[start : start + count]).all()


def test_masks_come_in_order_and_nest(tmp_path: Path, masks: str) -> None:
    with opened(write_nested(tmp_path / "m", NET, masks)) as reader:
        for at, name in enumerate(NET.prunable):
            pieces = masks_of(reader, at)
            for k, level in enumerate(LEVELS[:3]):
                found = [unpack_bits(bits[k], count) for _, count, bits in pieces]
                whole = NET.masks[level][name]
                assert (np.concatenate([whole[:0], *found]) == whole).all()


def by_hand(path: Path, key: str) -> bytes:
    """Read a mask or a per-level tensor as the format's page says, without the package."""
    tensors, metadata = read_safetensors(path)
    if key in metadata:
        return zlib.decompress(base64.b64decode(metadata[key]), -15)
    return tensors[key][2]


def test_the_file_is_as_the_format_says(tmp_path: Path, masks: str) -> None:
    path = write_nested(tmp_path / "m", NET, masks)
    tensors, metadata = read_safetensors(path)
    manifest = json.loads(metadata["elsa"])
    for level, kept in NET.masks.items():
        raw = b"".join(np.packbits(m, bitorder="little").tobytes() for m in kept.values())
        assert by_hand(path, f"elsa.mask.{level}") == raw
    for (level, name), data in NET.per_level.items():
        assert by_hand(path, f"elsa.level.{level}/{name}") == data
    dense = {k: v for k, v in tensors.items() if not k.startswith("elsa.")}
    assert dense == NET.level("dense")
    assert (len(dense) == len(tensors)) == (masks == "header")
    assert [t["name"] for t in manifest["tensors"]] == NET.prunable
    assert [t["kept"] for t in manifest["tensors"]] == [
        [int(m[name].sum()) for m in NET.masks.values()] for name in NET.prunable
    ]
    assert manifest["masks"] == masks
    assert (manifest["version"], manifest["kind"]) == (1, "nested")
    foreign = {k: v for k, v in metadata.items() if not k.startswith("elsa")}
    assert foreign == NET.metadata
    assert int.from_bytes(path.read_bytes()[:8], "little") % 8 == 0


def test_the_stock_library_reads_it(tmp_path: Path, masks: str) -> None:
    with safe_open(write_nested(tmp_path / "m", NET, masks), "np") as file:
        names = [name for name in file.offset_keys() if not name.startswith("elsa.")]
        assert names == list(NET.level("dense"))
        order = {name: at for at, name in enumerate(file.offset_keys())}
        assert file.get_tensor("conv.weight").tobytes() == NET.level("dense")["conv.weight"][2]
        assert sorted(order) == sorted(file.keys())


def test_writing_is_deterministic(tmp_path: Path, masks: str) -> None:
    one = write_nested(tmp_path / "a", NET, masks).read_bytes()
    assert write_nested(tmp_path / "b", NET, masks).read_bytes() == one


def test_auto_takes_the_header_while_it_is_small(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_nested(tmp_path / "m", NET)
    small = path.read_bytes()
    assert manifest_of(path)["masks"] == "header"
    assert small == write_nested(path, NET, "header").read_bytes()
    large = write_nested(path, NET, "tensors").read_bytes()
    size = int.from_bytes(small[:8], "little") + 8
    monkeypatch.setattr(module, "HEADER_LIMIT", size)
    assert write_nested(path, NET).read_bytes() == small
    monkeypatch.setattr(module, "HEADER_LIMIT", size - 8)
    assert write_nested(path, NET).read_bytes() == large
    monkeypatch.setattr(module, "HEADER_LIMIT", size)
    monkeypatch.setattr(module, "MASKS_IN_MEMORY", 10)
    assert write_nested(path, NET).read_bytes() == large


def test_masks_of_empty_tensors_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    net = make("e", prunable=(("w", "F32", (0, 4)),), per_level=())
    for masks in ("header", "tensors", "auto"):
        with opened(write_nested(tmp_path / "m", net, masks)) as reader:
            assert read_level(reader, "0.9") == net.level("0.9")
    monkeypatch.setattr(module, "HEADER_LIMIT", 8)
    with opened(write_nested(tmp_path / "m", net)) as reader:
        assert reader.manifest.masks == "tensors"
        assert read_level(reader, "0.9") == net.level("0.9")


def test_a_header_that_cannot_hold_the_masks_is_refused(tmp_path: Path) -> None:
    numel = 8 << 30
    entry = Entry("w", DTYPES["F32"], (numel,), (), "")
    draft = Manifest(parse_levels("0.5"), (entry,), {}, 0, "header", ())
    with pytest.raises(UsageError, match=r'do not fit a header; use masks="tensors"$'):
        Places(draft, [TensorSpec("w", DTYPES["F32"], (numel,))], {}, {})


def copy(path: Path, name: str) -> Path:
    target = path.with_name(name)
    target.write_bytes(path.read_bytes())
    return target


def test_a_damaged_mask_in_the_header(tmp_path: Path) -> None:
    path = widen(write_nested(tmp_path / "m", NET, "header"))
    text = read_safetensors(path)[1]["elsa.mask.0.7"]
    other = read_safetensors(path)[1]["elsa.level.0.7/steps"]
    for damage in (None, "", "%", text[:-4], other, "é"):
        damaged = edit(copy(path, "damaged"), **{"elsa.mask.0.7": damage})
        with opened(damaged) as reader:
            with pytest.raises(BadManifest) as caught:
                read_level(reader, "0.7")
            assert str(damaged) in str(caught.value)
            assert caught.value.tensor == "elsa.mask.0.7"
            assert read_level(reader, "0.9") == NET.level("0.9")  # the other levels are whole


def test_a_damaged_level_tensor_in_the_header(tmp_path: Path) -> None:
    path = widen(write_nested(tmp_path / "m", NET, "header"))
    key = "elsa.level.0.5/norm.bias"
    for damage in (None, "", read_safetensors(path)[1]["elsa.level.0.5/norm.weight"]):
        damaged = edit(copy(path, "damaged"), **{key: damage})
        with opened(damaged) as reader, pytest.raises(BadManifest, match=key):
            read_level(reader, "0.5")


def rewritten(
    path: Path, change: Callable[[dict[str, tuple[str, tuple[int, ...], bytes]]], None]
) -> Path:
    tensors, metadata = read_safetensors(path)
    change(tensors)
    return write_safetensors(
        path.with_name("damaged"), [(k, *v) for k, v in tensors.items()], metadata
    )


@pytest.mark.parametrize("key", ["elsa.mask.0.7", "elsa.level.0.9/norm.weight"])
def test_a_stored_tensor_of_ours_that_is_missing_or_of_another_size(
    tmp_path: Path, key: str
) -> None:
    path = write_nested(tmp_path / "m", NET, "tensors")
    with pytest.raises(BadManifest, match=f"{key}: is missing"):
        open_any(rewritten(path, lambda tensors: tensors.pop(key) and None))
    for dtype, shape in (("U8", (3,)), ("I8", read_safetensors(path)[0][key][1])):
        new = (dtype, shape, bytes(nbytes(dtype, shape)))
        with pytest.raises(BadManifest, match=f"{key}: has the wrong size"):
            open_any(rewritten(path, lambda tensors, new=new: tensors.update({key: new})))  # type: ignore[misc]


def test_a_changed_dense_tensor_is_named(tmp_path: Path, masks: str) -> None:
    path = write_nested(tmp_path / "m", NET, masks)
    new = ("F32", (37, 11), bytes_of("x", 37 * 11 * 4))
    with pytest.raises(BadManifest, match=r"BF16.*37, 11.*F32") as caught:
        open_any(rewritten(path, lambda tensors: tensors.update({"fc.weight": new})))
    assert caught.value.tensor == "fc.weight"
    with pytest.raises(BadManifest, match=r"fc\.weight.*no such tensor"):
        open_any(rewritten(path, lambda tensors: tensors.pop("fc.weight") and None))


def test_one_level_without_any_tensor_of_its_own(tmp_path: Path, masks: str) -> None:
    net = make("one", ("0.5",), (("w", "F64", (7, 3)),), shared=(), per_level=())
    assert isinstance(net, Network)
    with opened(write_nested(tmp_path / "m", net, masks)) as reader:
        assert read_level(reader, "0.5") == net.level("0.5")
        assert reader.per_level(reader.available[0]) == {}
