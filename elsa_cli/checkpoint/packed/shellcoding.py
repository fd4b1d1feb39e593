"""Coding the shell masks into a spool: their sizes decide where everything lies."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from elsa_cli.checkpoint.checks import count_masks, require_counts, require_nested
from elsa_cli.checkpoint.manifest import Manifest
from elsa_cli.checkpoint.packed.layout import shell_sizes
from elsa_cli.checkpoint.packed.maskbatch import code_masks
from elsa_cli.checkpoint.packed.maskcode import NOTHING, MaskCoder, coding_of
from elsa_cli.checkpoint.source import NestedSource
from elsa_cli.core.batch import Batch, Integers, batches
from elsa_cli.core.bits import Bytes
from elsa_cli.core.work import Progress, run
from elsa_cli.storage.output import OutputFile, Policy
from elsa_cli.storage.source import Extent

__all__ = ["PIECE", "CodedMasks", "Spool", "code_shells", "wholes"]

PIECE = 1 << 19  # weights whose masks are coded at a time
SPOOL_BYTES = 1 << 16


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

    def extent(self, offset: int, size: int) -> Extent:
        """Return stored bytes as what can be copied."""
        return Extent(self.file.source, offset, size)

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


def code_shells(source: NestedSource, spool: Spool, threads: int, progress: Progress) -> CodedMasks:
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
    source: NestedSource, spool: Spool, batch: Batch, shells: Integers, sizes: Integers
) -> list[list[tuple[int, int]]]:
    """Code the masks of one tensor, piece after piece; fill in sizes, return extents by level."""
    levels = shells.shape[1] - 1
    left = shells[0].tolist()
    places = [_Place(spool) for _ in range(levels)]
    coders = [
        MaskCoder(coding_of(left[k], sum(left[k:])), place.take) for k, place in enumerate(places)
    ]
    counted: Integers = np.zeros((1, levels), np.int64)
    for piece, packed in source.masks(batch):
        counted += _count(source, piece, packed)
        sparser = NOTHING
        for coder, denser in zip(coders, packed, strict=True):
            coder.write(sparser, denser, piece.count)
            sparser = denser
    require_counts(source.manifest, source.name, batch.first, counted)
    for coder in coders:
        coder.close()
    sizes[0] = [place.flush() for place in places]
    return [place.extents for place in places]


def _code_several(
    source: NestedSource, spool: Spool, batch: Batch, shells: Integers, sizes: Integers
) -> list[list[tuple[int, int]]]:
    """Code the masks of several tensors at once; fill in sizes, return extents by level."""
    extents = []
    for piece, packed in source.masks(batch):
        assert piece.count == batch.count
        require_counts(source.manifest, source.name, batch.first, _count(source, piece, packed))
        free, sparser = batch.sizes, NOTHING
        for k, denser in enumerate(packed):
            coded, sizes[:, k] = code_masks(sparser, denser, batch.sizes, shells[:, k], free)
            extents.append([spool.append(coded)])
            free, sparser = free - shells[:, k], denser
    return extents


def _count(source: NestedSource, piece: Batch, packed: Sequence[Bytes]) -> Integers:
    """Return the weights that each level keeps of each tensor, (tensors, levels)."""
    kept, strays = count_masks(piece, packed)
    require_nested(source.manifest, source.name, piece, strays)
    return kept
