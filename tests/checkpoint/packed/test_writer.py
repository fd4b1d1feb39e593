"""Writing packed checkpoints, and back."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest

from elsa_cli.checkpoint.opening import open_any
from elsa_cli.errors import BadManifest, DiskFull
from elsa_cli.operations.pack import unpack
from elsa_cli.storage.output import OutputFile
from tests.helpers import BITS, FLOATS, Tensors, raw_bits, read_safetensors, write_safetensors
from tests.networks import PRUNABLE as SPECS
from tests.networks import (
    Network,
    decode_shell,
    edit,
    make,
    manifest_of,
    read_level,
    widen,
    write_nested,
    write_pack,
)

NET = make()
EVERY = make(
    "every",
    ("0.99", "0.5", "0.01"),
    tuple((f"w.{dtype}", dtype, (6, 7)) for dtype in FLOATS),
    tuple((f"s.{dtype}", dtype, (4,)) for dtype in BITS),
    tuple((f"n.{dtype}", dtype, (8,)) for dtype in BITS if dtype not in ("F4", "BOOL")),
)
NETS = {
    "usual": NET,
    "every dtype": EVERY,
    "no shared": make("a", shared=(), per_level=()),
    "one level": make("b", ("0.5",)),
    "extreme levels": make("c", ("0.999999", "0.000001")),
    "one tensor": make("d", prunable=SPECS[:1], shared=(), per_level=()),
    "only empty tensors": make("e", prunable=(("w", "F32", (0, 4)),)),
    "equal masks": make("f", ("0.5000001", "0.5")),
}


def by_hand(path: Path, level: str) -> Tensors:
    """Put a level together as the format's page says, without the package."""
    tensors, metadata = read_safetensors(path)
    manifest = json.loads(metadata["elsa"])
    found = {k: v for k, v in tensors.items() if not k.startswith("elsa.")}
    for name in manifest["per_level"]:
        found[name] = tensors.get(f"elsa.level.{level}/{name}", found[name])
    every = [*manifest["levels"], "dense"]
    entries = manifest["tensors"]
    result = {
        t["name"]: np.zeros(int(np.prod(t["shape"])), f"<u{BITS[t['dtype']] // 8}") for t in entries
    }
    free = {name: np.arange(bits.size) for name, bits in result.items()}
    for k, shell in enumerate(every[: every.index(level) + 1]):
        coded = tensors[f"elsa.shell.{shell}.mask"][2] if shell != "dense" else b""
        values = tensors[f"elsa.shell.{shell}.values"][2]
        for t in entries:
            rest = free[t["name"]]
            chosen = np.ones(rest.size, np.bool_)
            if shell != "dense":
                marked = t["kept"][k] - (t["kept"][k - 1] if k else 0)
                chosen = decode_shell(coded[: t["coded"][k]], marked, rest.size)
                coded = coded[t["coded"][k] :]
            size = int(chosen.sum()) * BITS[t["dtype"]] // 8
            result[t["name"]][rest[chosen]] = raw_bits(t["dtype"], values[:size])
            values = values[size:]
            free[t["name"]] = rest[~chosen]
        assert values == bytes(len(values))
        assert coded == bytes(len(coded))
        assert max(len(values), len(coded)) < 8  # padding alone is left
    for t in entries:
        found[t["name"]] = (t["dtype"], tuple(t["shape"]), result[t["name"]].tobytes())
    return found


@pytest.mark.parametrize("case", NETS)
@pytest.mark.parametrize("masks", ["header", "tensors"])
def test_there_and_back_bit_for_bit(tmp_path: Path, case: str, masks: str) -> None:
    net = NETS[case]
    nested = write_nested(tmp_path / "nested", net, masks)
    packed = write_pack(tmp_path / "packed", nested)
    unpack(packed, tmp_path / "again", threads=2)
    assert (tmp_path / "again").read_bytes() == nested.read_bytes()
    again = write_pack(tmp_path / "packed again", tmp_path / "again", threads=3)
    assert again.read_bytes() == packed.read_bytes()
    assert sorted(os.listdir(tmp_path)) == ["again", "nested", "packed", "packed again"]
    reader = open_any(packed)
    with reader:
        for level in (*net.masks, "dense"):
            assert read_level(reader, level) == net.level(level)  # type: ignore[arg-type]


@pytest.mark.parametrize("case", NETS)
def test_the_file_is_as_the_format_says(tmp_path: Path, case: str) -> None:
    net: Network = NETS[case]
    path = write_pack(tmp_path / "packed", write_nested(tmp_path / "nested", net))
    for level in (*net.masks, "dense"):
        assert by_hand(path, level) == net.level(level)
    metadata = read_safetensors(path)[1]
    assert {k: v for k, v in metadata.items() if k != "elsa"} == net.metadata
    assert metadata["elsa"] == json.dumps(
        json.loads(metadata["elsa"]), sort_keys=True, separators=(",", ":"), ensure_ascii=False
    )
    assert manifest_of(path)["prefix"][-1] == path.stat().st_size


def test_each_level_lies_behind_the_sparser_one(tmp_path: Path) -> None:
    path = write_pack(tmp_path / "packed", write_nested(tmp_path / "nested", NET))
    names = [n for n in read_safetensors(path)[0] if n.startswith("elsa.shell.")]
    expected = [f"elsa.shell.{lv}.{k}" for lv in NET.masks for k in ("mask", "values")]
    assert names == [*expected, "elsa.shell.dense.values"]
    order = list(read_safetensors(path)[0])
    assert not any(n.startswith("elsa.") for n in order[:6])
    own = [n for n in order if n.startswith("elsa.level.0.7/")]
    assert order.index("elsa.shell.0.9.values") < order.index(own[0])
    assert order.index(own[-1]) < order.index("elsa.shell.0.7.mask")


def test_the_bytes_do_not_depend_on_the_threads(tmp_path: Path) -> None:
    nested = write_nested(tmp_path / "nested", EVERY)
    files = [write_pack(tmp_path / f"{n}", nested, n).read_bytes() for n in (1, 2, 5)]
    assert files[0] == files[1] == files[2]


def test_masks_that_do_not_nest_are_refused(tmp_path: Path) -> None:
    net = make("g", ("0.7", "0.5"), (("a", "F16", (8, 8)), ("w", "F16", (8, 8))))
    nested = write_nested(tmp_path / "nested", net, "tensors")
    tensors, metadata = read_safetensors(nested)
    mask = np.frombuffer(tensors["elsa.mask.0.5"][2], np.uint8).copy()
    mask[8:] = np.roll(mask[8:], 1)
    tensors["elsa.mask.0.5"] = ("U8", (16,), mask.tobytes())
    write_safetensors(nested, [(name, *rest) for name, rest in tensors.items()], metadata)
    with pytest.raises(BadManifest, match=r"the mask of 0\.7 is not inside that of 0\.5") as caught:
        write_pack(tmp_path / "packed", nested)
    assert caught.value.tensor == "w"
    assert str(nested) in str(caught.value)
    assert os.listdir(tmp_path) == ["nested"]


def test_masks_with_other_counts_are_refused(tmp_path: Path) -> None:
    nested = widen(write_nested(tmp_path / "nested", NET))
    fields = manifest_of(nested)
    fields["tensors"][2]["kept"][1] += 1
    edit(nested, fields)
    with pytest.raises(BadManifest, match="the masks keep") as caught:
        write_pack(tmp_path / "packed", nested)
    assert caught.value.tensor == "fc.weight"


def test_a_full_disk_is_found_before_the_data_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nested = write_nested(tmp_path / "nested", NET)
    size = write_pack(tmp_path / "packed", nested).stat().st_size
    old = (tmp_path / "packed").read_bytes()
    wanted: list[int] = []

    def reserve(out: OutputFile, needed: int) -> None:
        wanted.append(needed)
        raise DiskFull("full", file=out.path)

    monkeypatch.setattr(OutputFile, "reserve", reserve)
    with pytest.raises(DiskFull):
        write_pack(tmp_path / "packed", nested)
    # The masks are on disk already, in the spool, which goes before the values come.
    spooled = sum(sum(t["coded"]) for t in manifest_of(tmp_path / "packed")["tensors"])
    assert wanted == [size - spooled]
    assert (tmp_path / "packed").read_bytes() == old
    assert sorted(os.listdir(tmp_path)) == ["nested", "packed"]
