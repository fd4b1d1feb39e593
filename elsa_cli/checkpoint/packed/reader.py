"""The packed checkpoint: the content of a nested one, each level a prefix of the file.

After the header come the shared tensors, then for each level from the sparsest its per-level
tensors, its shell's mask and its shell's values; last the values that only dense has.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np

from elsa_cli.checkpoint.manifest import Manifest
from elsa_cli.checkpoint.members import depth_of
from elsa_cli.checkpoint.names import is_ours
from elsa_cli.checkpoint.packed.layout import plan_sections, section_names, shell_sizes
from elsa_cli.checkpoint.packed.maskbatch import MaskStreams
from elsa_cli.checkpoint.packed.maskcode import NOTHING, MaskStream, coding_of
from elsa_cli.checkpoint.reader import Reader
from elsa_cli.checkpoint.source import Piece
from elsa_cli.core.batch import Batch, Integers, batches, starts
from elsa_cli.core.bits import Bytes, popcount
from elsa_cli.core.dtypes import Bits
from elsa_cli.core.kernels.coding_masks import mask_kernels
from elsa_cli.core.kernels.coding_weights import weight_kernels
from elsa_cli.core.level import DENSE, Level
from elsa_cli.core.work import Progress, Scratch
from elsa_cli.errors import CutFile
from elsa_cli.storage.container import Container
from elsa_cli.storage.digest import digest_ranges
from elsa_cli.storage.header import TensorInfo, TensorSpec, lay_out
from elsa_cli.storage.source import Extent

__all__ = ["PIECE", "PackedReader"]

PIECE = 1 << 19  # weights taken apart or put together at a time


class PackedReader(Reader):
    """Reads a packed checkpoint, whole or cut behind one of its levels, from any thread."""

    def __init__(self, container: Container, manifest: Manifest) -> None:
        """Check the manifest against the header and the size of the file.

        Raises:
            BadManifest: They contradict each other.
            CutFile: The file ends before its sparsest level does.
        """
        super().__init__(container, manifest)
        self._shared = [t for t in container.tensors if not is_ours(t.name)]
        specs: dict[str, TensorSpec] = {t.name: t.spec for t in self._shared}
        missing = [name for name in manifest.per_level if name not in specs]
        if missing:
            raise self.damaged(missing[0], "differs by level but is not among the shared tensors")
        twice = [t.name for t in manifest.tensors if t.name in specs]
        if twice:
            raise self.damaged(twice[0], "is both prunable and shared")
        self._start = max((t.end for t in self._shared), default=0)
        self._sections = plan_sections(manifest, specs, self._start)
        expected = [*self._shared, *(t for s in self._sections for t in s.tensors)]
        if sorted(expected, key=_extent) != sorted(container.tensors, key=_extent):
            raise self.damaged("manifest", "does not describe the data")
        assert manifest.packing is not None
        prefix = tuple(container.header_bytes + s.end for s in self._sections)
        if manifest.packing.prefix != prefix:
            raise self.damaged("manifest", "has prefix lengths that do not fit the data")
        specs |= {t.name: TensorSpec(t.name, t.dtype, t.shape) for t in manifest.tensors}
        self.tensors: Mapping[str, TensorSpec] = {
            t.name: specs[t.name] for t in lay_out(specs.values())
        }
        self._available = tuple(
            level
            for level, section in zip(manifest.members, self._sections, strict=True)
            if section.end <= container.available
        )
        if not self._available:
            self.require(manifest.members[0])
        # By tensor: the weights of each shell; where its share of each mask and of each values
        # begins, bytes from the beginning of theirs; where it ends is the next row.
        self._shells = shell_sizes(manifest.tensors, len(manifest.levels))
        coded = np.array([t.coded for t in manifest.tensors], np.int64)
        self._mask_at = _running(coded.reshape(-1, len(manifest.levels)))
        itemsizes = np.array([t.dtype.itemsize for t in manifest.tensors], np.int64)
        self._values_at = _running(self._shells * itemsizes[:, None])

    @property
    def available(self) -> tuple[Level, ...]:
        """The networks that the file holds, sparsest first; all of them unless it is cut."""
        return self._available

    def require(self, level: Level) -> Level:
        """Return the stored level that equals `level`, if the file reaches so far."""
        found = super().require(level)
        if found not in self._available:
            assert self.manifest.packing is not None
            needed = self.manifest.packing.prefix[self.manifest.members.index(found)]
            size = self.container.header_bytes + self.container.available
            held = ", ".join(map(str, self._available))
            raise CutFile(
                f"level {found} needs the first {needed:,} bytes, the file ends after {size:,}",
                file=self.name,
                hint=f"it holds {held}" if held else "fetch the rest of it",
            )
        return found

    def per_level(self, level: Level) -> Mapping[str, bytes]:
        """Return the bytes of the per-level tensors of a stored level; none for dense."""
        section = self._sections[self.manifest.members.index(level)]
        return {name: self.container.read(t) for name, t in section.per_level.items()}

    def verbatim(self, level: Level) -> Iterator[tuple[TensorSpec, Extent]]:
        """Yield the tensors whose bytes in the file are those of the level."""
        left_out = set() if level == DENSE else set(self.manifest.per_level)
        for t in self._shared:
            if t.name not in left_out:
                yield t.spec, self.container.extent(t)

    def wholes(self) -> Iterator[Batch]:
        """Yield whole tensors, in the order of the manifest: several small ones at a time."""
        tensors = self.manifest.tensors
        return batches([t.numel for t in tensors], [t.dtype for t in tensors], lambda _: PIECE)

    def pieces(self, batch: Batch, scratch: Scratch) -> Iterator[Piece]:
        """Yield weights and masks of whole tensors; see `NestedSource`."""
        yield from self._put_together(batch, len(self._sections), scratch)

    def network(
        self, batch: Batch, level: Level, scratch: Scratch
    ) -> Iterator[tuple[Batch, memoryview]]:
        """Yield one network, reading no byte past its prefix; see `NestedSource`."""
        depth = depth_of(self.manifest.members, level)
        for piece, cells, _ in self._put_together(batch, depth, scratch):
            yield piece, cells.view(np.uint8).data

    def _put_together(self, batch: Batch, depth: int, scratch: Scratch) -> Iterator[Piece]:
        """Yield pieces of whole tensors with the weights of the `depth` sparsest shells."""
        offsets = [
            self._sections[shell].values.begin + int(self._values_at[batch.first, shell])
            for shell in range(depth)
        ]
        for piece, masks in self._walk(batch, depth):
            bits: Bits = scratch.array("weights", piece.cells, piece.cell)
            cells = np.stack([piece.cell_mask(mask) for mask in masks])
            held = [popcount(mask) for mask in cells]
            begins = starts(np.diff(held if depth == len(held) else [*held, bits.size], prepend=0))
            values: Bits = scratch.array("values", int(begins[-1]), piece.cell)
            for shell, (begin, end) in enumerate(itertools.pairwise(begins.tolist())):
                part = values[begin:end]
                self.container.read_into(offsets[shell], part.view(np.uint8).data)
                offsets[shell] += part.nbytes
            weight_kernels(bits.nbytes).assemble(values, begins[:-1], cells, bits)
            yield Piece(piece, bits, masks)

    def wrong_digests(self, threads: int, progress: Progress) -> tuple[int, list[str]]:
        """Compare the digests of the sections that the file holds; see `Reader`."""
        assert self.manifest.packing is not None
        held = self._sections[: len(self._available)]
        ends = [self._start, *(s.end for s in held)]
        ranges = [(a, b - a) for a, b in itertools.pairwise([0, *ends])]
        names = section_names(self.manifest)[: len(ranges)]
        found = digest_ranges(self.container.read_into, ranges, threads, progress)
        expected = self.manifest.packing.digests
        wrong = [
            name for name, digest in zip(names, found, strict=True) if expected.get(name) != digest
        ]
        return len(ranges), wrong

    def unfinished(self) -> Iterator[str]:
        """Yield what is there of a level that the file does not have whole."""
        held = self._sections[len(self._available) - 1].end
        if self.container.available != held:
            yield (
                f"{self.container.available - held:,} bytes after level {self._available[-1]}, "
                "too few for the next one"
            )

    @property
    def before_levels(self) -> int:
        """Bytes of the file before the first level: the header and the shared tensors."""
        return self.container.header_bytes + self._start

    def masks(self, batch: Batch) -> Iterator[tuple[Batch, list[Bytes]]]:
        """Yield the masks of every level that the file holds; see `NestedSource`."""
        depth = len([level for level in self._available if level != DENSE])
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
        bounds = self._mask_at[batch.first : batch.rows.stop + 1, level]
        data = memoryview(bytearray(int(bounds[-1] - bounds[0])))
        self.container.read_into(self._mask_of(level).begin + int(bounds[0]), data)
        return data, bounds[1:] - bounds[0]

    def _mask_of(self, shell: int) -> TensorInfo:
        mask = self._sections[shell].mask
        assert mask is not None
        return mask

    def _coded(self, level: int, at: int) -> Callable[[int], bytes]:
        """Return a function that reads the coded mask of a shell of a tensor in blocks."""
        offset = self._mask_of(level).begin + int(self._mask_at[at, level])
        left = self.manifest.tensors[at].coded[level]

        def read(size: int) -> bytes:
            nonlocal offset, left
            buffer = bytearray(min(size, left))
            self.container.read_into(offset, memoryview(buffer))
            offset, left = offset + len(buffer), left - len(buffer)
            return bytes(buffer)

        return read


def _extent(tensor: TensorInfo) -> tuple[int, int, str]:
    return tensor.begin, tensor.end, tensor.name


def _running(sizes: Integers) -> Integers:
    """Return for each column where each row's share begins, and in one more row the ends."""
    found = np.zeros((len(sizes) + 1, sizes.shape[1]), np.int64)
    np.cumsum(sizes, axis=0, out=found[1:])
    return found
