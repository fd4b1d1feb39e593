"""Coding the shell masks into a spool: their sizes decide where everything lies."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from elsa_cli.checkpoint.manifest import Manifest
from elsa_cli.checkpoint.packed.layout import shell_sizes
from elsa_cli.checkpoint.packed.maskbatch import code_masks
from elsa_cli.checkpoint.packed.maskcode import MaskCoder, coding_of
from elsa_cli.core.batch import Batch, Integers, batches
from elsa_cli.core.bits import Bytes, unpack_bits
from elsa_cli.core.level import Level
from elsa_cli.core.work import Progress, run, spans
from elsa_cli.errors import BadManifest
from elsa_cli.storage.container import Container, TensorInfo
from elsa_cli.storage.output import OutputFile, Policy

__all__ = ["PIECE", "CodedMasks", "MaskedSource", "Spool", "code_shells", "wholes"]

PIECE = 1 << 19  # weights whose masks are coded at a time
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

    def masks_of(self, batch: Batch) -> Iterator[tuple[Batch, list[Bytes]]]:
        """Yield pieces of whole tensors and the packed bits of every level, in order."""

    def per_level(self, level: Level) -> Mapping[str, bytes]:
        """Return the bytes of a level's per-level tensors."""


class Spool:
    """Coded masks on disk, in the order in which threads finish them."""

    def __init__(self, out: OutputFile) -> None:
        """Begin with no masks."""
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

    def __init__(self, spool: Spool) -> None:
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


@dataclass(frozen=True)
class CodedMasks:
    """The coded masks of all tensors.

    Attributes:
        sizes: Bytes of each, (tensors, levels).
        extents: Where they lie in the spool, for each level: offset and size, tensor after tensor.
    """

    sizes: Integers
    extents: Sequence[Sequence[tuple[int, int]]]


def wholes(manifest: Manifest) -> Iterator[Batch]:
    """Yield whole tensors, in order: several small ones at a time."""
    tensors = manifest.tensors
    return batches([t.numel for t in tensors], [t.dtype for t in tensors], lambda _: PIECE)


def code_shells(source: MaskedSource, spool: Spool, threads: int, progress: Progress) -> CodedMasks:
    """Code the shell masks of all tensors.

    Raises:
        BadManifest: The masks do not nest, or do not have the counts listed.
    """
    manifest = source.manifest
    shells = shell_sizes(manifest.tensors, len(manifest.levels))
    sizes: Integers = np.zeros((len(manifest.tensors), len(manifest.levels)), np.int64)
    extents: dict[int, list[list[tuple[int, int]]]] = {}

    def work(batch: Batch, _: None) -> None:
        code = _code_several if batch.several else _code_one
        extents[batch.first] = code(source, spool, batch, shells[batch.rows], sizes[batch.rows])
        progress(batch.nbytes)

    run(wholes(manifest), work, lambda: None, threads)
    found = [extents[first] for first in sorted(extents)]
    return CodedMasks(
        sizes,
        [
            list(itertools.chain.from_iterable(levels[k] for levels in found))
            for k in range(len(manifest.levels))
        ],
    )


def _code_one(
    source: MaskedSource, spool: Spool, batch: Batch, shells: Integers, sizes: Integers
) -> list[list[tuple[int, int]]]:
    """Code the masks of one tensor, piece after piece; fill in sizes, return extents by level."""
    levels = shells.shape[1] - 1
    left = shells[0].tolist()
    places = [_Place(spool) for _ in range(levels)]
    coders = [
        MaskCoder(coding_of(left[k], sum(left[k:])), place.take) for k, place in enumerate(places)
    ]
    counted: Integers = np.zeros((1, levels), np.int64)
    for piece, packed in source.masks_of(batch):
        counted += _count(source, piece, packed)
        for k, bits in enumerate(packed):
            for begin, size in spans(piece.count, PIECE):
                part = unpack_bits(bits[begin // 8 :], size)
                if k:
                    sparser = unpack_bits(packed[k - 1][begin // 8 :], size)
                    part = part.take(np.flatnonzero(~sparser))
                coders[k].write(part)
    _check_counts(source, batch, counted)
    for coder in coders:
        coder.close()
    sizes[0] = [place.flush() for place in places]
    return [place.extents for place in places]


def _code_several(
    source: MaskedSource, spool: Spool, batch: Batch, shells: Integers, sizes: Integers
) -> list[list[tuple[int, int]]]:
    """Code the masks of several tensors at once; fill in sizes, return extents by level."""
    extents = []
    for piece, packed in source.masks_of(batch):
        assert piece.count == batch.count
        _check_counts(source, batch, _count(source, piece, packed))
        free = batch.sizes
        taken = None
        for k, bits in enumerate(packed):
            mask = batch.unpack_mask(bits)
            shell = mask if taken is None else mask.take(np.flatnonzero(~taken))
            coded = code_masks(shell, shells[:, k], free)
            sizes[:, k] = list(map(len, coded))
            extents.append([spool.append(b"".join(coded))])
            free, taken = free - shells[:, k], mask
    return extents


def _count(source: MaskedSource, piece: Batch, packed: Sequence[Bytes]) -> Integers:
    """Return the weights that each level keeps of each tensor, (tensors, levels)."""
    levels = source.manifest.levels
    for k in range(1, len(levels)):
        strays = packed[k - 1] & ~packed[k]
        if strays.any():
            at = int(np.flatnonzero(piece.mask_sums(strays))[0])
            raise BadManifest(
                f"the mask of {levels[k - 1]} is not inside that of {levels[k]}",
                file=source.container.path,
                tensor=source.manifest.tensors[piece.first + at].name,
            )
    return np.stack([piece.mask_sums(bits) for bits in packed], axis=1)


def _check_counts(source: MaskedSource, batch: Batch, counted: Integers) -> None:
    for entry, kept in zip(source.manifest.tensors[batch.rows], counted.tolist(), strict=True):
        if tuple(kept) != entry.kept:
            raise BadManifest(
                f"the masks keep {kept}, the manifest says {list(entry.kept)}",
                file=source.container.path,
                tensor=entry.name,
                hint="the file is damaged; make or fetch it again",
            )
