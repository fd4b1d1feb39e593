"""The sections of a packed checkpoint: what each level adds to the file, and where it lies."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from elsa_cli.checkpoint.manifest import Entry, Manifest
from elsa_cli.checkpoint.names import level_name, shell_name
from elsa_cli.core.batch import Integers
from elsa_cli.core.dtypes import DTYPES, DType
from elsa_cli.core.level import DENSE
from elsa_cli.storage.container import TensorInfo, lay_out

__all__ = ["Section", "pad", "plan_sections", "section_names", "shell_kept", "shell_sizes"]

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
    # Numbers of Python: the counts of a damaged manifest have any length.
    totals = [0] * (len(manifest.levels) + 1)
    for t in manifest.tensors:
        for at, kept in enumerate(shell_kept(t, len(manifest.levels))):
            totals[at] += kept * t.dtype.itemsize
    for at, level in enumerate((*manifest.levels, DENSE)):
        own: list[TensorInfo] = []
        blobs = []
        if level != DENSE:
            own += lay_out(
                ((level_name(level, name), *shapes[name]) for name in manifest.per_level), start
            )
            blobs.append(("mask", sum(t.coded[at] for t in manifest.tensors)))
        blobs.append(("values", totals[at]))
        start = own[-1].end if own else start
        for kind, size in blobs:
            name = shell_name(level, kind)
            own.append(TensorInfo(name, DTYPES["U8"], (pad(size),), start, start + pad(size)))
            start += pad(size)
        sections.append(Section(tuple(own), start))
    return tuple(sections)
