"""Writing a packed checkpoint from anything that has dense weights and nested masks.

Two passes, both a tensor at a time on each thread: the masks are coded into a spool, since their
sizes decide where everything lies; then the weights are dealt out to the shells.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from elsa_cli.checkpoint.bitmask import Bytes, popcount, unpack_bits
from elsa_cli.checkpoint.container import Container, TensorInfo, encode_header, lay_out
from elsa_cli.checkpoint.digest import digest_ranges
from elsa_cli.checkpoint.level import Level
from elsa_cli.checkpoint.manifest import DIGEST_DIGITS, Manifest, Packing
from elsa_cli.checkpoint.maskcode import MaskCoder, coding_of
from elsa_cli.checkpoint.names import KEY, level_name, stored
from elsa_cli.checkpoint.output import OutputFile, Policy
from elsa_cli.checkpoint.packed import PIECE, Section, plan_sections, section_names, shell_kept
from elsa_cli.checkpoint.work import Progress, Scratch, run, spans
from elsa_cli.errors import BadManifest

__all__ = ["MaskedSource", "write_packed"]

SPOOL_BYTES = 1 << 16


class MaskedSource(Protocol):
    """Dense weights in a file, and nested masks of them."""

    @property
    def container(self) -> Container:
        """The file with the dense weights."""

    @property
    def manifest(self) -> Manifest:
        """Levels, prunable tensors and kept counts."""

    @property
    def metadata(self) -> Mapping[str, str]:
        """Foreign metadata."""

    @property
    def dense(self) -> Mapping[str, TensorInfo]:
        """Where the tensors of the dense network lie in the file."""

    def masks(self, at: int) -> Iterator[tuple[int, int, list[Bytes]]]:
        """Yield start, count and packed bits of every level of manifest tensor `at`, in order."""

    def per_level(self, level: Level) -> Mapping[str, bytes]:
        """Return the bytes of a level's per-level tensors."""


class _Spool:
    """Coded masks on disk, in the order in which threads finish them."""

    def __init__(self, out: OutputFile) -> None:
        # A second nameless file in the folder of the output; never committed.
        self.file = OutputFile(out.path, Policy(force=True))
        self._lock = threading.Lock()
        self._end = 0

    @property
    def size(self) -> int:
        """Bytes stored so far."""
        return self._end

    def append(self, data: bytes) -> tuple[int, int]:
        """Store `data`; return where it lies: offset and size."""
        with self._lock:
            at, self._end = self._end, self._end + len(data)
        self.file.write_at(at, data)
        return at, len(data)


class _Place:
    """Where the coded mask of one tensor at one level goes in the spool."""

    def __init__(self, spool: _Spool) -> None:
        self._spool = spool
        self._buffer = bytearray()
        self.extents: list[tuple[int, int]] = []

    def take(self, data: bytes) -> None:
        """Keep some coded bytes."""
        self._buffer += data
        if len(self._buffer) >= SPOOL_BYTES:
            self.flush()

    def flush(self) -> int:
        """Store what is kept; return the bytes stored so far."""
        if self._buffer:
            self.extents.append(self._spool.append(bytes(self._buffer)))
            self._buffer.clear()
        return sum(size for _, size in self.extents)


@dataclass
class _Coded:
    """The coded masks of one tensor: sizes and places in the spool, by level."""

    sizes: tuple[int, ...] = ()
    extents: Sequence[list[tuple[int, int]]] = ()


def _code_masks(
    source: MaskedSource, spool: _Spool, threads: int, progress: Progress
) -> list[_Coded]:
    """Code the shell masks of all tensors; check that they nest and have the listed counts."""
    manifest = source.manifest
    result = [_Coded() for _ in manifest.tensors]

    def work(at: int, _: None) -> None:
        entry = manifest.tensors[at]
        shells = shell_kept(entry, len(manifest.levels))
        places = [_Place(spool) for _ in manifest.levels]
        coders = [
            MaskCoder(coding_of(shells[k], sum(shells[k:])), place.take)
            for k, place in enumerate(places)
        ]
        kept = [0] * len(coders)
        for _start, count, packed in source.masks(at):
            for k, bits in enumerate(packed):
                kept[k] += popcount(bits)
                sparser = packed[k - 1] if k else None
                if sparser is not None and (sparser & ~bits).any():
                    raise BadManifest(
                        f"the mask of {manifest.levels[k - 1]} is not inside that of "
                        f"{manifest.levels[k]}",
                        file=source.container.path,
                        tensor=entry.name,
                    )
                for begin, size in spans(count, PIECE):
                    piece = unpack_bits(bits[begin // 8 :], size)
                    if sparser is not None:
                        piece = piece.take(
                            np.flatnonzero(~unpack_bits(sparser[begin // 8 :], size))
                        )
                    coders[k].write(piece)
            progress(count * entry.dtype.itemsize)
        if tuple(kept) != entry.kept:
            raise BadManifest(
                f"the masks keep {kept}, the manifest says {list(entry.kept)}",
                file=source.container.path,
                tensor=entry.name,
                hint="the file is damaged; make or fetch it again",
            )
        for coder in coders:
            coder.close()
        sizes = tuple(place.flush() for place in places)
        result[at] = _Coded(sizes, [place.extents for place in places])

    run(range(len(manifest.tensors)), work, lambda: None, threads)
    return result


def write_packed(
    out: OutputFile, source: MaskedSource, threads: int, progress: Progress
) -> Manifest:
    """Write a packed checkpoint; return its manifest.

    Args:
        out: The file to write; not committed here.
        source: A nested checkpoint, or a bundle.
        threads: Number of threads.
        progress: Told of the bytes of weights done, over both passes.

    Raises:
        BadManifest: The masks do not nest, or do not have the counts listed.
    """
    manifest = source.manifest
    levels = manifest.levels
    progress(0, 2 * sum(t.numel * t.dtype.itemsize for t in manifest.tensors))
    with (spool := _Spool(out)).file:
        coded = _code_masks(source, spool, threads, progress)
        tensors = tuple(
            replace(t, coded=c.sizes) for t, c in zip(manifest.tensors, coded, strict=True)
        )
        manifest = replace(manifest, tensors=tensors)
        pruned = {t.name for t in tensors}
        shared = lay_out(
            (t.name, t.dtype, t.shape) for t in source.dense.values() if t.name not in pruned
        )
        start = max((t.end for t in shared), default=0)
        shapes = {t.name: (t.dtype, t.shape) for t in shared}
        sections = plan_sections(manifest, shapes, start)
        metadata = stored(source.metadata, same_tensors=False)
        manifest, header = _header(manifest, shared, sections, metadata)
        base = len(header)
        # The spool takes its share of the disk, and is gone before the values come.
        out.reserve(base + sections[-1].end - spool.size)
        out.resize(base + sections[-1].end)
        for t in shared:
            found = source.dense[t.name]
            at = source.container.header_bytes + found.begin
            out.copy_from(source.container.fd, at, base + t.begin, t.nbytes)
        for k, level in enumerate(levels):
            infos = {t.name: t for t in sections[k].tensors}
            for name, raw in source.per_level(level).items():
                out.write_at(base + infos[level_name(level, name)].begin, raw)
            at = base + sections[k].tensors[-2].begin
            for extents in (c.extents[k] for c in coded):
                for offset, size in extents:
                    out.copy_from(spool.file.fd, offset, at, size)
                    at += size
    _deal_values(
        out, source, manifest, [base + s.tensors[-1].begin for s in sections], threads, progress
    )
    starts = (start, *(s.end for s in sections))
    ranges = [(base, start)] + [(base + a, b - a) for a, b in itertools.pairwise(starts)]
    digests = digest_ranges(out.read_into, ranges, threads)
    assert manifest.packing is not None
    names = section_names(manifest)
    packing = Packing(manifest.packing.prefix, dict(zip(names, digests, strict=True)))
    manifest = replace(manifest, packing=packing)
    every = [*shared, *(t for s in sections for t in s.tensors)]
    out.write_at(0, encode_header(every, {**metadata, KEY: manifest.encode()}, base))
    return manifest


def _header(
    manifest: Manifest,
    shared: Sequence[TensorInfo],
    sections: Sequence[Section],
    metadata: Mapping[str, str],
) -> tuple[Manifest, bytes]:
    """Return the manifest with its prefix lengths, which count the header that holds them."""
    digests = dict.fromkeys(section_names(manifest), "0" * DIGEST_DIGITS)
    every = [*shared, *(t for s in sections for t in s.tensors)]
    length = 0
    while True:
        packing = Packing(tuple(length + s.end for s in sections), digests)
        manifest = replace(manifest, packing=packing)
        header = encode_header(every, {**metadata, KEY: manifest.encode()})
        if len(header) <= length:
            return manifest, encode_header(every, {**metadata, KEY: manifest.encode()}, length)
        length = len(header)


def _deal_values(
    out: OutputFile,
    source: MaskedSource,
    manifest: Manifest,
    begins: Sequence[int],
    threads: int,
    progress: Progress,
) -> None:
    """Write every weight behind the others of its shell."""
    cursors: list[list[int]] = []
    at = list(begins)
    for entry in manifest.tensors:
        cursors.append(list(at))
        for k, kept in enumerate(shell_kept(entry, len(manifest.levels))):
            at[k] += kept * entry.dtype.itemsize

    def work(at: int, scratch: Scratch) -> None:
        entry = manifest.tensors[at]
        begin = source.dense[entry.name].begin
        dtype = entry.dtype.unsigned
        for start, count, packed in source.masks(at):
            bits = scratch.array("weights", count, dtype)
            view = bits.view(np.uint8).data
            source.container.read_into(begin + start * dtype.itemsize, view)
            for k, values in enumerate(_shells(bits, packed, scratch)):
                out.write_at(cursors[at][k], values.view(np.uint8).data)
                cursors[at][k] += values.nbytes
            progress(len(view))

    run(range(len(manifest.tensors)), work, Scratch, threads)


def _shells(bits: NDArray[Any], packed: Sequence[Bytes], scratch: Scratch) -> list[NDArray[Any]]:
    """Return the weights of each shell, sparsest first, dense last."""
    shells = [packed[0], *(a ^ b for a, b in itertools.pairwise(packed)), ~packed[-1]]
    result = []
    for k, shell in enumerate(shells):
        values = scratch.array(f"shell {k}", bits.size, bits.dtype)
        done = 0
        for start, count in spans(bits.size, PIECE):
            piece = unpack_bits(shell[start // 8 :], count)
            where = np.flatnonzero(piece)
            np.take(
                bits[start : start + count],
                where,
                out=values[done : done + where.size],
                mode="clip",
            )
            done += where.size
        result.append(values[:done])
    return result
