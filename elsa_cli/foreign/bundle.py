"""What other tools wrote: a dense checkpoint and sparse copies of it, bundled into one."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from elsa_cli.checkpoint.manifest import Entry, Manifest
from elsa_cli.checkpoint.source import NestedSource, Piece
from elsa_cli.core.batch import Batch, Integers, pieces
from elsa_cli.core.bits import Bools, Bytes, mask_bytes
from elsa_cli.core.dtypes import DTYPES, Bits
from elsa_cli.core.level import DENSE, Level
from elsa_cli.core.work import Progress, Scratch, chunk_of, no_progress, run
from elsa_cli.errors import NotABundle
from elsa_cli.foreign.level_names import name_levels
from elsa_cli.storage.container import Container, TensorInfo, TensorSpec
from elsa_cli.storage.digest import digest_ranges
from elsa_cli.storage.output import OutputFile
from elsa_cli.storage.source import Extent

__all__ = ["Bundle"]

SPAN = 1 << 18  # weights compared at a time


@dataclass(frozen=True)
class _Compared:
    """How the tensors differ between dense and sparse: (tensors, levels), sparsest level first.

    Attributes:
        kept: Weights that are not zeroed.
        changed: Of these, how many are not those of dense.
        strays: How many that one level keeps the next denser one does not.
    """

    kept: Integers
    changed: Integers
    strays: Integers


class Bundle(NestedSource):
    """A dense checkpoint and sparse ones of the same network, as a nested source.

    A weight is zeroed if it is zero in the sparse file, of either sign, unless dense has the same
    negative zero. Tensors of at most one dimension that differ (norms, biases, counters) become
    per-level tensors. `Bundle.of` makes one.
    """

    def __init__(self, dense: Container, sparse: Sequence[Container], spool: OutputFile) -> None:
        self._dense = dense
        self.name = dense.path
        self.metadata = dense.metadata
        self.tensors: Mapping[str, TensorSpec] = {t.name: t.spec for t in dense.tensors}
        self._sparse = list(sparse)
        self._spool = spool
        # Where each tensor lies in dense, and in the sparse files.
        self._infos = dense.named
        self._theirs = [s.named for s in self._sparse]
        # Where the masks of each prunable tensor begin in the spool, and where the last end.
        self._offsets = [0]
        self.manifest = Manifest((), (), {"name": "bundle"}, 0, "auto", ())

    @classmethod
    def of(
        cls,
        dense: Container,
        sparse: Sequence[Container],
        levels: Sequence[Level] | None,
        spool: OutputFile,
        threads: int,
        progress: Progress = no_progress,
    ) -> Bundle:
        """Compare files, all bytes of all of them, and return them as a nested source.

        Args:
            dense: The dense checkpoint; it stays open, as the others do.
            sparse: The sparse ones, in any order.
            levels: The level of each, or None to derive them from the kept counts.
            spool: A file for the masks; not committed.
            threads: Number of threads.
            progress: Called with the bytes that were read.

        Raises:
            NotABundle: They are not levels of one network; the message names the first tensor.
            UsageError: The levels given do not fit the files.
        """
        for s in sparse:
            _check_same(dense, s)
        bundle = cls(dense, sparse, spool)
        bundle._fill(levels, threads, progress)
        return bundle

    def _fill(self, levels: Sequence[Level] | None, threads: int, progress: Progress) -> None:
        """Compare all tensors, spool the masks, and complete the manifest."""
        files = len(self._sparse)
        progress(0, (2 * files + 1) * self._dense.data_bytes)
        self._sparse.sort(key=lambda s: -_zeros(s, threads, progress))
        self._theirs = [s.named for s in self._sparse]
        differs = self._differing(threads, progress)
        per_level = tuple(sorted(t.name for t in differs if len(t.shape) <= 1))
        pruned = [t for t in differs if len(t.shape) > 1]
        for t in pruned:
            if t.dtype.float_bits is None:
                raise NotABundle(f"{t.dtype.name} values differ", file=self.name, tensor=t.name)
        if not pruned:
            raise NotABundle("no sparse checkpoint differs from it in its weights", file=self.name)
        self._offsets = [0, *itertools.accumulate(mask_bytes(t.numel) for t in pruned)]
        compared = self._compare(pruned, threads)
        self._check(pruned, compared)
        numel = sum(t.numel for t in pruned)
        files_kept = compared.kept.sum(axis=0).tolist()
        named = name_levels(levels, files_kept, numel, [s.path for s in self._sparse])
        size = self._offsets[-1]
        weights = digest_ranges(
            self._dense.read_into, [(t.begin, t.nbytes) for t in pruned], threads
        )
        masks = digest_ranges(
            self._spool.read_into, [(k * size, size) for k in range(len(named))], threads
        )
        self.manifest = replace(
            self.manifest,
            levels=named,
            tensors=tuple(
                Entry(t.name, t.dtype, t.shape, tuple(row), digest)
                for t, row, digest in zip(pruned, compared.kept.tolist(), weights, strict=True)
            ),
            mask_digests=tuple(masks),
            per_level=per_level,
        )
        self._begins = np.array([t.begin for t in pruned], np.int64)

    def jobs(self) -> Iterator[Batch]:
        """Yield all prunable weights in pieces: they can be read from anywhere."""
        tensors = self.manifest.tensors
        yield from pieces([t.numel for t in tensors], [t.dtype for t in tensors], chunk_of)

    def pieces(self, batch: Batch, scratch: Scratch) -> Iterator[Piece]:
        """Yield weights and masks; see `NestedSource`."""
        for piece in batch.pieces(chunk_of):
            cells = _read(self._dense, piece, self._begins, "dense", scratch)
            yield Piece(piece, cells, self._masks_of(piece))

    def masks(self, batch: Batch) -> Iterator[tuple[Batch, list[Bytes]]]:
        """Yield masks alone; see `NestedSource`."""
        for piece in batch.pieces(chunk_of):
            yield piece, self._masks_of(piece)

    def _masks_of(self, piece: Batch) -> list[Bytes]:
        packed = []
        for k in range(len(self._sparse)):
            bits = np.empty(int(piece.mask_places()[-1]), np.uint8)
            self._spool.read_into(self._spooled(k, piece), bits.data)
            packed.append(bits)
        return packed

    def _spooled(self, level_index: int, piece: Batch) -> int:
        """Return where the masks of a piece lie in the spool."""
        return level_index * self._offsets[-1] + self._offsets[piece.first] + piece.start // 8

    def per_level(self, level: Level) -> Mapping[str, bytes]:
        """Return the bytes of a level's per-level tensors."""
        if level == DENSE:
            return {}
        level_index = self.manifest.levels.index(level)
        file, infos = self._sparse[level_index], self._theirs[level_index]
        return {name: file.read(infos[name]) for name in self.manifest.per_level}

    def verbatim(self, level: Level) -> Iterator[tuple[TensorSpec, Extent]]:
        """Yield the tensors whose bytes in the dense file are those of the level."""
        return self.extents_in(self._dense, level)

    def _differing(self, threads: int, progress: Progress) -> list[TensorInfo]:
        """Return the tensors of which any sparse file has other bytes."""
        tensors = self._dense.tensors
        places = self._places(tensors)
        found = np.zeros(len(tensors), np.bool_)

        def work(piece: Batch, scratch: Scratch) -> None:
            progress((1 + len(self._sparse)) * piece.nbytes)
            if found[piece.rows].all():
                return
            own = _read(self._dense, piece, places[0], "dense", scratch)
            for file, begins in zip(self._sparse, places[1:], strict=True):
                theirs = _read(file, piece, begins, "sparse", scratch)
                if not np.array_equal(own, theirs):
                    found[piece.rows] |= piece.counts(own != theirs) > 0 if piece.several else True

        raw = [DTYPES["U8"]] * len(tensors)  # any dtype, byte by byte
        run(pieces([t.nbytes for t in tensors], raw, _span), work, Scratch, threads)
        return [t for t, differs in zip(tensors, found.tolist(), strict=True) if differs]

    def _places(self, tensors: Sequence[TensorInfo]) -> list[Integers]:
        """Return where tensors of dense begin in its data, and in that of each sparse file."""
        files = [self._infos, *self._theirs]
        return [np.array([infos[t.name].begin for t in tensors], np.int64) for infos in files]

    def _compare(self, pruned: Sequence[TensorInfo], threads: int) -> _Compared:
        """Make the masks of all tensors, spool them, and count what differs."""
        shape = (3, len(pruned), len(self._sparse))
        places = self._places(pruned)

        def work(piece: Batch, state: tuple[Integers, Scratch]) -> None:
            (kept_of, changed, strays), scratch = state
            rows = piece.rows
            own = _read(self._dense, piece, places[0], "dense", scratch)
            sparser: Bytes | None = None
            for k, file in enumerate(self._sparse):
                theirs = _read(file, piece, places[k + 1], "sparse", scratch)
                kept, other = _kept(piece, own, theirs)
                packed = piece.pack_mask(kept)
                kept_of[rows, k] += piece.mask_sums(packed)
                changed[rows, k] += piece.counts(other)
                if sparser is not None:
                    strays[rows, k] += piece.mask_sums(sparser & ~packed)
                sparser = packed
                self._spool.write_at(self._spooled(k, piece), packed.data)

        items = pieces([t.numel for t in pruned], [t.dtype for t in pruned], _span)
        states = run(items, work, lambda: (np.zeros(shape, np.int64), Scratch()), threads)
        return _Compared(*np.sum([counts for counts, _ in states], axis=0))

    def _check(self, pruned: Sequence[TensorInfo], compared: _Compared) -> None:
        for at in np.flatnonzero((compared.changed + compared.strays).any(axis=1)).tolist():
            t, changed, strays = pruned[at], compared.changed[at], compared.strays[at]
            for k, file in enumerate(self._sparse):
                if changed[k]:
                    raise NotABundle(
                        f"{changed[k]:,} of {compared.kept[at, k]:,} kept weights differ from "
                        "the dense checkpoint",
                        file=file.path,
                        tensor=t.name,
                        hint="only networks that were trained nested can be bundled",
                    )
                if strays[k]:
                    raise NotABundle(
                        f"{strays[k]:,} weights kept in {self._sparse[k - 1].path} are zero here",
                        file=file.path,
                        tensor=t.name,
                        hint="the masks must nest",
                    )


def _span(itemsize: int) -> int:
    return SPAN


def _read(file: Container, piece: Batch, places: Integers, use: str, scratch: Scratch) -> Bits:
    """Read the cells of a piece."""
    bits: Bits = scratch.array(use, piece.cells, piece.cell)
    piece.read_into(file.read_into, places, bits.view(np.uint8).data)
    return bits


def _kept(piece: Batch, own: Bits, theirs: Bits) -> tuple[Bools, Bools]:
    """Return which weights a sparse file keeps, and which of them are not those of dense."""
    if piece.mixed:
        kept, other = np.empty((2, piece.count), np.bool_)
        for part, weights, cells in piece.kinds():
            kept[weights], other[weights] = _kept(
                part, own[cells].view(part.cell), theirs[cells].view(part.cell)
            )
        return kept, other
    same = theirs == own
    found = piece.dtypes[0].magnitudes(theirs) != 0
    found |= same & (theirs != 0)
    return found, found & ~same


def _zeros(file: Container, threads: int, progress: Progress) -> int:
    """Return how many weights of floating-point matrices are zero."""
    tensors = [t for t in file.tensors if t.dtype.float_bits and len(t.shape) > 1]
    places = np.array([t.begin for t in tensors], np.int64)

    def work(piece: Batch, state: tuple[list[int], Scratch]) -> None:
        cells = _read(file, piece, places, "sparse", state[1])
        state[0].append(piece.count - int(piece.nonzero(cells).sum()))
        progress(piece.nbytes)

    items = pieces([t.numel for t in tensors], [t.dtype for t in tensors], _span)
    empty: list[int] = []
    states = run(items, work, lambda: (empty.copy(), Scratch()), threads)
    return sum(sum(zeros) for zeros, _ in states)


def _check_same(dense: Container, sparse: Container) -> None:
    """Raise NotABundle unless both have the same names, dtypes and shapes."""
    ours = {t.name: (t.dtype.name, list(t.shape)) for t in dense.tensors}
    theirs = {t.name: (t.dtype.name, list(t.shape)) for t in sparse.tensors}
    for name in sorted(ours.keys() | theirs.keys()):
        if ours.get(name) != theirs.get(name):
            a, b = ours.get(name, "missing"), theirs.get(name, "missing")
            raise NotABundle(f"{b}, in {dense.path} {a}", file=sparse.path, tensor=name)
