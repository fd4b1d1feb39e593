"""Taking levels out of a nested or packed checkpoint, by zeroing alone."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np

from elsa_cli.checkpoint.names import content_hashes, without_hashes
from elsa_cli.checkpoint.opening import open_nested
from elsa_cli.checkpoint.source import NestedSource
from elsa_cli.core.batch import Batch
from elsa_cli.core.level import DENSE, Level, parse_levels
from elsa_cli.core.work import Progress, Scratch, default_threads, no_progress, run
from elsa_cli.operations.output_names import level_paths
from elsa_cli.storage.container import TensorInfo, encode_header, lay_out
from elsa_cli.storage.copying import copy_steps
from elsa_cli.storage.output import OutputFile, Policy
from elsa_cli.storage.source import Extent

__all__ = ["ExtractReport", "Extracted", "extract"]


@dataclass(frozen=True)
class Extracted:
    """One network written: its level, file, size in bytes, and kept prunable weights."""

    level: Level
    output: str
    bytes_out: int
    kept: int


@dataclass(frozen=True)
class ExtractReport:
    """The networks written.

    Attributes:
        written: Sparsest first.
        prunable: Weights that take part.
        bytes_in: Size of the input.
        dropped_metadata: Keys of hashes that hold for the dense network alone, and that sparser
            levels therefore do not have.
    """

    written: tuple[Extracted, ...]
    prunable: int
    bytes_in: int
    dropped_metadata: tuple[str, ...] = ()


def extract(
    checkpoint: str | os.PathLike[str],
    level: str | float | Level | Iterable[str | float | Level],
    output: str | os.PathLike[str] | None = None,
    *,
    threads: int | None = None,
    clobber: bool = True,
    force: bool = False,
    progress: Progress = no_progress,
) -> ExtractReport:
    """Write one level, or several, as ordinary checkpoints.

    Each has exactly the dense network's names, shapes, dtypes and foreign metadata, but for hashes
    of the dense weights. Kept weights have the bits they have in the dense network, the others are
    +0.0.

    Args:
        checkpoint: A nested or packed checkpoint.
        level: A stored level or `dense`; several as a list or as `"0.5,0.9"`.
        output: The file; `{level}` in it stands for the level. By default NAME-0.9.safetensors.
        threads: Number of threads; the bytes written do not depend on it.
        clobber: Replace existing outputs.
        force: Let an output be the input.
        progress: Told of the bytes written.

    Raises:
        LevelNotStored: The message lists the stored levels.
        CutFile: A packed file ends before the level does.
        InputError: The checkpoint cannot be used.
        OutputError: An output cannot be written. Nothing of it is left behind; levels that were
            put in place before it stay.
    """
    levels = parse_levels([level] if isinstance(level, float | Level) else level)
    threads = threads or default_threads()
    with open_nested(checkpoint) as reader, contextlib.ExitStack() as stack:
        wanted = [reader.require(level) for level in levels]
        template = None if output is None else os.fspath(output)
        paths = level_paths(checkpoint, tuple(wanted), template)
        policy = Policy([checkpoint], clobber=clobber, force=force)
        for path in paths.values():
            policy.check(path)
        layout = lay_out(reader.tensors.values())
        data = layout[-1].end if layout else 0
        headers = {
            level: encode_header(
                layout, reader.metadata if level == DENSE else without_hashes(reader.metadata)
            )
            for level in wanted
        }
        progress(0, sum(len(header) + data for header in headers.values()))
        files = []
        for level in wanted:
            out = stack.enter_context(OutputFile(paths[level], policy))
            out.reserve(len(headers[level]) + data)
            _write(out, reader, level, headers[level], layout, threads, progress)
            files.append(out)
        for out in files:
            out.commit()
        written = tuple(
            Extracted(level, paths[level], len(headers[level]) + data, reader.manifest.kept(level))
            for level in wanted
        )
        dropped = content_hashes(reader.metadata) if set(wanted) != {DENSE} else ()
        return ExtractReport(written, reader.manifest.prunable, reader.size, dropped)


def _write(
    out: OutputFile,
    source: NestedSource,
    level: Level,
    header: bytes,
    layout: tuple[TensorInfo, ...],
    threads: int,
    progress: Progress,
) -> None:
    """Write one level."""
    offsets = {t.name: len(header) + t.begin for t in layout}
    out.write_at(0, header)
    for name, data in source.per_level(level).items():
        out.write_at(offsets[name], data)
        progress(len(data))
    targets = np.array([offsets[t.name] for t in source.manifest.tensors], np.int64)

    def copy(step: tuple[Extent, int], _: Scratch) -> None:
        out.copy_from(*step)
        progress(step[0].size)

    def compute(batch: Batch, scratch: Scratch) -> None:
        for piece, data in source.network(batch, level, scratch):
            piece.write_from(out.write_at, targets, data)
            progress(len(data))

    def items() -> Iterator[partial[None]]:
        moves = ((extent, offsets[spec.name]) for spec, extent in source.verbatim(level))
        for step in copy_steps(moves):
            yield partial(copy, step)
        for batch in source.network_jobs(level):
            yield partial(compute, batch)

    run(items(), lambda item, scratch: item(scratch), Scratch, threads)
