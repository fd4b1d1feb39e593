"""Reading packed checkpoints, whole, cut and damaged."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open

from elsa_cli.checkpoint.opening import open_any
from elsa_cli.checkpoint.packed.reader import PackedReader
from elsa_cli.core.bits import unpack_bits
from elsa_cli.core.work import no_progress
from elsa_cli.errors import BadManifest, CutFile, TruncatedFile
from tests.helpers import read_safetensors
from tests.networks import (
    edit,
    make,
    manifest_of,
    masks_of,
    read_level,
    widen,
    write_nested,
    write_pack,
)

NET = make()
LEVELS = ("0.9", "0.7", "0.5", "dense")


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("packed")
    return write_pack(folder / "packed", write_nested(folder / "nested", NET))


def opened(path: Path) -> PackedReader:
    reader = open_any(path)
    assert isinstance(reader, PackedReader)
    return reader


def cut(path: Path, folder: Path, size: int) -> Path:
    target = folder / "cut"
    target.write_bytes(path.read_bytes()[:size])
    return target


def test_every_level_is_read(packed: Path) -> None:
    with opened(packed) as reader:
        assert [str(level) for level in reader.available] == list(LEVELS)
        assert reader.metadata == NET.metadata
        for level in (*LEVELS, *reversed(LEVELS)):
            assert read_level(reader, level) == NET.level(level)


def test_masks(packed: Path) -> None:
    with opened(packed) as reader:
        for at, name in enumerate(NET.prunable):
            pieces = masks_of(reader, at)
            for k, level in enumerate(LEVELS[:3]):
                found = [unpack_bits(bits[k], count) for _, count, bits in pieces]
                whole = NET.masks[level][name]
                assert (np.concatenate([whole[:0], *found]) == whole).all()


def test_tensors_longer_than_a_piece(tmp_path: Path) -> None:
    from elsa_cli.checkpoint.packed.reader import PIECE
    from elsa_cli.core.work import CHUNK

    specs = [("a", "F8_E5M2", (PIECE + 1,)), ("b", "F16", (CHUNK + PIECE - 3,)), ("c", "F64", (3,))]
    net = make("long", ("0.75", "0.25"), specs, shared=(), per_level=())
    with opened(write_pack(tmp_path / "p", write_nested(tmp_path / "n", net))) as reader:
        for level in ("0.75", "0.25", "dense"):
            assert read_level(reader, level) == net.level(level)


@pytest.mark.parametrize("k", range(4))
def test_a_file_cut_behind_a_level_holds_it_and_the_sparser_ones(
    packed: Path, tmp_path: Path, k: int
) -> None:
    prefix = manifest_of(packed)["prefix"]
    size = prefix[k]
    following = prefix[k + 1] - 1 if k < 3 else size
    for length in (size, size + 1, following):
        if length > prefix[-1]:
            continue
        with opened(cut(packed, tmp_path, length)) as reader:
            assert [str(level) for level in reader.available] == list(LEVELS[: k + 1])
            for level in LEVELS[: k + 1]:
                assert read_level(reader, level) == NET.level(level)
            for at in range(len(NET.prunable)):
                for _, _, bits in masks_of(reader, at):
                    assert len(bits) == min(k + 1, 3)
            for n, level in enumerate(LEVELS[k + 1 :], k + 1):
                with pytest.raises(CutFile) as caught:
                    read_level(reader, level)
                for word in (
                    str(tmp_path / "cut"),
                    f"level {level} needs the first {prefix[n]:,} bytes",
                    f"ends after {length:,}",
                    f"it holds {', '.join(LEVELS[: k + 1])}",
                ):
                    assert word in str(caught.value)


def test_a_file_cut_before_its_first_level(packed: Path, tmp_path: Path) -> None:
    prefix = manifest_of(packed)["prefix"][0]
    header = int.from_bytes(packed.read_bytes()[:8], "little") + 8
    for size in (prefix - 1, header + 1, header):
        with pytest.raises(CutFile) as caught:
            open_any(cut(packed, tmp_path, size))
        for word in ("level 0.9", f"first {prefix:,} bytes", f"ends after {size:,}", "fetch"):
            assert word in str(caught.value)
    for size in (header - 1, 8, 7, 0):
        with pytest.raises(TruncatedFile):
            open_any(cut(packed, tmp_path, size))


def test_a_level_reads_no_byte_past_its_prefix(
    packed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prefix = manifest_of(packed)["prefix"]
    furthest = 0
    real = os.preadv

    def watched(fd: int, buffers: list[memoryview], at: int) -> int:
        nonlocal furthest
        furthest = max(furthest, at + sum(map(len, buffers)))
        return real(fd, buffers, at)

    monkeypatch.setattr(os, "preadv", watched)
    for level, end in zip(LEVELS, prefix, strict=True):
        with opened(packed) as reader:
            furthest = 0
            read_level(reader, level)
        assert end - 16 < furthest <= end


def test_the_stock_library_reads_it(packed: Path) -> None:
    with safe_open(packed, "np") as file:
        assert file.get_tensor("elsa.shell.dense.values").dtype == np.uint8
        assert file.get_tensor("table.weight").tobytes() == NET.level("dense")["table.weight"][2]
        found = file.get_tensor("elsa.level.0.7/norm.weight").tobytes()
        assert found == NET.per_level["0.7", "norm.weight"]
        assert len(list(file.keys())) == 6 + 3 * 5 + 1


def test_torch_loads_it_whole(packed: Path, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    from safetensors.torch import load_file

    net = make("torch", shared=(("table", "F32", (3, 2)), ("odd", "U8", (3,))))
    path = write_pack(tmp_path / "p", write_nested(tmp_path / "n", net))
    state = load_file(path)
    for (level, name), data in net.per_level.items():
        tensor = state[f"elsa.level.{level}/{name}"]
        assert tensor.reshape(-1).view(torch.uint8).numpy().tobytes() == data


def damaged_at(packed: Path, folder: Path, name: str, change: int) -> Path:
    """Flip bits of the first byte of a tensor."""
    raw = bytearray(packed.read_bytes())
    at = int.from_bytes(raw[:8], "little") + 8
    for key, (_, _, data) in read_safetensors(packed)[0].items():
        if key == name:
            break
        at += len(data)
    raw[at] ^= change
    path = folder / "damaged"
    path.write_bytes(raw)
    return path


@pytest.mark.parametrize("level", LEVELS[:3])
@pytest.mark.parametrize("change", [1, 2, 4, 6, 255])
def test_a_damaged_coded_mask_is_named(
    packed: Path, tmp_path: Path, level: str, change: int
) -> None:
    path = damaged_at(packed, tmp_path, f"elsa.shell.{level}.mask", change)
    with opened(path) as reader:
        with pytest.raises(BadManifest) as caught:
            read_level(reader, level)
        assert caught.value.tensor == NET.prunable[0]
        assert str(path) in str(caught.value)
        for sparser in LEVELS[: LEVELS.index(level)]:
            assert read_level(reader, sparser) == NET.level(sparser)


def test_coded_sizes_of_the_wrong_tensors(packed: Path, tmp_path: Path) -> None:
    path = tmp_path / "p"
    path.write_bytes(packed.read_bytes())
    fields = manifest_of(widen(path))
    first, _, second, *_ = fields["tensors"]
    for delta in (1, -1, first["coded"][0]):
        one, two = dict(first), dict(second)
        one["coded"] = [first["coded"][0] - delta, *first["coded"][1:]]
        two["coded"] = [second["coded"][0] + delta, *second["coded"][1:]]
        fields["tensors"][0], fields["tensors"][2] = one, two
        with opened(edit(path, fields)) as reader, pytest.raises(BadManifest, match="coded mask"):
            read_level(reader, "0.9")


def test_counts_of_the_wrong_tensors(packed: Path, tmp_path: Path) -> None:
    """Sums that fit hide a wrong count only until the tensor is read."""
    net = make("two", ("0.5",), (("a", "F16", (8, 8)), ("b", "F16", (8, 8))), (), ())
    path = widen(write_pack(tmp_path / "p", write_nested(tmp_path / "n", net)))
    for delta in (1, -1):
        fields = manifest_of(path)
        fields["tensors"][0]["kept"] = [32 + delta]
        fields["tensors"][1]["kept"] = [32 - delta]
        damaged = tmp_path / "damaged"
        damaged.write_bytes(path.read_bytes())
        with opened(edit(damaged, fields)) as reader:
            for level in ("0.5", "dense"):
                with pytest.raises(BadManifest, match=r"too many|too few"):
                    read_level(reader, level)
            for at, words in enumerate(("too few", "too many")[::delta]):
                with pytest.raises(BadManifest, match=words) as caught:
                    masks_of(reader, at)
                assert caught.value.tensor == "ab"[at]


def test_every_byte_of_every_section_counts(packed: Path, tmp_path: Path) -> None:
    with opened(packed) as reader:
        assert reader.wrong_digests(1, no_progress) == (5, [])
    prefix = manifest_of(packed)["prefix"]
    header = int.from_bytes(packed.read_bytes()[:8], "little") + 8
    ends = [*prefix]
    begins = [reader.before_levels, *prefix[:-1]]
    assert header < begins[0]
    for section, begin, end in zip(
        ["shared", *LEVELS], [header, *begins], [begins[0], *ends], strict=True
    ):
        for at in (begin, end - 1):
            damaged = tmp_path / "damaged"
            raw = bytearray(packed.read_bytes())
            raw[at] ^= 1
            damaged.write_bytes(raw)
            with opened(damaged) as reader:
                assert reader.wrong_digests(2, no_progress) == (5, [section])


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"elsa.shell.0.7.mask"', '"elsa.shell.0.7.musk"'),
        ('"elsa.level.0.7/steps"', '"elsa.level.0.6/steps"'),
        ('"elsa.shell.0.9.values":{"dtype":"U8"', '"elsa.shell.0.9.values":{"dtype":"I8"'),
    ],
)
def test_sections_under_other_names_or_dtypes(
    packed: Path, tmp_path: Path, old: str, new: str
) -> None:
    raw = packed.read_bytes()
    assert (raw.count(old.encode()), len(old)) == (1, len(new))
    path = tmp_path / "p"
    path.write_bytes(raw.replace(old.encode(), new.encode()))
    with pytest.raises(BadManifest, match="does not describe the data"):
        open_any(path)
