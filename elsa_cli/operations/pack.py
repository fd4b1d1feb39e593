"""Making the shipping file, undoing it, and bundling what other tools made."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from elsa_cli.checkpoint.manifest import Manifest
from elsa_cli.checkpoint.nested.writer import write_nested
from elsa_cli.checkpoint.opening import open_nested, open_plain
from elsa_cli.checkpoint.packed.writer import write_packed
from elsa_cli.checkpoint.source import NestedSource
from elsa_cli.core.level import DENSE, Level, parse_levels
from elsa_cli.core.work import Progress, default_threads, no_progress
from elsa_cli.errors import Call, NothingToDo, Param, UsageError, Words
from elsa_cli.foreign.bundle import Bundle
from elsa_cli.operations.output_names import packed_path, unpacked_path
from elsa_cli.storage.output import OutputFile, Policy

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
        source: NestedSource
        if single or len(paths) == 1:
            if named is not None:
                raise UsageError(
                    "a nested checkpoint has its levels",
                    hint=Words("leave out {}", Param("levels")),
                )
            reader = stack.enter_context(open_nested(paths[0]))
            if reader.manifest.packing is not None:
                raise NothingToDo(
                    "is packed already",
                    file=reader.name,
                    hint=Words("{} turns it back", Call("unpack")),
                )
            source, bytes_in = reader, reader.size
        else:
            files = [stack.enter_context(open_plain(path)) for path in paths]
            spool = stack.enter_context(OutputFile(goes_to, Policy(force=True)))
            source = Bundle.of(files[0], files[1:], named, spool, threads, progress)
            bytes_in = sum(file.size for file in files)
        manifest = write_packed(out, source, threads, progress)
        out.commit()
    assert manifest.packing is not None
    return _report(goes_to, manifest, bytes_in, manifest.packing.prefix[-1])


def _report(output: str, packed: Manifest, bytes_in: int, bytes_out: int) -> PackReport:
    assert packed.packing is not None
    return PackReport(
        output=output,
        levels=packed.members,
        prefix=packed.packing.prefix,
        mask_bytes=sum(sum(t.coded) for t in packed.tensors),
        prunable=packed.prunable,
        bytes_in=bytes_in,
        bytes_out=bytes_out,
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
    with open_nested(checkpoint) as reader:
        packed = reader.manifest
        if packed.packing is None:
            raise NothingToDo("is not packed", file=reader.name)
        reader.require(DENSE)
        with OutputFile(goes_to, policy) as out:
            written = write_nested(out, reader, threads, progress)
            out.commit()
        return _report(goes_to, packed, reader.size, written.size)
