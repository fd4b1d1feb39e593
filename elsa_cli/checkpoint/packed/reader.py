"""The packed checkpoint: the content of a nested one, each level a prefix of the file.

After the header come the shared tensors, then for each level from the sparsest its per-level
tensors, its shell's mask and its shell's values; last the values that only dense has.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from elsa_cli.checkpoint.manifest import Manifest
from elsa_cli.checkpoint.names import is_ours, level_name
from elsa_cli.checkpoint.packed.layout import plan_sections, section_names, shell_sizes
from elsa_cli.checkpoint.packed.maskbatch import MaskStreams
from elsa_cli.checkpoint.packed.maskcode import MaskStream, coding_of
from elsa_cli.checkpoint.source import Reader, Sink
from elsa_cli.core.batch import Batch, Integers, batches
from elsa_cli.core.bits import Bytes
from elsa_cli.core.dtypes import Bits
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
        for piece, chosen in self._walk(batch, depth):
            bits = scratch.array("weights", piece.cells, piece.cell)
            bits.fill(0)
            for k, where in enumerate(map(piece.cells_of, chosen)):
                values: Bits = scratch.array("values", where.size, piece.cell)
                self.container.read_into(cursors[k], values.view(np.uint8).data)
                cursors[k] += values.nbytes
                bits[where] = values
            sink(piece, bits.view(np.uint8).data)
            if mask_sink is not None:
                mask_sink(piece, _nested_masks(piece, chosen[: len(self.manifest.levels)]))

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
        for piece, chosen in self._walk(batch, depth):
            yield piece, _nested_masks(piece, chosen)

    def _walk(self, batch: Batch, depth: int) -> Iterator[tuple[Batch, list[NDArray[Any]]]]:
        """Yield pieces of whole tensors, and the positions of their `depth` sparsest shells.

        The positions of a shell ascend and count from the first weight of the piece. With all
        shells, the last one is what no mask takes.
        """
        if batch.several:
            try:
                chosen = self._split(batch.count, self._streams(batch, depth), depth)
            except ValueError:
                # One by one, they tell which of them is damaged, and how.
                for tensor in batch.tensors():
                    yield from self._walk(tensor, depth)
            else:
                yield batch, chosen
            return
        name = self.manifest.tensors[batch.first].name
        left = self._shells[batch.first, :depth].tolist()
        streams = self._streams(batch, depth)
        for piece in batch.pieces(lambda _: PIECE):
            try:
                chosen = self._split(piece.count, streams, depth)
            except ValueError as error:
                raise self.damaged(name, str(error)) from error
            for k, where in enumerate(chosen):
                left[k] -= where.size
                if left[k] < 0:
                    raise self.damaged(name, "its coded mask has too many weights")
            yield piece, chosen
        if any(left):
            raise self.damaged(name, "its coded mask has too few weights")
        for stream in streams:
            try:
                stream.finish()
            except ValueError as error:
                raise self.damaged(name, str(error)) from error

    def _split(
        self, count: int, streams: Sequence[MaskStream | MaskStreams], depth: int
    ) -> list[NDArray[Any]]:
        """Return where the next `count` weights of each shell are."""
        chosen = []
        rest: NDArray[Any] | None = None
        for k, stream in enumerate(streams):
            free = count if rest is None else rest.size
            where, others = stream.take(free, zeros=k + 1 < depth)
            chosen.append(where if rest is None else rest.take(where))
            if k + 1 < depth:
                rest = others if rest is None else rest.take(others)
        if len(streams) < depth:
            assert rest is not None
            chosen.append(rest)
        return chosen

    def _streams(self, batch: Batch, depth: int) -> Sequence[MaskStream | MaskStreams]:
        """Return what reads the masks of the `depth` sparsest shells of whole tensors."""
        shells = self._shells[batch.rows]
        free = np.flip(np.cumsum(np.flip(shells, axis=1), axis=1), axis=1)
        coded = range(min(depth, len(self.manifest.levels)))
        if batch.several:
            return [
                MaskStreams(self._coded_parts(k, batch), shells[:, k], free[:, k]) for k in coded
            ]
        return [
            MaskStream(coding_of(int(shells[0, k]), int(free[0, k])), self._coded(k, batch.first))
            for k in coded
        ]

    def _coded_parts(self, level: int, batch: Batch) -> list[memoryview]:
        """Return the coded masks of a shell of several tensors, read at once."""
        ends = self._mask_at[batch.first : batch.rows.stop + 1, level].tolist()
        data = memoryview(bytearray(ends[-1] - ends[0]))
        self.container.read_into(self.sections[level].tensors[-2].begin + ends[0], data)
        return [data[a - ends[0] : b - ends[0]] for a, b in itertools.pairwise(ends)]

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


def _nested_masks(piece: Batch, shells: Sequence[NDArray[Any]]) -> list[Bytes]:
    """Return the packed mask of each level from the positions of the shells, sparsest first."""
    mask = np.zeros(piece.count, np.bool_)
    packed = []
    for where in shells:
        mask[where] = True
        packed.append(piece.pack_mask(mask))
    return packed


def _place(tensor: TensorInfo) -> tuple[int, int, str]:
    return tensor.begin, tensor.end, tensor.name


def _running(sizes: Integers) -> Integers:
    """Return for each column where each row's share begins, and in one more row the ends."""
    found = np.zeros((len(sizes) + 1, sizes.shape[1]), np.int64)
    np.cumsum(sizes, axis=0, out=found[1:])
    return found
