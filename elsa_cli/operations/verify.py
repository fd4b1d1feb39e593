"""Checking a nested or packed checkpoint against what it says of itself."""

from __future__ import annotations

import os
from dataclasses import dataclass

import numpy as np

from elsa_cli.checkpoint.checks import count_masks
from elsa_cli.checkpoint.opening import open_nested
from elsa_cli.checkpoint.reader import Reader
from elsa_cli.core.batch import Batch, Integers
from elsa_cli.core.level import DENSE, Level
from elsa_cli.core.work import Progress, default_threads, no_progress, run
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
        digests, wrong = reader.wrong_digests(threads, progress)
        problems = [
            Problem(what, "its bytes do not have the digest in the manifest") for what in wrong
        ]
        problems += _masks(reader, threads, progress)
        problems += (Problem("end of file", what) for what in reader.unfinished())
        return VerifyReport(
            path=reader.name,
            kind=reader.manifest.kind,
            levels=reader.available,
            tensors=len(reader.manifest.tensors),
            digests=digests,
            problems=tuple(sorted(problems)),
        )


def _masks(reader: Reader, threads: int, progress: Progress) -> list[Problem]:
    """Check that masks nest and have the counts of the manifest."""
    manifest = reader.manifest
    depth = len([level for level in reader.available if level != DENSE])
    # Kept weights, and those that the next denser level lacks, (tensors, levels).
    kept = np.array([t.kept[:depth] for t in manifest.tensors], np.int64).reshape(-1, depth)
    strays = np.zeros_like(kept)

    def work(batch: Batch, problems: list[Problem]) -> None:
        try:
            kept[batch.rows], strays[batch.rows] = _count(reader, batch, depth)
        except BadManifest as error:
            if batch.several:
                for tensor in batch.tensors():
                    work(tensor, problems)
            else:
                problems.append(Problem(manifest.tensors[batch.first].name, error.what))
            return
        progress(batch.nbytes)

    empty: list[Problem] = []
    states = run(reader.wholes(), work, empty.copy, threads)
    problems = [problem for found in states for problem in found]
    for entry, found, lacking in zip(manifest.tensors, kept.tolist(), strays.tolist(), strict=True):
        for k, level in enumerate(manifest.levels[:depth]):
            if found[k] != entry.kept[k]:
                problems.append(
                    Problem(
                        entry.name,
                        f"level {level} keeps {found[k]:,} weights, the manifest says "
                        f"{entry.kept[k]:,}",
                    )
                )
            if lacking[k]:
                problems.append(
                    Problem(
                        entry.name,
                        f"{lacking[k]:,} weights of level {manifest.levels[k - 1]} are not in "
                        f"level {level}",
                    )
                )
    return problems


def _count(reader: Reader, batch: Batch, depth: int) -> tuple[Integers, Integers]:
    """Return the weights of each level, and those that the next denser one lacks, by tensor."""
    kept = np.zeros((len(batch.sizes), depth), np.int64)
    strays = np.zeros_like(kept)
    for piece, masks in reader.masks(batch):
        first = piece.first - batch.first
        rows = slice(first, first + len(piece.sizes))
        counted = count_masks(piece, masks) if masks else (0, 0)
        kept[rows] += counted[0]
        strays[rows] += counted[1]
    return kept, strays
