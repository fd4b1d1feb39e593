"""The packed checkpoint: the content of a nested one, each level a prefix of the file.

After the header come the shared tensors, then for each level from the sparsest its per-level
tensors, its shell's mask and its shell's values; last the values that only dense has.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from elsa_cli.checkpoint.manifest import Manifest
from elsa_cli.checkpoint.names import is_ours, level_name
from elsa_cli.checkpoint.packed.layout import plan_sections, section_names, shell_sizes
from elsa_cli.checkpoint.packed.maskbatch import MaskStreams
from elsa_cli.checkpoint.packed.maskcode import NOTHING, MaskStream, coding_of
from elsa_cli.checkpoint.source import Reader, Sink
from elsa_cli.core.batch import Batch, Integers, batches, starts
from elsa_cli.core.bits import Bytes, popcount
from elsa_cli.core.dtypes import Bits
from elsa_cli.core.kernels.coding_masks import mask_kernels
from elsa_cli.core.kernels.coding_weights import weight_kernels
from elsa_cli.core.level import DENSE, Level
from elsa_cli.core.work import Scratch
from elsa_cli.errors import CutFile
from elsa_cli.storage.container import Container, TensorInfo, lay_out

__all__ = ["PIECE", "PackedReader"]

PIECE = 1 << 19  # weights taken apart or put together at a time


# Takes a batch and the packed bits of every level.
MaskSink = Callable[[Batch, list[Bytes]], None]


class PackedReader(Reader):
    """Reads a packed checkpoint, whole or cut behind one of its levels, from any thread."""

    def __init__(self, container: Container, manifest: Manifest) -> None:
        """Check the manifest against the header and the size of the file.

        Raises:
            BadManifest: They contradict each other.
            CutFile: The file ends before its sparsest level does.
        """
        super().__init__(container, manifest)
        shared = [t for t in container.tensors if not is_ours(t.name)]
        start = max((t.end for t in shared), default=0)
        shapes = {t.name: (t.dtype, t.shape) for t in shared}
        missing = [name for name in manifest.per_level if name not in shapes]
        if missing:
            raise self.damaged(missing[0], "differs by level but is not among the shared tensors")
        twice = [t.name for t in manifest.tensors if t.name in shapes]
        if twice:
            raise self.damaged(twice[0], "is both prunable and shared")
        self.sections = plan_sections(manifest, shapes, start)
        expected = [*shared, *(t for s in self.sections for t in s.tensors)]
        if sorted(expected, key=_place) != sorted(container.tensors, key=_place):
            raise self.damaged("manifest", "does not describe the data")
        assert manifest.packing is not None
        prefix = tuple(container.header_bytes + s.end for s in self.sections)
        if manifest.packing.prefix != prefix:
            raise self.damaged("manifest", "has prefix lengths that do not fit the data")
        pruned = [(t.name, t.dtype, t.shape) for t in manifest.tensors]
        self.dense = {
            t.name: t for t in lay_out([*((t.name, t.dtype, t.shape) for t in shared), *pruned])
        }
        self._shared = shared
        every = (*manifest.levels, DENSE)
        self.available = tuple(
            level
            for level, section in zip(every, self.sections, strict=True)
            if section.end <= container.available
        )
        if not self.available:
            self.require(every[0])
        # By tensor: the weights of each shell; where its share of each mask and of each values
        # begins, bytes from the beginning of theirs; where it ends is the next row.
        self._shells = shell_sizes(manifest.tensors, len(manifest.levels))
        coded = np.array([t.coded for t in manifest.tensors], np.int64)
        self._mask_at = _running(coded.reshape(-1, len(manifest.levels)))
        itemsizes = np.array([t.dtype.itemsize for t in manifest.tensors], np.int64)
        self._values_at = _running(self._shells * itemsizes[:, None])

    def require(self, level: Level) -> Level:
        """Return the stored level that equals `level`, if the file reaches so far."""
        found = super().require(level)
        if found not in self.available:
            assert self.manifest.packing is not None
            at = (*self.manifest.levels, DENSE).index(found)
            size = self.container.header_bytes + self.container.available
            held = ", ".join(map(str, self.available))
            raise CutFile(
                f"level {found} needs the first {self.manifest.packing.prefix[at]:,} bytes, "
                f"the file ends after {size:,}",
                file=self.path,
                hint=f"it holds {held}" if held else "fetch the rest of it",
            )
        return found

    def per_level(self, level: Level) -> Mapping[str, bytes]:
        """Return the bytes of the per-level tensors of a stored level; none for dense."""
        if level == DENSE:
            return {}
        section = self.sections[self.manifest.levels.index(level)]
        infos = {t.name: t for t in section.tensors}
        return {
            name: self.container.read(infos[level_name(level, name)])
            for name in self.manifest.per_level
        }

    def verbatim(self, level: Level) -> Iterator[TensorInfo]:
        """Yield the tensors whose bytes in the file are those of the level."""
        own = set() if level == DENSE else set(self.manifest.per_level)
        return (t for t in self._shared if t.name not in own)

    def wholes(self) -> Iterator[Batch]:
        """Yield whole tensors, in the order of the manifest: several small ones at a time."""
        tensors = self.manifest.tensors
        return batches([t.numel for t in tensors], [t.dtype for t in tensors], lambda _: PIECE)

    def jobs(self, level: Level) -> Iterator[Batch]:
        """Yield whole tensors: their coded masks can only be read in order."""
        return self.wholes()

    def produce(
        self,
        batch: Batch,
        level: Level,
        scratch: Scratch,
        sink: Sink,
        mask_sink: MaskSink | None = None,
    ) -> None:
        """Put tensors of a level together from their shells, reading no byte past the prefix.

        `mask_sink` gets the masks on the way, as `masks` yields them.
        """
        depth = (*self.manifest.levels, DENSE).index(level) + 1
        cursors = [
            self.sections[k].tensors[-1].begin + int(self._values_at[batch.first, k])
            for k in range(depth)
        ]
        for piece, masks in self._walk(batch, depth):
            bits: Bits = scratch.array("weights", piece.cells, piece.cell)
            cells = np.stack([piece.cell_mask(mask) for mask in masks])
            held = [popcount(mask) for mask in cells]
            begins = starts(np.diff(held if depth == len(held) else [*held, bits.size], prepend=0))
            values: Bits = scratch.array("values", int(begins[-1]), piece.cell)
            for k, (begin, end) in enumerate(itertools.pairwise(begins.tolist())):
                part = values[begin:end]
                self.container.read_into(cursors[k], part.view(np.uint8).data)
                cursors[k] += part.nbytes
            weight_kernels(bits.nbytes).assemble(values, begins[:-1], cells, bits)
            sink(piece, bits.view(np.uint8).data)
            if mask_sink is not None:
                mask_sink(piece, masks)

    def section_ranges(self) -> Iterator[tuple[str, str, tuple[int, int]]]:
        """Yield name, digest and (offset, size) of the shared section and of each level held."""
        assert self.manifest.packing is not None
        start = max((t.end for t in self._shared), default=0)
        ends = [start, *(s.end for s in self.sections[: len(self.available)])]
        for name, begin, end in zip(section_names(self.manifest), [0, *ends], ends, strict=False):
            yield name, self.manifest.packing.digests.get(name, ""), (begin, end - begin)

    def masks_of(self, batch: Batch) -> Iterator[tuple[Batch, list[Bytes]]]:
        """Yield pieces of a batch and the packed bits of every level held, in order."""
        depth = len([level for level in self.available if level != DENSE])
        yield from self._walk(batch, depth)

    def _walk(self, batch: Batch, depth: int) -> Iterator[tuple[Batch, list[Bytes]]]:
        """Yield pieces of whole tensors, and the masks of their `depth` sparsest levels.

        Dense has none.
        """
        if batch.several:
            try:
                masks, _ = self._masks(batch, self._streams(batch, depth))
            except ValueError:
                # One by one, they tell which of them is damaged, and how.
                for tensor in batch.tensors():
                    yield from self._walk(tensor, depth)
            else:
                yield batch, masks
            return
        name = self.manifest.tensors[batch.first].name
        streams = self._streams(batch, depth)
        left = self._shells[batch.first, : len(streams)].tolist()
        for piece in batch.pieces(lambda _: PIECE):
            try:
                masks, found = self._masks(piece, streams)
            except ValueError as error:
                raise self.damaged(name, str(error)) from error
            for k, marked in enumerate(found):
                left[k] -= marked
                if left[k] < 0:
                    raise self.damaged(name, "its coded mask has too many weights")
            yield piece, masks
        if any(left):
            raise self.damaged(name, "its coded mask has too few weights")
        for stream in streams:
            try:
                stream.finish()
            except ValueError as error:
                raise self.damaged(name, str(error)) from error

    def _masks(
        self, piece: Batch, streams: Sequence[MaskStream | MaskStreams]
    ) -> tuple[list[Bytes], list[int]]:
        """Return the mask of each level for the next weights, and how many each shell has."""
        masks, found, sparser = [], [], NOTHING
        mask_kernels(piece.nbytes)
        for stream in streams:
            mask: Bytes = np.empty(int(piece.mask_places()[-1]), np.uint8)
            found.append(stream.take(sparser, piece.count, mask))
            masks.append(mask)
            sparser = mask
        return masks, found

    def _streams(self, batch: Batch, depth: int) -> Sequence[MaskStream | MaskStreams]:
        """Return what reads the masks of the `depth` sparsest shells of whole tensors."""
        shells = self._shells[batch.rows]
        free = np.flip(np.cumsum(np.flip(shells, axis=1), axis=1), axis=1)
        coded = range(min(depth, len(self.manifest.levels)))
        if batch.several:
            return [
                MaskStreams(*self._coded_parts(k, batch), batch.sizes, shells[:, k], free[:, k])
                for k in coded
            ]
        return [
            MaskStream(coding_of(int(shells[0, k]), int(free[0, k])), self._coded(k, batch.first))
            for k in coded
        ]

    def _coded_parts(self, level: int, batch: Batch) -> tuple[memoryview, Integers]:
        """Return the coded masks of a shell of several tensors, read at once, and their ends."""
        places = self._mask_at[batch.first : batch.rows.stop + 1, level]
        data = memoryview(bytearray(int(places[-1] - places[0])))
        at = self.sections[level].tensors[-2].begin + int(places[0])
        self.container.read_into(at, data)
        return data, places[1:] - places[0]

    def _coded(self, level: int, at: int) -> Any:
        """Return a function that reads the coded mask of a shell of a tensor bit by bit."""
        offset = self.sections[level].tensors[-2].begin + int(self._mask_at[at, level])
        left = self.manifest.tensors[at].coded[level]

        def read(size: int) -> bytes:
            nonlocal offset, left
            buffer = bytearray(min(size, left))
            self.container.read_into(offset, memoryview(buffer))
            offset, left = offset + len(buffer), left - len(buffer)
            return bytes(buffer)

        return read


def _place(tensor: TensorInfo) -> tuple[int, int, str]:
    return tensor.begin, tensor.end, tensor.name


def _running(sizes: Integers) -> Integers:
    """Return for each column where each row's share begins, and in one more row the ends."""
    found = np.zeros((len(sizes) + 1, sizes.shape[1]), np.int64)
    np.cumsum(sizes, axis=0, out=found[1:])
    return found
