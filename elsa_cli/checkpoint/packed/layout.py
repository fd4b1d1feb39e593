"""Where a packed checkpoint has what: shared tensors, then what each level adds.

Example: eight weights, of which level 0.75 keeps two and level 0.5 two more, and a shared bias. The
data is: bias; mask and two values of shell 0.75; mask and two values of shell 0.5; the other four
values. A file cut off behind the second part holds the bias and level 0.75.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from elsa_cli.checkpoint.manifest import DIGEST_DIGITS, Entry, Manifest, Packing
from elsa_cli.checkpoint.names import KEY, level_name, shell_name
from elsa_cli.core.batch import Integers
from elsa_cli.core.dtypes import DTYPES
from elsa_cli.core.level import DENSE
from elsa_cli.storage.container import TensorInfo, TensorSpec, encode_header, lay_out

__all__ = [
    "Layout",
    "Section",
    "pad",
    "plan_layout",
    "plan_sections",
    "section_names",
    "shell_kept",
    "shell_sizes",
]

SHARED = "shared"  # the name of the first section among the digests


def pad(size: int) -> int:
    """Return `size` rounded up to 8 bytes."""
    return size + -size % 8


def shell_kept(entry: Entry, levels: int) -> tuple[int, ...]:
    """Return the weights of each shell of a tensor, sparsest first, dense last."""
    counts = (0, *entry.kept[:levels], entry.numel)
    return tuple(b - a for a, b in itertools.pairwise(counts))


def shell_sizes(tensors: Sequence[Entry], levels: int) -> Integers:
    """Return the weights of each shell of each tensor, (tensors, levels + 1), dense last.

    The tensors have to fit a file: the counts of a damaged manifest may be longer than 64 bits.
    """
    counts = np.zeros((len(tensors), levels + 2), np.int64)
    counts[:, 1:-1] = np.array([t.kept for t in tensors], np.int64).reshape(-1, levels)
    counts[:, -1] = [t.numel for t in tensors]
    return np.diff(counts, axis=1)


def section_names(manifest: Manifest) -> list[str]:
    """Return the names under which the manifest lists the digests of the sections, in order."""
    return [SHARED, *map(str, manifest.members)]


@dataclass(frozen=True)
class Section:
    """What a level adds to the file.

    Attributes:
        per_level: Its per-level tensors, by their names in the network.
        mask: The coded mask of its shell; None for dense, whose shell is what is left.
        values: The weights of its shell.
    """

    per_level: Mapping[str, TensorInfo]
    mask: TensorInfo | None
    values: TensorInfo

    @property
    def tensors(self) -> Iterator[TensorInfo]:
        """All of these, as the header lists them."""
        yield from self.per_level.values()
        if self.mask is not None:
            yield self.mask
        yield self.values

    @property
    def end(self) -> int:
        """Where the section ends, bytes from the start of the data."""
        return self.values.end


def plan_sections(
    manifest: Manifest, specs: Mapping[str, TensorSpec], start: int
) -> tuple[Section, ...]:
    """Place the sections of all levels and of dense, from `start` bytes into the data.

    Args:
        manifest: With `coded` filled in.
        specs: The tensors that are not prunable, by name.
        start: Where the shared tensors end.
    """
    sections = []
    # Numbers of Python: the counts of a damaged manifest have any length.
    totals = [0] * len(manifest.members)
    for t in manifest.tensors:
        for shell, kept in enumerate(shell_kept(t, len(manifest.levels))):
            totals[shell] += kept * t.dtype.itemsize

    def blob(name: str, size: int) -> TensorInfo:
        return TensorInfo(name, DTYPES["U8"], (pad(size),), start, start + pad(size))

    for shell, level in enumerate(manifest.members):
        per_level: dict[str, TensorInfo] = {}
        mask = None
        if level != DENSE:
            original = {level_name(level, name): name for name in manifest.per_level}
            wanted = [
                TensorSpec(stored, specs[name].dtype, specs[name].shape)
                for stored, name in original.items()
            ]
            placed = lay_out(wanted, start)
            per_level = {original[t.name]: t for t in placed}
            start = placed[-1].end if placed else start
            mask = blob(shell_name(level, "mask"), sum(t.coded[shell] for t in manifest.tensors))
            start = mask.end
        values = blob(shell_name(level, "values"), totals[shell])
        start = values.end
        sections.append(Section(per_level, mask, values))
    return tuple(sections)


@dataclass(frozen=True)
class Layout:
    """Where everything lies in the file being written.

    Attributes:
        manifest: With prefix lengths; the digests of the sections are still to come.
        shared: The tensors that are not prunable.
        sections: What each level adds.
        metadata: That of the file, but for the manifest.
        header_bytes: Bytes of the header.
    """

    manifest: Manifest
    shared: Sequence[TensorInfo]
    sections: Sequence[Section]
    metadata: Mapping[str, str]
    header_bytes: int

    @property
    def size(self) -> int:
        """Bytes of the whole file."""
        return self.header_bytes + self.sections[-1].end

    def offset_of(self, tensor: TensorInfo) -> int:
        """Return the offset of a tensor in the file, in bytes."""
        return self.header_bytes + tensor.begin

    def section_ranges(self) -> list[tuple[int, int]]:
        """Return offset and size of the shared section and of each level's, in bytes."""
        ends = [max((t.end for t in self.shared), default=0), *(s.end for s in self.sections)]
        return [(self.header_bytes + a, b - a) for a, b in itertools.pairwise([0, *ends])]

    def header(self, digests: Sequence[str]) -> tuple[Manifest, bytes]:
        """Return the finished manifest and the header, from the digests of the sections."""
        assert self.manifest.packing is not None
        named = dict(zip(section_names(self.manifest), digests, strict=True))
        manifest = replace(self.manifest, packing=Packing(self.manifest.packing.prefix, named))
        every = [*self.shared, *(t for s in self.sections for t in s.tensors)]
        metadata = {**self.metadata, KEY: manifest.encode()}
        return manifest, encode_header(every, metadata, self.header_bytes)


def plan_layout(
    manifest: Manifest, shared: Sequence[TensorSpec], metadata: Mapping[str, str]
) -> Layout:
    """Lay a packed checkpoint out.

    The prefix lengths count the header that they stand in: only their digits change its length.

    Args:
        manifest: With `coded` filled in.
        shared: The tensors that are not prunable.
        metadata: Foreign metadata, as the format stores it.
    """
    placed = lay_out(shared)
    start = max((t.end for t in placed), default=0)
    sections = plan_sections(manifest, {t.name: t for t in placed}, start)
    digests = dict.fromkeys(section_names(manifest), "0" * DIGEST_DIGITS)
    every = [*placed, *(t for s in sections for t in s.tensors)]

    def packing(length: int) -> Packing:
        return Packing(tuple(length + s.end for s in sections), digests)

    def digits(length: int) -> int:
        return sum(len(str(prefix)) for prefix in packing(length).prefix)

    # Only the digits of the prefix lengths change with the length: encoding once is enough.
    manifest = replace(manifest, packing=packing(0))
    header = encode_header(every, {**metadata, KEY: manifest.encode()})
    bare = len(header.rstrip(b" ")) - digits(0)
    length = 0
    while (needed := pad(bare + digits(length))) > length:
        length = needed
    return Layout(replace(manifest, packing=packing(length)), placed, sections, metadata, length)
