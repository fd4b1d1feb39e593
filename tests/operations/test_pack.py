"""Pack, unpack and bundle."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from elsa_cli import extract, pack, sparsify, unpack, verify
from elsa_cli.errors import (
    CutFile,
    InputError,
    NotABundle,
    NothingToDo,
    OutputExists,
    UsageError,
)
from tests.helpers import FLOATS, Tensor, encode_floats, raw_bits
from tests.operations.models import (
    LEVELS,
    assert_network,
    every_dtype,
    network,
    save,
    small_pieces,
    zeroed,
)


@pytest.mark.parametrize("masks", ["header", "tensors"])
@pytest.mark.parametrize("kind", ["normal", "weird"])
def test_there_and_back(
    kind: str, masks: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = save(tmp_path / "m.safetensors", [*network(list(FLOATS), kind=kind), *every_dtype()])
    sparsify(source, LEVELS, masks=masks)
    nested = tmp_path / "m.elsa.safetensors"
    first = nested.read_bytes()
    report = pack(nested)
    assert report.output == str(tmp_path / "m.packed.elsa.safetensors")
    packed = Path(report.output).read_bytes()
    assert report.bytes_out == len(packed) == report.prefix[-1]
    nested.unlink()
    undone = unpack(report.output)
    assert undone.output == str(nested)
    assert undone.bytes_out == len(first)
    assert nested.read_bytes() == first
    for size in (1 << 18, 72):
        small_pieces(monkeypatch, size)
        for threads in (1, 3):
            pack(nested, tmp_path / "p", threads=threads)
            unpack(tmp_path / "p", tmp_path / "n", threads=threads)
            assert (tmp_path / "p").read_bytes() == packed
            assert (tmp_path / "n").read_bytes() == first


def test_wrong_kinds(tmp_path: Path) -> None:
    source = save(tmp_path / "m.safetensors", network())
    sparsify(source, "0.5")
    nested = tmp_path / "m.elsa.safetensors"
    packed = pack(nested).output
    names = sorted(p.name for p in tmp_path.iterdir())
    with pytest.raises(NothingToDo, match=r"packed already; unpack\(\) turns it back$"):
        pack(packed, tmp_path / "x")
    with pytest.raises(NothingToDo, match="is not packed"):
        unpack(nested, tmp_path / "x")
    with pytest.raises(UsageError, match=r"leave out levels$"):
        pack(nested, tmp_path / "x", levels="0.5")
    with pytest.raises(UsageError, match="no checkpoint"):
        pack([], tmp_path / "x")
    with pytest.raises(OutputExists):
        pack(nested, clobber=False)
    with pytest.raises(UsageError, match="also an input"):
        pack(nested, nested)
    with pytest.raises(InputError):
        pack(tmp_path / "none", tmp_path / "x")
    assert sorted(p.name for p in tmp_path.iterdir()) == names


def test_a_cut_file_cannot_be_unpacked(tmp_path: Path) -> None:
    source = save(tmp_path / "m.safetensors", network())
    sparsify(source, LEVELS)
    report = pack(tmp_path / "m.elsa.safetensors")
    cut = tmp_path / "cut"
    cut.write_bytes(Path(report.output).read_bytes()[: report.prefix[-2]])
    with pytest.raises(CutFile, match="level dense needs"):
        unpack(cut, tmp_path / "x")
    assert not (tmp_path / "x").exists()


class Ladder:
    """Dense and sparse checkpoints as another tool would have made them."""

    def __init__(self, folder: Path, dtypes: tuple[str, ...] = ("F32", "F16")) -> None:
        self.folder = folder
        self.tensors: list[Tensor] = network(dtypes)
        self.names = [t[0] for t in self.tensors if t[0].startswith(dtypes)]
        rng = np.random.default_rng(5)
        self.numel = 0
        self.order = {}
        for name, _, shape, _ in self.tensors:
            if name in self.names:
                self.order[name] = rng.permutation(int(np.prod(shape)))
                self.numel += self.order[name].size

    def save(self, name: str, tenths: int | None, bias: float | None = None) -> Path:
        """Write a network that keeps tenths of each tensor, or everything."""
        masks = (
            {} if tenths is None else {n: o < o.size * tenths // 10 for n, o in self.order.items()}
        )
        written: list[Tensor] = [(n, *t) for n, t in zeroed(self.tensors, masks).items()]
        if bias is not None:
            at = [t[0] for t in written].index("conv.bias")
            data = np.full(8, bias, "<f4").tobytes()
            written[at] = (*written[at][:3], data)
        return save(self.folder / name, written)


def test_bundle(tmp_path: Path) -> None:
    """Sparse files in any order; biases that differ come out with their level."""
    ladder = Ladder(tmp_path)
    dense = ladder.save("dense", None)
    files = [ladder.save("half", 5, bias=2.0), ladder.save("tenth", 1, bias=3.0)]
    for threads in (1, 3):
        report = pack([dense, *files], tmp_path / "all", threads=threads)
        levels = [level.text for level in report.levels]
        assert len(levels) == 3
        assert verify(tmp_path / "all").ok
        for level, file in zip(levels, [files[1], files[0], dense], strict=True):
            extract(tmp_path / "all", level, tmp_path / "x")
            assert (tmp_path / "x").read_bytes() == resaved(file, tmp_path)
    named = pack([dense, *files], tmp_path / "named", levels="0.5,90%")
    assert [level.text for level in named.levels] == ["0.9", "0.5", "dense"]
    unpack(tmp_path / "named", tmp_path / "nested")
    assert verify(tmp_path / "nested").ok
    pack(tmp_path / "nested", tmp_path / "again")
    for level in ("0.9", "0.5", "dense"):
        for name in ("nested", "again"):
            extract(tmp_path / name, level, tmp_path / "x")
            extract(tmp_path / "named", level, tmp_path / "y")
            assert (tmp_path / "x").read_bytes() == (tmp_path / "y").read_bytes()


def resaved(file: Path, folder: Path) -> bytes:
    """Return what dense of a nested copy is: the same file in the library's order."""
    sparsify(file, "0.5", folder / "tmp", include=["*.fc.weight"])
    extract(folder / "tmp", "dense", folder / "tmp2")
    return (folder / "tmp2").read_bytes()


def test_bundle_of_what_extract_wrote(tmp_path: Path) -> None:
    tensors = network(["F32", "BF16"])
    source = save(tmp_path / "m.safetensors", tensors)
    sparsify(source, LEVELS)
    nested = tmp_path / "m.elsa.safetensors"
    extract(nested, LEVELS)
    files = [tmp_path / f"m-{level}.safetensors" for level in LEVELS]
    report = pack([source, *files], tmp_path / "all")
    assert [level.text for level in report.levels] == [*LEVELS, "dense"]
    for level in LEVELS:
        extract(tmp_path / "all", level, tmp_path / "x")
        assert (tmp_path / "x").read_bytes() == (tmp_path / f"m-{level}.safetensors").read_bytes()


def change(file: Path, tensors: Sequence[Tensor], name: str, at: int, value: float) -> None:
    """Write a copy in which one weight has another value."""
    result = []
    for tensor in tensors:
        if tensor[0] == name:
            bits = raw_bits(tensor[1], tensor[3]).copy()
            bits[at] = encode_floats(tensor[1], np.array([value]))[0]
            tensor = (*tensor[:3], bits.tobytes())
        result.append(tensor)
    save(file, result)


def test_bundles_that_are_none(tmp_path: Path) -> None:
    ladder = Ladder(tmp_path)
    dense = ladder.save("dense", None)
    half = ladder.save("half", 5)
    names = sorted(p.name for p in tmp_path.iterdir())
    with pytest.raises(NotABundle, match="no sparse checkpoint differs"):
        pack([dense, ladder.save("same", None)], tmp_path / "x")
    # A kept weight that changed.
    kept = int(np.flatnonzero(ladder.order["F32.fc.weight"] == 0)[0])
    sparse = [
        (n, *t)
        for n, t in zeroed(
            ladder.tensors, {n: o < o.size // 2 for n, o in ladder.order.items()}
        ).items()
    ]
    change(tmp_path / "trained", sparse, "F32.fc.weight", kept, 123.0)
    with pytest.raises(NotABundle, match="1 of 480 kept weights differ") as caught:
        pack([dense, tmp_path / "trained"], tmp_path / "x")
    assert caught.value.tensor == "F32.fc.weight"
    assert caught.value.file == str(tmp_path / "trained")
    # Masks that do not nest.
    other = Ladder(tmp_path)
    other.order = {n: o[::-1].copy() for n, o in ladder.order.items()}
    with pytest.raises(NotABundle, match=r"weights kept in .*odd are zero here") as caught:
        pack([dense, half, other.save("odd", 1)], tmp_path / "x")
    assert caught.value.tensor in ladder.names
    # Another network, and names of levels that do not fit.
    save(tmp_path / "less", ladder.tensors[1:])
    with pytest.raises(NotABundle, match="missing") as caught:
        pack([dense, tmp_path / "less"], tmp_path / "x")
    assert caught.value.tensor == ladder.tensors[0][0]
    with pytest.raises(UsageError, match="2 levels for 1"):
        pack([dense, half], tmp_path / "x", levels="0.5,0.9")
    with pytest.raises(UsageError, match="name the sparse ones only"):
        pack([dense, half], tmp_path / "x", levels="dense")
    made = {"same", "trained", "odd", "less"}
    assert sorted(p.name for p in tmp_path.iterdir() if p.name not in made) == names


def test_bundle_keeps_zeros_that_dense_has(tmp_path: Path) -> None:
    """A -0.0 of dense that the sparse file has too is kept, and comes out with its sign."""
    dense = np.array([[1, -0.0, 2, 3]], "<f4")
    sparse = np.array([[0, -0.0, 2, 3]], "<f4")
    for name, values in (("dense", dense), ("sparse", sparse)):
        save(tmp_path / name, [("w", "F32", (1, 4), values.tobytes())])
    pack([tmp_path / "dense", tmp_path / "sparse"], tmp_path / "x")
    extract(tmp_path / "x", "0.2", tmp_path / "y")
    assert_network(tmp_path / "y", {"w": ("F32", (1, 4), sparse.tobytes())})
