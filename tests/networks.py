"""Small networks with nested masks, made without the package, and what each level of them is.

Only `write_nested` and `write_pack` call the package: they are what is tested.
"""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from elsa_cli.checkpoint.manifest import Entry, Manifest
from elsa_cli.checkpoint.nested import writer
from elsa_cli.checkpoint.opening import open_nested
from elsa_cli.checkpoint.packed.writer import write_packed
from elsa_cli.checkpoint.source import NestedSource, Piece
from elsa_cli.core.batch import Batch
from elsa_cli.core.bits import Bytes, pack_bits
from elsa_cli.core.dtypes import DTYPES
from elsa_cli.core.level import DENSE, Level, parse_levels
from elsa_cli.core.work import Scratch
from elsa_cli.storage.container import Container
from elsa_cli.storage.header import TensorSpec
from elsa_cli.storage.output import OutputFile
from elsa_cli.storage.source import Extent
from tests.helpers import (
    FLOATS,
    StrPath,
    Tensor,
    Tensors,
    library_order,
    nbytes,
    raw_bits,
    read_safetensors,
    write_raw,
    write_safetensors,
)

Mask = np.ndarray[Any, np.dtype[np.bool_]]

PRUNABLE = (
    ("conv.weight", "F32", (8, 3, 3, 3)),
    ("empty.weight", "F32", (0, 4)),
    ("fc.weight", "BF16", (37, 11)),
    ("head.weight", "F16", (16, 16)),
    ("q.weight", "F8_E4M3", (24, 20)),
)
SHARED = (("table.weight", "F32", (10, 4)), ("lut", "F4", (6,)), ("nothing", "I32", (0,)))
PER_LEVEL = (("norm.weight", "F32", (16,)), ("norm.bias", "BF16", (8,)), ("steps", "I64", ()))


def bytes_of(seed: str, size: int) -> bytes:
    """Return bytes that look random and are the same for ever."""
    return hashlib.shake_256(seed.encode()).digest(size)


@dataclass(frozen=True)
class Network:
    """A dense network and its levels.

    Attributes:
        tensors: All of the dense network, in the order of a file.
        masks: Kept weights by level and prunable tensor; levels sparsest first.
        per_level: Bytes by level and name.
        metadata: Foreign metadata.
    """

    tensors: tuple[Tensor, ...]
    masks: dict[str, dict[str, Mask]]
    per_level: dict[tuple[str, str], bytes] = field(default_factory=dict)
    metadata: dict[str, str] = field(default_factory=lambda: {"format": "pt", "épоха": "3"})

    @property
    def prunable(self) -> list[str]:
        """Names of the prunable tensors."""
        return list(next(iter(self.masks.values())))

    def level(self, level: str) -> Tensors:
        """Return the tensors of a level, `dense` among them, in the order of a file."""
        found: Tensors = {}
        for name, dtype, shape, data in self.tensors:
            if level != "dense" and name in self.masks[level]:
                data = (
                    np.where(self.masks[level][name], raw_bits(dtype, data), 0)
                    .astype(raw_bits(dtype, data).dtype)
                    .tobytes()
                )
            found[name] = (dtype, tuple(shape), self.per_level.get((level, name), data))
        return found

    def write(self, path: StrPath, level: str = "dense") -> Path:
        """Write one level as an ordinary checkpoint, as the stock library would."""
        tensors = [(name, *rest) for name, rest in self.level(level).items()]
        return write_safetensors(path, tensors, dict(sorted(self.metadata.items())))


def make(
    seed: str = "0",
    levels: Sequence[str] = ("0.9", "0.7", "0.5"),
    prunable: Sequence[tuple[str, str, tuple[int, ...]]] = PRUNABLE,
    shared: Sequence[tuple[str, str, tuple[int, ...]]] = SHARED,
    per_level: Sequence[tuple[str, str, tuple[int, ...]]] = PER_LEVEL,
) -> Network:
    """Return a network of random bits, NaN among them, with random nested masks."""
    specs = [*prunable, *shared, *per_level]
    tensors = library_order(
        (name, dtype, shape, bytes_of(f"{seed} {name}", nbytes(dtype, shape)))
        for name, dtype, shape in specs
    )
    names = {name for name, _, _ in prunable}
    masks: dict[str, dict[str, Mask]] = {level: {} for level in levels}
    for name, _, shape, _ in tensors:
        if name in names:
            numel = int(np.prod(shape))
            keys = np.frombuffer(bytes_of(f"{seed} mask {name}", 8 * numel), "<u8")
            rank = np.argsort(np.argsort(keys, kind="stable"), kind="stable")
            for level in levels:
                masks[level][name] = rank < round((1 - Fraction(level)) * numel)
    own = {
        (level, name): bytes_of(f"{seed} {level} {name}", nbytes(dtype, shape))
        for level in levels
        for name, dtype, shape in per_level
    }
    return Network(tuple(tensors), masks, own)


class Source(NestedSource):
    """A network of these tests as a nested source, read in pieces of 48 weights.

    Args:
        network: The network.
        container: Its dense tensors.
        masks: Where the masks go.
    """

    def __init__(self, network: Network, container: Container, masks: str = "auto") -> None:
        self.name = container.path
        self.metadata = network.metadata
        self.tensors: Mapping[str, TensorSpec] = {t.name: t.spec for t in container.tensors}
        self._network = network
        self._container = container
        self.manifest = Manifest(
            levels=parse_levels(list(network.masks)),
            tensors=tuple(
                Entry(t.name, t.dtype, t.shape, (), "")
                for t in (container.named[name] for name in network.prunable)
            ),
            method={"name": "test", "options": {"a": 1.5}},
            seed=7,
            masks=masks,
            mask_digests=(),
            per_level=tuple(sorted({name for _, name in network.per_level})),
        )

    def wholes(self) -> Iterator[Batch]:
        for n, entry in enumerate(self.manifest.tensors):
            yield Batch(n, [entry.numel], [entry.dtype])

    def pieces(self, batch: Batch, scratch: Scratch) -> Iterator[Piece]:
        entry = self.manifest.tensors[batch.first]
        for piece in batch.pieces(lambda _: 48):
            cells = np.empty(piece.count, piece.cell)
            offset = piece.start * entry.dtype.itemsize
            view = cells.view(np.uint8).data
            self._container.read_part(self.tensors[entry.name], offset, view)
            span = slice(piece.start, piece.start + piece.count)
            kept = [masks[entry.name].reshape(-1)[span] for masks in self._network.masks.values()]
            yield Piece(piece, cells, [pack_bits(mask) for mask in kept])

    def per_level(self, level: Level) -> Mapping[str, bytes]:
        own = self._network.per_level.items()
        return {name: data for (text, name), data in own if text == level.text}

    def verbatim(self, level: Level) -> Iterator[tuple[TensorSpec, Extent]]:
        left_out = set() if level == DENSE else {*self._network.prunable, *self.manifest.per_level}
        for t in self._container.tensors:
            if t.name not in left_out:
                yield t.spec, self._container.extent(t)


def write_nested(path: Path, network: Network, masks: str = "auto") -> Path:
    """Write a nested checkpoint."""
    plain = network.write(path.with_name(path.name + ".plain"))
    with Container(plain) as container, OutputFile(path) as out:
        writer.write_nested(out, Source(network, container, masks), threads=1)
        out.commit()
    plain.unlink()
    return path


def write_pack(path: Path, nested: StrPath, threads: int = 1) -> Path:
    """Write a packed checkpoint of a nested one."""
    with open_nested(nested) as reader, OutputFile(path) as out:
        write_packed(out, reader, threads)
        out.commit()
    return path


def masks_of(source: NestedSource, entry: int) -> list[tuple[int, int, list[Bytes]]]:
    """Return start, count and packed masks of the pieces of one prunable tensor."""
    found = source.manifest.tensors[entry]
    whole = Batch(entry, [found.numel], [found.dtype])
    return [(piece.start, piece.count, masks) for piece, masks in source.masks(whole)]


def read_level(source: NestedSource, level: str) -> Tensors:
    """Return what a source gives for a level, checking that every byte is given once."""
    wanted = source.require(parse_levels(level)[0])
    found = {t.name: bytearray(t.nbytes) for t in source.tensors.values()}
    given = {name: 0 for name in found}
    for spec, (data, offset, size) in source.verbatim(wanted):
        assert size == spec.nbytes
        data.read_into(offset, memoryview(found[spec.name]))
        given[spec.name] += size
    for name, raw in source.per_level(wanted).items():
        if wanted != DENSE:
            found[name][:] = raw
            given[name] += len(raw)
    scratch = Scratch()
    for batch in source.network_jobs(wanted):
        for piece, view in source.network(batch, wanted, scratch):
            done, offset = 0, piece.start * piece.dtypes[0].itemsize
            entries = source.manifest.tensors[piece.rows]
            for entry, size in zip(entries, piece.byte_sizes.tolist(), strict=True):
                part = view[done : done + size]
                found[entry.name][offset : offset + size] = part
                given[entry.name] += len(part)
                done += len(part)
            assert done == len(view)
    assert given == {name: len(raw) for name, raw in found.items()}
    return {t.name: (t.dtype.name, t.shape, bytes(found[t.name])) for t in source.tensors.values()}


def decode_shell(coded: bytes, marked: int, free: int) -> Mask:
    """Decode the mask of a shell as the format's page says, without the package.

    Args:
        coded: One raw deflate stream.
        marked: Weights of the shell.
        free: Weights that no sparser level keeps.
    """
    raw = zlib.decompress(coded, -15)
    few, most = 8 * marked < free, 8 * (free - marked) < free
    if not few and not most:
        assert len(raw) == -(-free // 8)
        bits = np.frombuffer(raw, np.uint8)
        return np.unpackbits(bits, count=free, bitorder="little") > 0
    mask = np.full(free, not few)
    at = 0
    for byte in raw:
        at += byte
        if byte != 255:
            mask[at] = few
            at += 1
    return mask


def manifest_of(path: StrPath) -> dict[str, Any]:
    """Return the manifest of a file as it stands in it."""
    fields: dict[str, Any] = json.loads(read_safetensors(path)[1]["elsa"])
    return fields


def edit(path: Path, manifest: Any = None, **metadata: str | None) -> Path:
    """Rewrite the header of a file, in place, with another manifest or other metadata.

    The header keeps its length, and with it the data their places; see `widen`.
    """
    raw = path.read_bytes()
    length = int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8 : 8 + length])
    if manifest is not None:
        text = manifest if isinstance(manifest, str) else _compact(manifest)
        header["__metadata__"]["elsa"] = text
    for key, value in metadata.items():
        if value is None:
            del header["__metadata__"][key]
        else:
            header["__metadata__"][key] = value
    encoded = _compact(header).encode()
    assert len(encoded) <= length
    return write_raw(path, encoded.ljust(length), raw[8 + length :])


def widen(path: Path, room: int = 1024) -> Path:
    """Make room for edits in the header of a nested or packed file, in place."""
    raw = path.read_bytes()
    length = int.from_bytes(raw[:8], "little")
    write_raw(path, raw[8 : 8 + length].ljust(length + room), raw[8 + length :])
    manifest = manifest_of(path)
    if "prefix" in manifest:
        manifest["prefix"] = [p + room for p in manifest["prefix"]]
    return edit(path, manifest)


def _compact(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


assert {d for _, d, _ in PRUNABLE} <= FLOATS.keys() <= DTYPES.keys()
