"""A nested network in memory is the file it came from, and goes back to the same bytes."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
import torch

from elsa_cli import load_level, open_nested, pack, sparsify, verify
from elsa_cli.core.level import DENSE, parse_levels
from elsa_cli.errors import CutFile, UsageError
from elsa_cli.models.nested import Nested
from elsa_cli.models.nested_file import NestedFile, digest_of
from tests.helpers import read_safetensors
from tests.models.nested_files import (
    STAGES,
    TEXT,
    change_weights,
    choose,
    give_per_level,
    plain,
    read,
    store,
)
from tests.operations.models import save
from tests.training.tiny import assert_same, random_owner

# Reading.


@pytest.mark.parametrize("masks", ["header", "tensors", "packed"])
@pytest.mark.parametrize("threads", [1, 3])
def test_a_nested_file_in_memory(threads: int, masks: str, tmp_path: Path) -> None:
    path = tmp_path / "nested"
    sparsify(plain(tmp_path), TEXT, path, masks="auto" if masks == "packed" else masks, seed=3)
    if masks == "packed":
        path = Path(pack(path, tmp_path / "packed").output)
    file = read(path, threads)
    nested = file.nested
    assert nested.levels == STAGES
    assert nested.per_level == {}
    assert file.metadata == {"format": "pt", "note": "kept"}
    assert (file.method["name"], file.seed) == ("magnitude", 3)
    with open_nested(path) as opened:
        assert tuple(nested.owner) == opened.prunable
        for stage, level in enumerate(STAGES):
            for name, owner in nested.owner.items():
                assert owner.dtype == torch.uint8
                assert ((owner <= stage).numpy() == opened.mask(level, name)).all()
            assert_same(nested.state(level), load_level(path, level))
        assert_same(nested.values, load_level(path, "dense"))


@pytest.mark.parametrize("masks", ["header", "tensors", "packed"])
def test_a_tensor_of_several_pieces_beside_small_ones(masks: str, tmp_path: Path) -> None:
    """Odd sizes, so that neither a piece nor a tensor ends on a byte of its mask."""
    shapes = {"a.weight": (3, 5), "b.weight": (1031, 1021), "c.weight": (7, 3), "d.weight": (5, 9)}
    torch.manual_seed(0)
    state = {name: torch.randn(shape) for name, shape in shapes.items()}
    path = tmp_path / "m.safetensors"
    save(path, [(n, "F32", tuple(t.shape), t.numpy().tobytes()) for n, t in state.items()])
    sparsify(path, TEXT, tmp_path / "nested", masks="auto" if masks == "packed" else masks)
    if masks == "packed":
        pack(tmp_path / "nested", tmp_path / "packed")
    nested = read(tmp_path / ("packed" if masks == "packed" else "nested")).nested
    assert_same(nested.values, state)
    for level in STAGES:
        assert_same(nested.state(level), load_level(tmp_path / "nested", level))


def test_what_is_read_can_be_written_to(tmp_path: Path) -> None:
    sparsify(plain(tmp_path), TEXT, tmp_path / "nested")
    nested = read(tmp_path / "nested").nested
    for tensor in (*nested.values.values(), *nested.owner.values()):
        if tensor.numel():
            tensor.view(-1)[0] = tensor.view(-1)[-1]


def test_a_packed_file_that_is_cut(tmp_path: Path) -> None:
    sparsify(plain(tmp_path), TEXT, tmp_path / "nested")
    report = pack(tmp_path / "nested", tmp_path / "packed")
    (tmp_path / "cut").write_bytes(Path(report.output).read_bytes()[: report.prefix[1]])
    with pytest.raises(CutFile):
        read(tmp_path / "cut")


def test_a_dtype_that_torch_lacks(tmp_path: Path) -> None:
    tensors = [
        ("a.weight", "F32", (8, 8), struct.pack("<64f", *range(64))),
        ("odd", "F4", (4, 4), bytes(8)),
    ]
    save(tmp_path / "m.safetensors", tensors)
    sparsify(tmp_path / "m.safetensors", TEXT, tmp_path / "nested", include=["a.weight"])
    with pytest.raises(UsageError, match=r"^torch has no dtype F4"):
        read(tmp_path / "nested")


# Writing.


@pytest.mark.parametrize("masks", ["header", "tensors"])
@pytest.mark.parametrize("kind", ["normal", "weird"])
def test_writing_gives_the_bytes_that_were_read(kind: str, masks: str, tmp_path: Path) -> None:
    path = tmp_path / "nested"
    sparsify(plain(tmp_path, kind), TEXT, path, masks=masks, method="random", seed=7)
    store(read(path), tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == path.read_bytes()
    pack(path, tmp_path / "packed")
    file = read(tmp_path / "packed")
    file.placement = masks
    store(file, tmp_path / "third", threads=1)
    assert (tmp_path / "third").read_bytes() == path.read_bytes()


def test_weights_masks_and_per_level_tensors_come_back(tmp_path: Path) -> None:
    file = choose(plain(tmp_path)).file
    change_weights(file)
    give_per_level(file)
    nested = file.nested
    for seed, (name, owner) in enumerate(nested.owner.items()):
        nested.owner[name] = random_owner(owner.shape, TEXT, seed)
    nested.values["F32.conv.weight"] = nested.values["F32.conv.weight"].to(
        memory_format=torch.channels_last
    )
    store(file, tmp_path / "trained")
    assert verify(tmp_path / "trained").ok
    for level in (*STAGES, DENSE):
        wanted = {n: t.contiguous() for n, t in nested.state(level).items()}
        assert_same(load_level(tmp_path / "trained", level), wanted)
    again = read(tmp_path / "trained").nested
    assert_same(again.owner, nested.owner)
    assert_same(again.values, nested.values)
    for level in STAGES:
        assert_same(again.per_level[level], nested.per_level[level])
    assert_same(again.per_level[DENSE], {n: nested.values[n] for n in ("conv.bias", "steps")})


def test_hashes_of_weights_that_were_trained_are_not_written(tmp_path: Path) -> None:
    file = choose(plain(tmp_path)).file
    file.metadata = {**file.metadata, "sshs_model_hash": "00"}
    store(file, tmp_path / "written")
    assert read_safetensors(tmp_path / "written")[1]["note"] == "kept"
    assert "sshs_model_hash" not in read(tmp_path / "written").metadata


# What a save compares.


def drawn() -> NestedFile:
    """Return a matrix with masks, a bias, and a bias for each level."""
    torch.manual_seed(0)
    values = {"w": torch.randn(8, 8), "b": torch.zeros(3)}
    owner = {"w": random_owner(torch.Size((8, 8)), TEXT)}
    per_level = {level: {"b": torch.zeros(3)} for level in STAGES}
    return NestedFile(Nested(STAGES, values, owner, per_level), {}, {}, 0, "auto")


def test_a_digest_is_the_same_for_the_same() -> None:
    assert digest_of(drawn().nested) == digest_of(drawn().nested)
    assert len(digest_of(drawn().nested)) == 16


@pytest.mark.parametrize("what", ["value", "sign", "bias", "mask", "levels", "per-level"])
def test_a_digest_sees_every_bit(what: str) -> None:
    nested = drawn().nested
    before = digest_of(nested)
    if what == "value":
        nested.values["w"].view(torch.int32)[7, 7] ^= 1
    elif what == "sign":
        nested.values["b"][0] = -0.0
    elif what == "bias":
        nested.values["b"][2] = 1.0
    elif what == "mask":
        nested.owner["w"][0, 0] ^= 1
    elif what == "levels":
        nested.levels = parse_levels("0.91,0.7,0.5")
    else:
        nested.per_level[STAGES[1]]["b"][1] = 2.0
    assert digest_of(nested) != before
