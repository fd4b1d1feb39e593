"""Writing a packed checkpoint from anything that has dense weights and nested masks.

Two passes, both over whole tensors on each thread, several small ones at a time: the masks are
coded into a spool, then the weights are dealt out to the shells.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np

from elsa_cli.checkpoint.manifest import DIGEST_DIGITS, Manifest, Packing
from elsa_cli.checkpoint.names import KEY, level_name, stored
from elsa_cli.checkpoint.packed.layout import (
    Section,
    pad,
    plan_sections,
    section_names,
    shell_sizes,
)
from elsa_cli.checkpoint.packed.shellcoding import MaskedSource, Spool, code_shells, wholes
from elsa_cli.core.batch import Batch
from elsa_cli.core.bits import Bytes
from elsa_cli.core.dtypes import Bits
from elsa_cli.core.kernels.coding_masks import NOTHING
from elsa_cli.core.kernels.coding_weights import weight_kernels
from elsa_cli.core.work import Progress, Scratch, run
from elsa_cli.storage.container import TensorInfo, encode_header, lay_out
from elsa_cli.storage.digest import digest_ranges
from elsa_cli.storage.output import OutputFile, copy_steps

__all__ = ["MaskedSource", "write_packed"]


def write_packed(
    out: OutputFile, source: MaskedSource, threads: int, progress: Progress
) -> Manifest:
    """Write a packed checkpoint; return its manifest.

    Args:
        out: The file to write; not committed here.
        source: A nested checkpoint, or a bundle.
        threads: Number of threads.
        progress: Told of the bytes of weights done, over both passes.

    Raises:
        BadManifest: The masks do not nest, or do not have the counts listed.
    """
    manifest = source.manifest
    levels = manifest.levels
    progress(0, 2 * sum(t.numel * t.dtype.itemsize for t in manifest.tensors))
    with (spool := Spool(out)).file:
        coded = code_shells(source, spool, threads, progress)
        tensors = tuple(
            replace(t, coded=tuple(sizes))
            for t, sizes in zip(manifest.tensors, coded.sizes.tolist(), strict=True)
        )
        manifest = replace(manifest, tensors=tensors)
        pruned = {t.name for t in tensors}
        shared = lay_out(
            (t.name, t.dtype, t.shape) for t in source.dense.values() if t.name not in pruned
        )
        start = max((t.end for t in shared), default=0)
        shapes = {t.name: (t.dtype, t.shape) for t in shared}
        sections = plan_sections(manifest, shapes, start)
        metadata = stored(source.metadata, same_tensors=False)
        manifest, base = _header(manifest, shared, sections, metadata)
        # The spool takes its share of the disk, and is gone before the values come.
        out.reserve(base + sections[-1].end - spool.size)
        out.resize(base + sections[-1].end)
        data = source.container.header_bytes
        for step in copy_steps(
            (data + source.dense[t.name].begin, base + t.begin, t.nbytes) for t in shared
        ):
            out.copy_from(source.container.fd, *step)
        for k, level in enumerate(levels):
            infos = {t.name: t for t in sections[k].tensors}
            for name, raw in source.per_level(level).items():
                out.write_at(base + infos[level_name(level, name)].begin, raw)
            at = base + sections[k].tensors[-2].begin
            for offset, size in coded.extents[k]:
                out.copy_from(spool.file.fd, offset, at, size)
                at += size
    _deal_values(
        out, source, manifest, [base + s.tensors[-1].begin for s in sections], threads, progress
    )
    starts = (start, *(s.end for s in sections))
    ranges = [(base, start)] + [(base + a, b - a) for a, b in itertools.pairwise(starts)]
    digests = digest_ranges(out.read_into, ranges, threads)
    assert manifest.packing is not None
    names = section_names(manifest)
    packing = Packing(manifest.packing.prefix, dict(zip(names, digests, strict=True)))
    manifest = replace(manifest, packing=packing)
    every = [*shared, *(t for s in sections for t in s.tensors)]
    out.write_at(0, encode_header(every, {**metadata, KEY: manifest.encode()}, base))
    return manifest


def _header(
    manifest: Manifest,
    shared: Sequence[TensorInfo],
    sections: Sequence[Section],
    metadata: Mapping[str, str],
) -> tuple[Manifest, int]:
    """Return the manifest with its prefix lengths, and the bytes of the header, which they count.

    The digests are still to come.
    """
    digests = dict.fromkeys(section_names(manifest), "0" * DIGEST_DIGITS)
    every = [*shared, *(t for s in sections for t in s.tensors)]

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
    return replace(manifest, packing=packing(length)), length


def _deal_values(
    out: OutputFile,
    source: MaskedSource,
    manifest: Manifest,
    begins: Sequence[int],
    threads: int,
    progress: Progress,
) -> None:
    """Write every weight behind the others of its shell."""
    sizes = shell_sizes(manifest.tensors, len(manifest.levels))
    sizes *= np.array([[t.dtype.itemsize] for t in manifest.tensors], np.int64).reshape(-1, 1)
    ends = np.cumsum(sizes, axis=0) + begins
    dense = np.array([source.dense[t.name].begin for t in manifest.tensors], np.int64)

    def work(batch: Batch, scratch: Scratch) -> None:
        cursors = (ends[batch.first] - sizes[batch.first]).tolist()
        for piece, packed in source.masks_of(batch):
            bits = scratch.array("weights", piece.cells, piece.cell)
            view = bits.view(np.uint8).data
            piece.read_into(source.container.read_into, dense, view)
            masks = [piece.cell_mask(mask) for mask in packed]
            for k, values in enumerate(_shells(bits, masks, scratch)):
                out.write_at(cursors[k], values.view(np.uint8).data)
                cursors[k] += values.nbytes
            progress(len(view))

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
