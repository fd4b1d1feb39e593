"""What every nested source does: the contract of `elsa_cli/checkpoint/source.py`.

Each kind is written in both forms, and what is read from them is the network that it stands for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest

from elsa_cli.checkpoint.nested.writer import write_nested
from elsa_cli.checkpoint.opening import open_nested, open_plain
from elsa_cli.checkpoint.packed.writer import write_packed
from elsa_cli.checkpoint.source import NestedSource
from elsa_cli.core.bits import unpack_bits
from elsa_cli.core.level import DENSE, parse_levels
from elsa_cli.core.work import Scratch, no_progress
from elsa_cli.errors import LevelNotStored
from elsa_cli.foreign.bundle import Bundle
from elsa_cli.operations.verify import verify
from elsa_cli.storage.container import Container
from elsa_cli.storage.output import OutputFile
from tests import networks
from tests.networks import Network, make, masks_of, read_level

LEVELS = ("0.9", "0.7", "0.5")
# Tensors of several sizes and dtypes: small ones that are read together, and larger ones.
NET = make(
    prunable=(
        ("a.weight", "F32", (8, 3, 3, 3)),
        ("b.weight", "BF16", (37, 11)),
        ("c.weight", "F64", (9, 2)),
        ("d.weight", "F8_E5M2", (24, 20)),
        ("e.weight", "BF16", (301, 111)),
    )
)


def no_nan(net: Network) -> Network:
    """Return a network without NaN and zeros, of which the kept weights can be told by value."""
    tensors = []
    for name, dtype, shape, data in net.tensors:
        if name in net.prunable:
            bits = np.frombuffer(data, np.uint8) & 0b00111110 | 1
            data = bits.tobytes()
        tensors.append((name, dtype, shape, data))
    return Network(tuple(tensors), net.masks, net.per_level, net.metadata)


NET = no_nan(NET)


def from_tests(folder: Path, stack: ExitStack) -> NestedSource:
    container = stack.enter_context(Container(NET.write(folder / "plain")))
    return networks.Source(NET, container, "auto")


def nested_header(folder: Path, stack: ExitStack) -> NestedSource:
    path = networks.write_nested(folder / "nested", NET, "header")
    return stack.enter_context(open_nested(path))


def nested_tensors(folder: Path, stack: ExitStack) -> NestedSource:
    path = networks.write_nested(folder / "nested", NET, "tensors")
    return stack.enter_context(open_nested(path))


def packed(folder: Path, stack: ExitStack) -> NestedSource:
    path = networks.write_nested(folder / "nested", NET)
    return stack.enter_context(open_nested(networks.write_pack(folder / "packed", path)))


def bundle(folder: Path, stack: ExitStack) -> NestedSource:
    dense = stack.enter_context(open_plain(NET.write(folder / "dense")))
    sparse = [stack.enter_context(open_plain(NET.write(folder / level, level))) for level in LEVELS]
    spool = stack.enter_context(OutputFile(folder / "spool"))
    return Bundle.of(dense, sparse, parse_levels(list(LEVELS)), spool, 2)


KINDS: list[Callable[[Path, ExitStack], NestedSource]] = [
    from_tests,
    nested_header,
    nested_tensors,
    packed,
    bundle,
]


@pytest.fixture(params=KINDS, ids=lambda kind: kind.__name__)
def source(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[NestedSource]:
    with ExitStack() as stack:
        made: NestedSource = request.param(tmp_path, stack)
        made.prepare(2, no_progress)
        yield made


def test_it_says_what_its_tensors_are_and_not_where(source: NestedSource) -> None:
    wanted = NET.level("dense")
    assert {t.name: (t.dtype.name, t.shape) for t in source.tensors.values()} == {
        name: (dtype, shape) for name, (dtype, shape, _) in wanted.items()
    }
    for spec in source.tensors.values():
        assert not hasattr(spec, "begin")


def test_every_network(source: NestedSource) -> None:
    assert [str(level) for level in source.available] == [*LEVELS, "dense"]
    for level in (*LEVELS, "dense"):
        assert read_level(source, level) == NET.level(level)
    with pytest.raises(LevelNotStored):
        read_level(source, "0.6")


def test_masks_alone(source: NestedSource) -> None:
    for entry, t in enumerate(source.manifest.tensors):
        found = masks_of(source, entry)
        for k, level in enumerate(LEVELS):
            bits = [unpack_bits(masks[k], count) for _, count, masks in found]
            whole = np.concatenate([np.zeros(0, np.bool_), *bits])
            assert (whole == NET.masks[level][t.name]).all()


@pytest.mark.parametrize("way", ["wholes", "jobs"])
def test_pieces_cover_every_weight_once(source: NestedSource, way: str) -> None:
    seen = {t.name: np.zeros(t.numel, np.int64) for t in source.manifest.tensors}
    scratch = Scratch()
    for batch in getattr(source, way)():
        for piece, cells, masks in source.pieces(batch, scratch):
            assert len(masks) == len(LEVELS)
            assert cells.nbytes == piece.nbytes
            entries = source.manifest.tensors[piece.rows]
            for entry, size in zip(entries, piece.sizes.tolist(), strict=True):
                seen[entry.name][piece.start : piece.start + size] += 1
    assert all((count == 1).all() for count in seen.values())


def test_what_can_be_copied(source: NestedSource) -> None:
    """All that is neither prunable nor per-level; at dense the per-level tensors too."""
    for level in source.manifest.members:
        names = [spec.name for spec, _ in source.verbatim(level)]
        assert len(names) == len(set(names))
        must = set(NET.level("dense")) - set(NET.prunable)
        if level != DENSE:
            must -= set(source.manifest.per_level)
            assert set(names) == must
        assert must <= set(names)


def test_both_forms_hold_the_network(source: NestedSource, tmp_path: Path) -> None:
    """Also a packed file as the source of a packed file, which once gave other levels."""
    for name, write in (("n", write_nested), ("p", write_packed)):
        if name == "p" and not all(t.kept for t in source.manifest.tensors):
            with OutputFile(tmp_path / "p") as out, pytest.raises(ValueError, match="not counted"):
                write_packed(out, source, 1)
            continue
        for threads in (1, 3):
            with OutputFile(tmp_path / f"{name}{threads}") as out:
                write(out, source, threads, no_progress)
                out.commit()
        path = tmp_path / f"{name}1"
        assert path.read_bytes() == (tmp_path / f"{name}3").read_bytes()
        assert verify(path).ok
        with open_nested(path) as reader:
            assert reader.metadata == NET.metadata
            for level in (*LEVELS, "dense"):
                assert read_level(reader, level) == NET.level(level)


def test_a_form_of_itself_is_the_same_file(tmp_path: Path) -> None:
    nested = networks.write_nested(tmp_path / "nested", NET)
    pack = networks.write_pack(tmp_path / "packed", nested)
    again = networks.write_pack(tmp_path / "again", pack)
    assert again.read_bytes() == pack.read_bytes()
    with open_nested(pack) as reader, OutputFile(tmp_path / "undone") as out:
        write_nested(out, reader, 2)
        out.commit()
    assert (tmp_path / "undone").read_bytes() == nested.read_bytes()
    with open_nested(nested) as reader, OutputFile(tmp_path / "undone") as out:
        write_nested(out, reader, 2)
        out.commit()
    assert (tmp_path / "undone").read_bytes() == nested.read_bytes()


def test_nothing_is_written_to_find_out_what_would_be(source: NestedSource, tmp_path: Path) -> None:
    before = sorted(tmp_path.iterdir())
    would = write_nested(None, source, 2)
    with OutputFile(tmp_path / "out") as out:
        did = write_nested(out, source, 2)
        out.commit()
    (tmp_path / "out").unlink()
    assert sorted(tmp_path.iterdir()) == before
    assert would.size == did.size
    assert [t.kept for t in would.manifest.tensors] == [t.kept for t in did.manifest.tensors]
