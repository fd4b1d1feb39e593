"""Verify finds what was changed, and says where."""

from __future__ import annotations

import base64
import json
import zlib
from pathlib import Path

import numpy as np
import pytest

from elsa_cli import pack, sparsify, verify
from elsa_cli.core.work import pieces_of
from elsa_cli.errors import BadManifest, CutFile, NotNested, TruncatedFile
from elsa_cli.operations.verify import VerifyReport
from tests.helpers import read_safetensors, write_safetensors
from tests.operations.models import LEVELS, flip, network, place, save


def make(tmp_path: Path, masks: str) -> Path:
    source = save(tmp_path / "m.safetensors", network())
    sparsify(source, LEVELS, masks=masks)
    return tmp_path / "m.elsa.safetensors"


def where(report: VerifyReport) -> set[str]:
    assert not report.ok
    return {problem.where for problem in report.problems}


def rewrite(path: Path, masks: dict[str, bytes]) -> None:
    """Replace masks, wherever they lie, and leave everything else."""
    tensors, metadata = read_safetensors(path)
    for name, raw in masks.items():
        if name in tensors:
            tensors[name] = (*tensors[name][:2], raw)
        else:
            coder = zlib.compressobj(9, zlib.DEFLATED, -15)
            text = base64.b64encode(coder.compress(raw) + coder.flush())
            metadata[name] = text.decode()
    write_safetensors(path, [(n, *t) for n, t in tensors.items()], metadata)


def masks_of(path: Path) -> dict[str, bytes]:
    tensors, metadata = read_safetensors(path)
    found = {n: t[2] for n, t in tensors.items() if n.startswith("elsa.mask.")}
    for key, text in metadata.items():
        if key.startswith("elsa.mask."):
            found[key] = zlib.decompress(base64.b64decode(text), -15)
    assert len(found) == len(LEVELS)
    return found


@pytest.mark.parametrize("masks", ["header", "tensors"])
def test_whole_files(masks: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nested = make(tmp_path, masks)
    packed = pack(nested).output
    for size in (1 << 18, 40):
        for threads in (1, 3):
            with pieces_of(size):
                report = verify(nested, threads=threads)
            assert (report.ok, report.kind, report.tensors) == (True, "nested", 6)
            assert report.digests == 6 + len(LEVELS)
            with pieces_of(size):
                report = verify(packed, threads=threads)
            assert (report.ok, report.kind, report.tensors) == (True, "packed", 6)
            assert report.digests == 2 + len(LEVELS)
            assert [level.text for level in report.levels] == [*LEVELS, "dense"]


@pytest.mark.parametrize("masks", ["header", "tensors"])
def test_a_bit_of_a_weight(masks: str, tmp_path: Path) -> None:
    nested = make(tmp_path, masks)
    for name in ("F32.conv.weight", "BF16.fc.weight", "F8_E5M2.fc.weight"):
        begin, end = place(nested, name)
        for offset in (begin, end - 1):
            flip(nested, offset, 7)
            assert where(verify(nested)) == {name}
            flip(nested, offset, 7)
    assert verify(nested).ok


@pytest.mark.parametrize("masks", ["header", "tensors"])
@pytest.mark.parametrize("level", LEVELS)
def test_a_bit_of_a_mask(level: str, masks: str, tmp_path: Path) -> None:
    nested = make(tmp_path, masks)
    stored = masks_of(nested)
    changed = bytearray(stored[f"elsa.mask.{level}"])
    changed[0] ^= 1
    rewrite(nested, {f"elsa.mask.{level}": bytes(changed)})
    # The manifest lists tensors as the file does: F32 first.
    assert where(verify(nested)) >= {f"elsa.mask.{level}", "F32.conv.weight"}
    changed = bytearray(stored[f"elsa.mask.{level}"])
    changed[-1] ^= 0x80
    rewrite(nested, {f"elsa.mask.{level}": bytes(changed)})
    assert where(verify(nested)) >= {f"elsa.mask.{level}"}
    rewrite(nested, stored)
    assert verify(nested).ok


@pytest.mark.parametrize("masks", ["header", "tensors"])
def test_swapped_masks(masks: str, tmp_path: Path) -> None:
    nested = make(tmp_path, masks)
    stored = masks_of(nested)
    a, b = "elsa.mask.0.9", "elsa.mask.0.5"
    rewrite(nested, {a: stored[b], b: stored[a]})
    report = verify(nested)
    names = {t[0] for t in network() if t[0].startswith(("F32", "BF16", "F8"))}
    assert where(report) == {a, b, *names}
    text = "\n".join(problem.what for problem in report.problems)
    assert "level 0.9 keeps" in text
    assert "weights of level 0.9 are not in level 0.7" in text


@pytest.mark.parametrize("masks", ["header", "tensors"])
def test_a_mask_with_the_right_count_that_does_not_nest(masks: str, tmp_path: Path) -> None:
    nested = make(tmp_path, masks)
    bits = np.unpackbits(np.frombuffer(masks_of(nested)["elsa.mask.0.7"], np.uint8))
    sparser = np.unpackbits(np.frombuffer(masks_of(nested)["elsa.mask.0.9"], np.uint8))
    owned = int(np.flatnonzero(sparser[:288])[0])
    free = int(np.flatnonzero(bits[:288] == 0)[0])
    bits[owned], bits[free] = 0, 1
    rewrite(nested, {"elsa.mask.0.7": np.packbits(bits).tobytes()})
    report = verify(nested)
    assert where(report) >= {"elsa.mask.0.7", "F32.conv.weight"}
    strays = [p.what for p in report.problems if p.where == "F32.conv.weight"]
    assert "1 weights of level 0.9 are not in level 0.7" in strays
    with pytest.raises(BadManifest, match=r"mask of 0\.9 is not inside that of 0\.7") as caught:
        pack(nested)
    assert caught.value.tensor == "F32.conv.weight"


def test_damaged_text_of_a_mask(tmp_path: Path) -> None:
    nested = make(tmp_path, "header")
    tensors, metadata = read_safetensors(nested)
    metadata["elsa.mask.0.7"] = metadata["elsa.mask.0.7"][:-8]
    write_safetensors(nested, [(n, *t) for n, t in tensors.items()], metadata)
    with pytest.raises(BadManifest) as caught:
        verify(nested)
    assert caught.value.tensor == "elsa.mask.0.7"


def test_every_byte_of_a_packed_file_counts(tmp_path: Path) -> None:
    packed = Path(pack(make(tmp_path, "header")).output)
    raw = packed.read_bytes()
    length = int.from_bytes(raw[:8], "little") + 8
    manifest = json.loads(json.loads(raw[8:length])["__metadata__"]["elsa"])
    ends = dict(zip([*LEVELS, "dense"], manifest["prefix"], strict=True))
    first = min(place(packed, "elsa.shell.0.9.mask"))
    bounds = {"shared": (length, first)}
    for name, end in ends.items():
        bounds[name] = (first, end)
        first = end
    for name, (begin, end) in bounds.items():
        for offset in (begin, (begin + end) // 2, end - 1):
            flip(packed, offset, 3)
            assert name in where(verify(packed)), offset
            flip(packed, offset, 3)
    assert verify(packed).ok


def test_truncated_packed_files(tmp_path: Path) -> None:
    report = pack(make(tmp_path, "header"))
    raw = Path(report.output).read_bytes()
    cut = tmp_path / "cut"
    every = [*LEVELS, "dense"]
    for at, prefix in enumerate(report.prefix):
        cut.write_bytes(raw[:prefix])
        found = verify(cut)
        assert found.ok
        assert [level.text for level in found.levels] == every[: at + 1]
        if at + 1 < len(every):
            cut.write_bytes(raw[: prefix + 1])
            found = verify(cut)
            assert where(found) == {"end of file"}
            assert f"1 bytes after level {every[at]}" in found.problems[0].what
    cut.write_bytes(raw[: report.prefix[0] - 1])
    with pytest.raises(CutFile, match=r"level 0\.9 needs the first"):
        verify(cut)
    length = int.from_bytes(raw[:8], "little")
    cut.write_bytes(raw[: length - 5])
    with pytest.raises(TruncatedFile):
        verify(cut)


def test_truncated_nested_file(tmp_path: Path) -> None:
    nested = make(tmp_path, "tensors")
    nested.write_bytes(nested.read_bytes()[:-1])
    with pytest.raises(TruncatedFile, match="ends 1 bytes early") as caught:
        verify(nested)
    assert caught.value.tensor is not None


def test_plain_file(tmp_path: Path) -> None:
    with pytest.raises(NotNested):
        verify(save(tmp_path / "m.safetensors", network()))
