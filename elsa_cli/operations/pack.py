"""Making the shipping file, undoing it, and bundling what other tools made."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from elsa_cli.checkpoint.manifest import Manifest
from elsa_cli.checkpoint.nested.reader import NestedReader
from elsa_cli.checkpoint.nested.writer import NestedWriter
from elsa_cli.checkpoint.opening import open_nested, open_plain
from elsa_cli.checkpoint.packed.reader import PackedReader
from elsa_cli.checkpoint.packed.writer import write_packed
from elsa_cli.checkpoint.source import Reader
from elsa_cli.core.batch import Batch
from elsa_cli.core.bits import Bytes
from elsa_cli.core.level import DENSE, Level, parse_levels
from elsa_cli.core.work import Progress, Scratch, default_threads, no_progress, run
from elsa_cli.errors import Call, NothingToDo, Param, UsageError, Words
from elsa_cli.foreign.bundle import Bundle
from elsa_cli.operations.output_names import packed_path, unpacked_path
from elsa_cli.storage.output import OutputFile, Policy, copy_steps

__all__ = ["PackReport", "pack", "unpack"]


@dataclass(frozen=True)
class PackReport:
    """What was written.

    Attributes:
        output: The file.
        levels: Sparsest first, then dense.
        prefix: Bytes of the packed file that each level needs.
        mask_bytes: Bytes of the coded masks.
        prunable: Weights that take part.
        bytes_in: Size of the inputs together.
        bytes_out: Size of the output.
    """

    output: str
    levels: tuple[Level, ...]
    prefix: tuple[int, ...]
    mask_bytes: int
    prunable: int
    bytes_in: int
    bytes_out: int


def pack(
    checkpoints: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    output: str | os.PathLike[str] | None = None,
    *,
    levels: str | Iterable[str | float | Level] | None = None,
    threads: int | None = None,
    clobber: bool = True,
    force: bool = False,
    progress: Progress = no_progress,
) -> PackReport:
    """Write a packed checkpoint, of which every level is a prefix.

    Args:
        checkpoints: A nested checkpoint; or a dense one followed by sparse ones of the same
            network, made by any tool.
        output: The file; by default NAME.packed.elsa.safetensors beside the (dense) input.
        levels: Names for the sparse checkpoints of a bundle; by default the shortest decimal that
            gives their kept count.
        threads: Number of threads; the bytes written do not depend on it.
        clobber: Replace an existing output.
        force: Let the output be an input.
        progress: Told of the bytes of weights done.

    Raises:
        NotABundle: The checkpoints are not levels of one network.
        NothingToDo: The checkpoint is packed already.
        InputError: A checkpoint cannot be used.
        OutputError: The output cannot be written; nothing is left behind.
    """
    single = isinstance(checkpoints, str | os.PathLike)
    paths = [checkpoints] if isinstance(checkpoints, str | os.PathLike) else list(checkpoints)
    if not paths:
        raise UsageError("no checkpoint is given")
    named = None if levels is None else parse_levels(levels)
    if named and DENSE in named:
        raise UsageError("the dense checkpoint has no level", hint="name the sparse ones only")
    threads = threads or default_threads()
    goes_to = os.fspath(packed_path(paths[0]) if output is None else output)
    policy = Policy(paths, clobber=clobber, force=force)
    policy.check(goes_to)
    with contextlib.ExitStack() as stack:
        out = stack.enter_context(OutputFile(goes_to, policy))
        source: NestedReader | Bundle
        if single or len(paths) == 1:
            if named is not None:
                raise UsageError(
                    "a nested checkpoint has its levels",
                    hint=Words("leave out {}", Param("levels")),
                )
            source = _nested(stack.enter_context(open_nested(paths[0])))
        else:
            files = [stack.enter_context(open_plain(path)) for path in paths]
            spool = stack.enter_context(OutputFile(goes_to, Policy(force=True)))
            source = Bundle(files[0], files[1:], named, spool, threads)
        manifest = write_packed(out, source, threads, progress)
        out.commit()
    return _report(goes_to, manifest, paths)


def _nested(reader: Reader) -> NestedReader:
    if isinstance(reader, NestedReader):
        return reader
    raise NothingToDo(
        "is packed already", file=reader.path, hint=Words("{} turns it back", Call("unpack"))
    )


def _report(output: str, manifest: Manifest, paths: Sequence[str | os.PathLike[str]]) -> PackReport:
    assert manifest.packing is not None
    return PackReport(
        output=output,
        levels=(*manifest.levels, DENSE),
        prefix=manifest.packing.prefix,
        mask_bytes=sum(sum(t.coded) for t in manifest.tensors),
        prunable=manifest.prunable,
        bytes_in=sum(os.path.getsize(path) for path in paths),
        bytes_out=manifest.packing.prefix[-1],
    )


def unpack(
    checkpoint: str | os.PathLike[str],
    output: str | os.PathLike[str] | None = None,
    *,
    threads: int | None = None,
    clobber: bool = True,
    force: bool = False,
    progress: Progress = no_progress,
) -> PackReport:
    """Write the nested checkpoint that a packed one was made from, bit for bit.

    Args:
        checkpoint: A packed checkpoint, whole.
        output: The file; by default NAME.elsa.safetensors beside NAME.packed.elsa.safetensors.
        threads: Number of threads.
        clobber: Replace an existing output.
        force: Let the output be the input.
        progress: Told of the bytes of weights done.

    Raises:
        NothingToDo: The checkpoint is nested, not packed.
        CutFile: It is not whole.
        InputError: It cannot be used.
        OutputError: The output cannot be written; nothing is left behind.
    """
    threads = threads or default_threads()
    goes_to = os.fspath(unpacked_path(checkpoint) if output is None else output)
    policy = Policy([checkpoint], clobber=clobber, force=force)
    with contextlib.ExitStack() as stack:
        reader = stack.enter_context(open_nested(checkpoint))
        if not isinstance(reader, PackedReader):
            raise NothingToDo("is not packed", file=reader.path)
        reader.require(DENSE)
        out = stack.enter_context(OutputFile(goes_to, policy))
        packed = reader.manifest
        manifest = replace(
            packed, packing=None, tensors=tuple(replace(t, coded=()) for t in packed.tensors)
        )
        per_level = {
            (level, name): data
            for level in manifest.levels
            for name, data in reader.per_level(level).items()
        }
        dense = tuple(reader.dense.values())
        writer = NestedWriter(out, dense, reader.metadata, manifest, per_level)
        # With masks as tensors the layout is known, and one walk gives masks and weights; masks
        # for the header have to be complete before the data has a place.
        walks = 1 if writer.placed else 2
        progress(0, walks * sum(t.numel * t.dtype.itemsize for t in manifest.tensors))

        def put_masks(piece: Batch, levels: Sequence[Bytes]) -> None:
            for k, bits in enumerate(levels):
                writer.put_mask(k, piece.first, piece.start, bits)

        def masks(batch: Batch, _: None) -> None:
            for piece, levels in reader.masks_of(batch):
                put_masks(piece, levels)
                progress(piece.nbytes)

        def sink(batch: Batch, data: memoryview) -> None:
            batch.write_from(out.write_at, places, data)
            progress(len(data))

        def weights(batch: Batch, scratch: Scratch) -> None:
            on_masks = put_masks if walks == 1 else None
            reader.produce(batch, DENSE, scratch, sink, on_masks)

        if walks == 2:
            run(reader.wholes(), masks, lambda: None, threads)
            writer.masks_done()
        places = reader.by_entry({t.name: writer.place_of(t.name)[0] for t in dense})
        begin = reader.container.header_bytes
        for step in copy_steps(
            (begin + t.begin, writer.place_of(t.name)[0], t.nbytes) for t in reader.verbatim(DENSE)
        ):
            out.copy_from(reader.container.fd, *step)
        run(reader.jobs(DENSE), weights, Scratch, threads)
        writer.finish(manifest)
        out.commit()
        report = _report(goes_to, packed, [checkpoint])
        return replace(report, bytes_out=writer.size)
