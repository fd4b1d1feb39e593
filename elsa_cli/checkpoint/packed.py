"""The packed checkpoint: the content of a nested one, each level a prefix of the file.

After the header come the shared tensors, then for each level from the sparsest its per-level
tensors, its shell's mask and its shell's values; last the values that only dense has.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from elsa_cli.checkpoint.bitmask import Bytes, pack_bits
from elsa_cli.checkpoint.container import Container, TensorInfo, lay_out
from elsa_cli.checkpoint.dtypes import DTYPES, Bits, DType
from elsa_cli.checkpoint.level import DENSE, Level
from elsa_cli.checkpoint.manifest import Entry, Manifest
from elsa_cli.checkpoint.maskcode import MaskStream, coding_of
from elsa_cli.checkpoint.names import is_ours, level_name, shell_name
from elsa_cli.checkpoint.reader import Job, Reader, Sink
from elsa_cli.checkpoint.work import Scratch, spans
from elsa_cli.errors import CutFile

__all__ = [
    "PIECE",
    "PackedReader",
    "Section",
    "pad",
    "plan_sections",
    "section_names",
    "shell_kept",
]

SHARED = "shared"  # the name of the first section among the digests
PIECE = 1 << 19  # weights taken apart or put together at a time


# Takes start, count and the packed bits of every level.
MaskSink = Callable[[int, int, list[Bytes]], None]


def pad(size: int) -> int:
    """Return `size` rounded up to 8 bytes."""
    return size + -size % 8


def shell_kept(entry: Entry, levels: int) -> tuple[int, ...]:
    """Return the weights of each shell of a tensor, sparsest first, dense last."""
    counts = (0, *entry.kept[:levels], entry.numel)
    return tuple(b - a for a, b in itertools.pairwise(counts))


def section_names(manifest: Manifest) -> list[str]:
    """Return the names under which the manifest lists the digests of the sections, in order."""
    return [SHARED, *(str(level) for level in (*manifest.levels, DENSE))]


@dataclass(frozen=True)
class Section:
    """What a level adds to the file.

    Attributes:
        tensors: Its per-level tensors, its mask and its values, as the header lists them.
        end: Where it ends, bytes from the start of the data.
    """

    tensors: tuple[TensorInfo, ...]
    end: int


def plan_sections(
    manifest: Manifest, shapes: Mapping[str, tuple[DType, tuple[int, ...]]], start: int
) -> tuple[Section, ...]:
    """Place the sections of all levels and of dense, from `start` bytes into the data.

    Args:
        manifest: With `coded` filled in.
        shapes: Dtype and shape of the per-level tensors, by name.
        start: Where the shared tensors end.
    """
    sections = []
    for at, level in enumerate((*manifest.levels, DENSE)):
        own: list[TensorInfo] = []
        blobs = []
        values = sum(
            shell_kept(t, len(manifest.levels))[at] * t.dtype.itemsize for t in manifest.tensors
        )
        if level != DENSE:
            own += lay_out(
                ((level_name(level, name), *shapes[name]) for name in manifest.per_level), start
            )
            blobs.append(("mask", sum(t.coded[at] for t in manifest.tensors)))
        blobs.append(("values", values))
        start = own[-1].end if own else start
        for kind, size in blobs:
            name = shell_name(level, kind)
            own.append(TensorInfo(name, DTYPES["U8"], (pad(size),), start, start + pad(size)))
            start += pad(size)
        sections.append(Section(tuple(own), start))
    return tuple(sections)


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
        self._mask_at = _starts([t.coded for t in manifest.tensors], len(manifest.levels))
        sizes = [
            tuple(k * t.dtype.itemsize for k in shell_kept(t, len(manifest.levels)))
            for t in manifest.tensors
        ]
        self._values_at = _starts(sizes, len(every))

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

    def jobs(self, level: Level) -> Iterator[Job]:
        """Yield one piece a prunable tensor: its coded masks can only be read in order."""
        for at, entry in enumerate(self.manifest.tensors):
            yield Job(at, 0, entry.numel)

    def produce(
        self,
        job: Job,
        level: Level,
        scratch: Scratch,
        sink: Sink,
        mask_sink: MaskSink | None = None,
    ) -> None:
        """Put one tensor of a level together from its shells, reading no byte past the prefix.

        `mask_sink` gets the masks on the way, as `masks` yields them.
        """
        entry = self.manifest.tensors[job.entry]
        every = (*self.manifest.levels, DENSE)
        depth = every.index(level) + 1
        size = entry.dtype.itemsize
        cursors = [
            self.sections[k].tensors[-1].begin + self._values_at[k][job.entry] for k in range(depth)
        ]
        for start, count, chosen in self._walk(job.entry, depth):
            bits = scratch.array("weights", count, entry.dtype.unsigned)
            bits.fill(0)
            for k, where in enumerate(chosen):
                values: Bits = scratch.array("values", where.size, entry.dtype.unsigned)
                self.container.read_into(cursors[k], values.view(np.uint8).data)
                cursors[k] += where.size * size
                bits[where] = values
            sink(entry.name, start * size, bits.view(np.uint8).data)
            if mask_sink is not None:
                mask_sink(start, count, _nested_masks(chosen[: len(self.manifest.levels)], count))

    def section_ranges(self) -> Iterator[tuple[str, str, tuple[int, int]]]:
        """Yield name, digest and (offset, size) of the shared section and of each level held."""
        assert self.manifest.packing is not None
        start = max((t.end for t in self._shared), default=0)
        ends = [start, *(s.end for s in self.sections[: len(self.available)])]
        for name, begin, end in zip(section_names(self.manifest), [0, *ends], ends, strict=False):
            yield name, self.manifest.packing.digests.get(name, ""), (begin, end - begin)

    def masks(self, at: int) -> Iterator[tuple[int, int, list[Bytes]]]:
        """Yield start, count and the packed bits of every level held, piece after piece."""
        depth = len([level for level in self.available if level != DENSE])
        for start, count, chosen in self._walk(at, depth):
            yield start, count, _nested_masks(chosen, count)

    def _walk(self, at: int, depth: int) -> Iterator[tuple[int, int, list[NDArray[Any]]]]:
        """Yield start, count and the positions of the `depth` sparsest shells of a tensor.

        The positions of a shell ascend and count from `start`. With all shells, the last one is
        what no mask takes.
        """
        entry = self.manifest.tensors[at]
        coded = min(depth, len(self.manifest.levels))
        left = list(shell_kept(entry, len(self.manifest.levels)))
        streams = [
            MaskStream(coding_of(left[k], sum(left[k:])), self._coded(k, at)) for k in range(coded)
        ]
        for start, count in spans(entry.numel, PIECE):
            chosen = []
            rest: NDArray[Any] | None = None
            for k in range(coded):
                free = count if rest is None else rest.size
                try:
                    where, others = streams[k].take(free, zeros=k + 1 < depth)
                except ValueError as error:
                    raise self.damaged(entry.name, str(error)) from error
                chosen.append(where if rest is None else rest.take(where))
                if k + 1 < depth:
                    rest = others if rest is None else rest.take(others)
            if coded < depth:
                assert rest is not None
                chosen.append(rest)
            for k, where in enumerate(chosen):
                left[k] -= where.size
                if left[k] < 0:
                    raise self.damaged(entry.name, "its coded mask has too many weights")
            yield start, count, chosen
        if any(left[:depth]):
            raise self.damaged(entry.name, "its coded mask has too few weights")
        for stream in streams:
            try:
                stream.finish()
            except ValueError as error:
                raise self.damaged(entry.name, str(error)) from error

    def _coded(self, level: int, at: int) -> Any:
        """Return a function that reads the coded mask of a shell of a tensor bit by bit."""
        offset = self.sections[level].tensors[-2].begin + self._mask_at[level][at]
        left = self.manifest.tensors[at].coded[level]

        def read(size: int) -> bytes:
            nonlocal offset, left
            buffer = bytearray(min(size, left))
            self.container.read_into(offset, memoryview(buffer))
            offset, left = offset + len(buffer), left - len(buffer)
            return bytes(buffer)

        return read


def _nested_masks(shells: Sequence[NDArray[Any]], count: int) -> list[Bytes]:
    """Return the packed mask of each level from the positions of the shells, sparsest first."""
    mask = np.zeros(count, np.bool_)
    packed = []
    for where in shells:
        mask[where] = True
        packed.append(pack_bits(mask))
    return packed


def _place(tensor: TensorInfo) -> tuple[int, int, str]:
    return tensor.begin, tensor.end, tensor.name


def _starts(sizes: Sequence[Sequence[int]], columns: int) -> list[list[int]]:
    """Return for each column where each row's share begins, rows following one another."""
    starts = []
    for k in range(columns):
        at, column = 0, []
        for row in sizes:
            column.append(at)
            at += row[k]
        starts.append(column)
    return starts
