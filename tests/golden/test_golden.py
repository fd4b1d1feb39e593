"""Old files stay readable for ever, and today's writer still writes what it wrote."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

from elsa_cli.checkpoint.opening import open_nested
from elsa_cli.core.bits import unpack_bits
from elsa_cli.operations.extract import extract
from elsa_cli.operations.verify import verify
from tests.golden import make
from tests.helpers import read_safetensors
from tests.networks import masks_of, read_level

HERE = Path(__file__).parent
EXPECTED: dict[str, dict[str, str]] = json.loads((HERE / "expected.json").read_text())
LEVELS = [name for name in EXPECTED if not name.startswith("mask ")]


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def test_there_are_files_of_all_kinds() -> None:
    assert sorted(p.name for p in HERE.glob("*.safetensors")) == sorted(make.FILES)
    assert sorted(LEVELS) == ["0.5", "0.7", "0.9", "dense"]
    assert all((HERE / name).stat().st_size < 10_000 for name in make.FILES)


@pytest.mark.parametrize("name", make.FILES[1:])
@pytest.mark.parametrize("level", LEVELS)
def test_levels(name: str, level: str, tmp_path: Path) -> None:
    with open_nested(HERE / name) as reader:
        found = read_level(reader, level)
    assert {k: sha256(data) for k, (_, _, data) in found.items()} == EXPECTED[level]
    extract(HERE / name, level, tmp_path / "out")
    tensors, metadata = read_safetensors(tmp_path / "out")
    assert tensors == found
    assert metadata == {"format": "pt", "épоха": "3"}
    if level == "dense":
        assert (tmp_path / "out").read_bytes() == (HERE / make.FILES[0]).read_bytes()


@pytest.mark.parametrize("name", make.FILES[1:])
def test_masks(name: str) -> None:
    with open_nested(HERE / name) as reader:
        for at, entry in enumerate(reader.manifest.tensors):
            pieces = masks_of(reader, at)
            for k, level in enumerate(reader.manifest.levels):
                parts = [unpack_bits(bits[k], count) for _, count, bits in pieces]
                whole = np.concatenate([np.zeros(0, np.bool_), *parts])
                packed = np.packbits(whole, bitorder="little").tobytes()
                assert sha256(packed) == EXPECTED[f"mask {level}"][entry.name]
                assert int(whole.sum()) == entry.kept[k]


@pytest.mark.parametrize("name", make.FILES[1:])
def test_they_verify(name: str) -> None:
    assert verify(HERE / name).problems == ()


def test_the_expectations_are_those_of_the_network() -> None:
    assert make.expected(make.network()) == EXPECTED


@pytest.mark.parametrize("name", [*make.WRITTEN, "expected.json"])
def test_the_writer_still_writes_them(name: str, tmp_path: Path) -> None:
    make.write(tmp_path)
    assert (tmp_path / name).read_bytes() == (HERE / name).read_bytes()
