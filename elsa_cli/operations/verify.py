"""Checking a nested or packed checkpoint against what it says of itself."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from elsa_cli.checkpoint.bitmask import popcount
from elsa_cli.checkpoint.digest import digest_ranges
from elsa_cli.checkpoint.level import Level
from elsa_cli.checkpoint.names import mask_name
from elsa_cli.checkpoint.nested import NestedReader
from elsa_cli.checkpoint.opening import open_nested
from elsa_cli.checkpoint.packed import PackedReader
from elsa_cli.checkpoint.reader import Reader
from elsa_cli.checkpoint.work import Progress, default_threads, no_progress, run
from elsa_cli.errors import BadManifest

__all__ = ["Problem", "VerifyReport", "verify"]


@dataclass(frozen=True, order=True)
class Problem:
    """What is wrong, and where: a tensor, a mask or a section."""

    where: str
    what: str


@dataclass(frozen=True)
class VerifyReport:
    """What was checked and what was found.

    Attributes:
        path: The file.
        kind: `nested` or `packed`.
        levels: Levels that were checked, sparsest first.
        tensors: Prunable tensors that were checked.
        digests: Digests that were compared.
        problems: Empty if all is well.
    """

    path: str
    kind: str
    levels: tuple[Level, ...]
    tensors: int
    digests: int
    problems: tuple[Problem, ...]

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return not self.problems


def verify(
    checkpoint: str | os.PathLike[str],
    *,
    threads: int | None = None,
    progress: Progress = no_progress,
) -> VerifyReport:
    """Check that masks nest and have their counts, and that weights and masks have their digests.

    That tensors tile the file, and that manifest and file agree in names, shapes and sizes, is
    checked by opening it.

    Raises:
        InputError: It cannot be opened as a nested or packed checkpoint at all.
    """
    threads = threads or default_threads()
    with open_nested(checkpoint) as reader:
        progress(0, 2 * sum(t.numel * t.dtype.itemsize for t in reader.manifest.tensors))
        problems, digests = _digests(reader, threads, progress)
        problems += _masks(reader, threads, progress)
        if isinstance(reader, PackedReader):
            problems += _loose_end(reader)
        return VerifyReport(
            path=reader.path,
            kind=reader.manifest.kind,
            levels=reader.available,
            tensors=len(reader.manifest.tensors),
            digests=digests,
            problems=tuple(sorted(problems)),
        )


def _digests(reader: Reader, threads: int, progress: Progress) -> tuple[list[Problem], int]:
    """Compare the digests of weights and masks, or of the sections of a packed file."""
    if isinstance(reader, PackedReader):
        wanted = list(reader.section_ranges())
    else:
        assert isinstance(reader, NestedReader)
        wanted = [
            (f"{t.name}", t.digest, (reader.dense[t.name].begin, reader.dense[t.name].nbytes))
            for t in reader.manifest.tensors
        ]
    ranges = [place for _, _, place in wanted]
    found = digest_ranges(reader.container.read_into, ranges, threads, progress)
    problems = [
        Problem(name, "its bytes do not have the digest in the manifest")
        for (name, digest, _), actual in zip(wanted, found, strict=True)
        if digest != actual
    ]
    if isinstance(reader, NestedReader):
        levels = reader.manifest.levels
        for level, digest in zip(levels, reader.mask_digests(threads), strict=True):
            if digest != reader.manifest.mask_digests[levels.index(level)]:
                problems.append(
                    Problem(mask_name(level), "the mask does not have the digest in the manifest")
                )
        return problems, len(wanted) + len(levels)
    return problems, len(wanted)


def _masks(reader: Reader, threads: int, progress: Progress) -> list[Problem]:
    """Check that masks nest and have the counts of the manifest."""
    manifest = reader.manifest

    def work(at: int, problems: list[Problem]) -> None:
        entry = manifest.tensors[at]
        kept: dict[int, int] = {}
        strays: dict[int, int] = {}
        try:
            for _, count, levels in reader.masks(at):
                for k, bits in enumerate(levels):
                    kept[k] = kept.get(k, 0) + popcount(bits)
                    if k:
                        both = np.bitwise_and(levels[k - 1], ~bits)
                        strays[k] = strays.get(k, 0) + popcount(both)
                progress(count * entry.dtype.itemsize)
        except BadManifest as error:
            problems.append(Problem(entry.name, error.what))
            return
        for k, found in kept.items():
            level = manifest.levels[k]
            if found != entry.kept[k]:
                problems.append(
                    Problem(
                        entry.name,
                        f"level {level} keeps {found:,} weights, the manifest says "
                        f"{entry.kept[k]:,}",
                    )
                )
            if strays.get(k):
                problems.append(
                    Problem(
                        entry.name,
                        f"{strays[k]:,} weights of level {manifest.levels[k - 1]} are not in "
                        f"level {level}",
                    )
                )

    empty: list[Problem] = []
    states = run(range(len(manifest.tensors)), work, empty.copy, threads)
    return [problem for problems in states for problem in problems]


def _loose_end(reader: PackedReader) -> Iterator[Problem]:
    """Report a cut that is not behind a level."""
    held = reader.sections[len(reader.available) - 1].end
    if reader.container.available != held:
        yield Problem(
            "end of file",
            f"{reader.container.available - held:,} bytes after level {reader.available[-1]}, "
            "too few for the next one",
        )
