"""Writing a nested checkpoint from any nested source.

Where the masks are tensors, everything has its place from the start: what can be copied is copied
while the masks are still being made, so that the disk is busy meanwhile, and one pass over the
prunable weights writes their masks and takes their digests. Where the masks go into the header,
which comes first, they are made first.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from elsa_cli.checkpoint.checks import count_masks, require_counts, require_nested
from elsa_cli.checkpoint.deflate import encode_text
from elsa_cli.checkpoint.manifest import Manifest
from elsa_cli.checkpoint.names import level_name, mask_name
from elsa_cli.checkpoint.nested.placement import Layout, Places, mask_offsets
from elsa_cli.checkpoint.source import NestedSource, Piece
from elsa_cli.core.batch import Batch, Integers
from elsa_cli.core.bits import Bytes
from elsa_cli.core.level import DENSE
from elsa_cli.core.work import Beside, Progress, Scratch, no_progress, run, threads_for
from elsa_cli.errors import BadManifest
from elsa_cli.storage.copying import copy_steps
from elsa_cli.storage.digest import Digests, digest_memory, digest_ranges
from elsa_cli.storage.output import OutputFile
from elsa_cli.storage.source import Extent

__all__ = ["Written", "write_nested"]


@dataclass(frozen=True)
class Written:
    """What was written.

    Attributes:
        manifest: That of the file.
        size: Bytes of the file.
    """

    manifest: Manifest
    size: int


def write_nested(
    out: OutputFile | None,
    source: NestedSource,
    threads: int,
    progress: Progress = no_progress,
) -> Written:
    """Write a nested checkpoint.

    Args:
        out: The file to write; not committed here. None finds out what would be written.
        source: What to write. Counts and digests that its manifest has are checked on the way.
        threads: Number of threads; the bytes do not depend on it.
        progress: Called with the bytes of weights done, over all passes.

    Raises:
        BadManifest: The source is damaged: masks do not nest, counts or digests are others.
        UsageError: The header cannot hold the masks.
    """
    return _Writing(out, source, threads, progress).write()


class _Writing:
    """One nested checkpoint being written."""

    def __init__(
        self, out: OutputFile | None, source: NestedSource, threads: int, progress: Progress
    ) -> None:
        self._out = out
        self._source = source
        self._threads = threads_for(threads, [t.numel for t in source.manifest.tensors])
        self._progress = progress
        per_level = {
            (level, name): data
            for level in source.manifest.levels
            for name, data in source.per_level(level).items()
        }
        tensors = tuple(source.tensors.values())
        self._places = Places(source.manifest, tensors, source.metadata, per_level)
        copied = {spec.name for spec, _ in source.verbatim(DENSE)}
        self._all_copied = all(t.name in copied for t in source.manifest.tensors)
        self._mask_offsets = mask_offsets(source.manifest)
        self._sums = Digests([t.numel * t.dtype.itemsize for t in source.manifest.tensors])
        # Masks that wait for the header, or for the decision that they do not fit it.
        self._memory: list[bytearray] | None = None
        self._layout: Layout | None = None
        self._targets: Integers = np.zeros(0, np.int64)

    def write(self) -> Written:
        """Write everything; return what it is."""
        source, draft = self._source, self._source.manifest
        total = sum(t.numel * t.dtype.itemsize for t in draft.tensors)
        again = not self._places.known and not self._all_copied and self._out is not None
        self._progress(0, (source.passes + 1 + again) * total)
        if self._places.known:
            self._begin(self._places.as_tensors())
        else:
            self._memory = [bytearray(self._mask_offsets[-1]) for _ in draft.levels]
        with Beside(self._copies(), self._copy, self._threads):
            source.prepare(self._threads, self._progress)
            kept = self._over_all_weights()
        if self._memory is not None:
            mask_digests = digest_memory(self._memory, self._threads)
            self._settle()
            with Beside(self._copies(), self._copy, self._threads):
                if again:
                    run(source.jobs(), self._weights_alone, Scratch, self._threads)
        else:
            mask_digests = self._digests_of_masks()
        return self._finish(kept, tuple(mask_digests))

    def _begin(self, layout: Layout) -> None:
        """Check for room, and write what is at hand."""
        self._layout = layout
        names = [t.name for t in self._source.manifest.tensors]
        self._targets = np.array([layout.offset_of(name) for name in names], np.int64)
        if self._out is None:
            return
        self._out.reserve(layout.size)
        if layout.masks == "tensors":
            for (level, name), raw in self._places.per_level.items():
                self._out.write_at(layout.offset_of(level_name(level, name)), raw)

    def _settle(self) -> None:
        """Find a place for the masks that waited in memory."""
        memory, self._memory = self._memory, None
        assert memory is not None
        draft = self._source.manifest
        if draft.masks != "tensors":
            named = zip(map(mask_name, draft.levels), memory, strict=True)
            texts = {name: encode_text(raw) for name, raw in named}
            for (level, name), data in self._places.per_level.items():
                texts[level_name(level, name)] = encode_text(data)
            layout = self._places.in_header(texts)
            if layout is not None:
                self._begin(layout)
                return
        self._begin(self._places.as_tensors())
        for level_index, raw in enumerate(memory):
            self._put(level_index, 0, np.frombuffer(raw, np.uint8))

    def _copies(self) -> Iterator[tuple[Extent, int]]:
        """Yield steps that copy what needs no look, once everything has its place."""
        layout = self._layout
        if layout is not None and self._out is not None:
            moves = (
                (extent, layout.offset_of(spec.name))
                for spec, extent in self._source.verbatim(DENSE)
            )
            yield from copy_steps(moves)

    def _copy(self, step: tuple[Extent, int]) -> None:
        assert self._out is not None
        self._out.copy_from(*step)

    def _over_all_weights(self) -> Integers:
        """Store all masks; return the weights that they keep, (tensors, levels)."""
        manifest, name = self._source.manifest, self._source.name
        shape = (len(manifest.tensors), len(manifest.levels))

        def work(job: Batch, state: tuple[Integers, Scratch]) -> None:
            kept, scratch = state
            for piece in self._source.pieces(job, scratch):
                counts, strays = count_masks(piece.batch, piece.masks)
                require_nested(manifest, name, piece.batch, strays)
                kept[piece.batch.rows] += counts
                self._take(piece)
                self._progress(piece.batch.nbytes)

        states = run(
            self._source.jobs(), work, lambda: (np.zeros(shape, np.int64), Scratch()), self._threads
        )
        total: Integers = np.sum([kept for kept, _ in states], axis=0)
        require_counts(manifest, name, 0, total)
        return total

    def _take(self, piece: Piece) -> None:
        """Store the masks of a piece, and its weights if they cannot be copied."""
        batch = piece.batch
        offset = self._mask_offsets[batch.first] + batch.start // 8
        for level_index, packed in enumerate(piece.masks):
            self._put(level_index, offset, packed)
        if self._out is None:
            return
        view = piece.cells.view(np.uint8).data
        self._sums.take(batch, view)
        if self._layout is not None and not self._all_copied:
            batch.write_from(self._out.write_at, self._targets, view)

    def _weights_alone(self, job: Batch, scratch: Scratch) -> None:
        """Write the weights of a job, whose masks are stored already."""
        assert self._out is not None
        for piece in self._source.pieces(job, scratch):
            view = piece.cells.view(np.uint8).data
            piece.batch.write_from(self._out.write_at, self._targets, view)
            self._progress(len(view))

    def _put(self, level_index: int, offset: int, packed: Bytes) -> None:
        """Store bytes of the mask of a level."""
        if self._memory is not None:
            self._memory[level_index][offset : offset + packed.size] = packed.data
        elif self._out is not None:
            assert self._layout is not None
            name = mask_name(self._source.manifest.levels[level_index])
            self._out.write_at(self._layout.offset_of(name) + offset, packed.data)

    def _digests_of_masks(self) -> list[str]:
        """Return the digest of each mask that is a tensor of the file."""
        if self._out is None:
            return []
        assert self._layout is not None
        names = map(mask_name, self._source.manifest.levels)
        ranges = [(self._layout.offset_of(name), self._mask_offsets[-1]) for name in names]
        return digest_ranges(self._out.read_into, ranges, self._threads)

    def _finish(self, kept: Integers, mask_digests: tuple[str, ...]) -> Written:
        """Write the header."""
        assert self._layout is not None
        draft = self._source.manifest
        digests = [""] * len(kept) if self._out is None else self._sums.results()
        tensors = tuple(
            replace(entry, kept=tuple(counts), digest=digest, coded=())
            for entry, counts, digest in zip(draft.tensors, kept.tolist(), digests, strict=True)
        )
        manifest = replace(
            draft,
            tensors=tensors,
            masks=self._layout.masks,
            mask_digests=mask_digests,
            packing=None,
        )
        if self._out is not None:
            self._check_digests(manifest)
            self._out.write_at(0, self._layout.header(manifest))
        return Written(manifest, self._layout.size)

    def _check_digests(self, written: Manifest) -> None:
        """Compare digests with those that the source has, if it has any."""
        draft = self._source.manifest
        pairs = [
            (a.name, a.digest, b.digest)
            for a, b in zip(draft.tensors, written.tensors, strict=True)
        ]
        if draft.mask_digests:
            names = map(mask_name, draft.levels)
            pairs += zip(names, draft.mask_digests, written.mask_digests, strict=True)
        for what, expected, found in pairs:
            if expected and expected != found:
                raise BadManifest(
                    "its bytes do not have the digest in the manifest",
                    file=self._source.name,
                    tensor=what,
                    hint="the file is damaged; make or fetch it again",
                )
