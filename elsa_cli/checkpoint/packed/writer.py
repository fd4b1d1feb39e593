"""Writing a packed checkpoint from any nested source.

Two passes, both over whole tensors on each thread, several small ones at a time: the masks are
coded into a spool, since their sizes decide where everything lies; then the weights are dealt out
to the shells.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from elsa_cli.checkpoint.manifest import Manifest
from elsa_cli.checkpoint.names import stored
from elsa_cli.checkpoint.packed.layout import Layout, plan_layout, shell_sizes
from elsa_cli.checkpoint.packed.shellcoding import CodedMasks, Spool, code_shells, wholes
from elsa_cli.checkpoint.source import NestedSource
from elsa_cli.core.batch import Batch
from elsa_cli.core.bits import Bytes
from elsa_cli.core.dtypes import Bits
from elsa_cli.core.kernels.coding_masks import NOTHING
from elsa_cli.core.kernels.coding_weights import weight_kernels
from elsa_cli.core.level import DENSE
from elsa_cli.core.work import Beside, Progress, Scratch, no_progress, run
from elsa_cli.storage.copying import copy_steps
from elsa_cli.storage.digest import digest_ranges
from elsa_cli.storage.output import OutputFile

__all__ = ["write_packed"]


def write_packed(
    out: OutputFile, source: NestedSource, threads: int, progress: Progress = no_progress
) -> Manifest:
    """Write a packed checkpoint; return its manifest.

    Args:
        out: The file to write; not committed here.
        source: What to write. Its manifest is complete: masks that are still to be chosen are
            written into a nested checkpoint first.
        threads: Number of threads; the bytes do not depend on it.
        progress: Called with the bytes of weights done, over all passes.

    Raises:
        BadManifest: The masks do not nest, or do not have the counts listed.
        ValueError: The manifest has no counts.
    """
    if not all(entry.kept for entry in source.manifest.tensors):
        raise ValueError("the masks are not counted yet; write a nested checkpoint first")
    total = sum(t.numel * t.dtype.itemsize for t in source.manifest.tensors)
    progress(0, 2 * total)
    manifest = source.manifest
    pruned = {t.name for t in manifest.tensors}
    shared = [(spec, extent) for spec, extent in source.verbatim(DENSE) if spec.name not in pruned]
    with (spool := Spool(out)).file:
        coded = code_shells(source, spool, threads, progress)
        tensors = tuple(
            replace(t, coded=tuple(sizes))
            for t, sizes in zip(manifest.tensors, coded.sizes.tolist(), strict=True)
        )
        metadata = stored(source.metadata, same_tensors=False)
        layout = plan_layout(
            replace(manifest, tensors=tensors), [spec for spec, _ in shared], metadata
        )
        # The spool takes its share of the disk, and is gone before the values come.
        out.reserve(layout.size - spool.size)
        out.resize(layout.size)
        _write_masks(out, source, layout, coded, spool)
    offsets = {t.name: layout.offset_of(t) for t in layout.shared}
    moves = ((extent, offsets[spec.name]) for spec, extent in shared)
    with Beside(copy_steps(moves), lambda step: out.copy_from(*step), threads):
        _deal_values(out, source, layout, threads, progress)
    digests = digest_ranges(out.read_into, layout.section_ranges(), threads)
    finished, header = layout.header(digests)
    out.write_at(0, header)
    return finished


def _write_masks(
    out: OutputFile, source: NestedSource, layout: Layout, coded: CodedMasks, spool: Spool
) -> None:
    """Write what comes before the values of each level: its per-level tensors and its mask."""
    for shell, level in enumerate(layout.manifest.levels):
        section = layout.sections[shell]
        for name, raw in source.per_level(level).items():
            out.write_at(layout.offset_of(section.per_level[name]), raw)
        assert section.mask is not None
        target = layout.offset_of(section.mask)
        for extent in coded.extents[shell]:
            out.copy_from(spool.extent(*extent), target)
            target += extent[1]


def _deal_values(
    out: OutputFile, source: NestedSource, layout: Layout, threads: int, progress: Progress
) -> None:
    """Append every weight to the values of its shell."""
    manifest = layout.manifest
    sizes = shell_sizes(manifest.tensors, len(manifest.levels))
    sizes *= np.array([[t.dtype.itemsize] for t in manifest.tensors], np.int64).reshape(-1, 1)
    begins = [layout.offset_of(section.values) for section in layout.sections]
    ends = np.cumsum(sizes, axis=0) + begins

    def work(batch: Batch, scratch: Scratch) -> None:
        targets = (ends[batch.first] - sizes[batch.first]).tolist()
        for piece, cells, packed in source.pieces(batch, scratch):
            masks = [piece.cell_mask(mask) for mask in packed]
            for shell, values in enumerate(_shells(cells, masks, scratch)):
                out.write_at(targets[shell], values.view(np.uint8).data)
                targets[shell] += values.nbytes
            progress(cells.nbytes)

    run(wholes(manifest), work, Scratch, threads)


def _shells(bits: Bits, packed: Sequence[Bytes], scratch: Scratch) -> Iterator[Bits]:
    """Yield the weights of each shell, sparsest first, dense last."""
    kernels = weight_kernels(bits.nbytes)
    shells: Bits = scratch.array("shells", bits.size, bits.dtype)
    done = 0
    for sparser, denser in itertools.pairwise([NOTHING, *packed, NOTHING]):
        found = kernels.deal(bits, sparser, denser, shells[done:])
        yield shells[done : done + found]
        done += found
