"""`elsa pack`: make the shipping file, of which each level is a prefix."""

from __future__ import annotations

import contextlib

import click

from elsa_cli.commands._common import (
    check_stream,
    default_output,
    output_options,
    run_options,
    send,
    to_json,
)
from elsa_cli.commands._input import Input, open_input
from elsa_cli.errors import UsageError
from elsa_cli.ui import Screen, size

__all__ = ["command"]


@click.command(name="pack")
@click.argument("checkpoints", metavar="[NESTED]...", nargs=-1)
@output_options("NAME.packed.elsa.safetensors beside the input")
@click.option(
    "--unpack", "undo", is_flag=True, help="Turn a packed checkpoint back into a nested one."
)
@click.option(
    "--levels",
    metavar="LEVELS",
    help="Of a bundle: names for the sparse checkpoints, instead of those their zeros give.",
)
@run_options
def command(
    checkpoints: tuple[str, ...],
    output: str | None,
    no_clobber: bool,
    force: bool,
    undo: bool,
    levels: str | None,
    threads: int | None,
    as_json: bool,
    quiet: bool,
    verbose: bool,
) -> None:
    """Pack NESTED so that every level is a prefix of the file.

    A device that wants level 0.9 fetches the file up to that level's prefix. With several
    checkpoints, a dense one and then sparse ones made by any tool, their zeros become the masks.

    \b
    Examples:
      elsa pack model.elsa.safetensors
      elsa pack --unpack model.packed.elsa.safetensors -o model.elsa.safetensors
      elsa pack dense.safetensors half.safetensors tenth.safetensors -o all.elsa.safetensors
    """
    from elsa_cli.operations.pack import pack, unpack

    screen = Screen(quiet=quiet, verbose=verbose)
    check_stream(output, as_json)
    if undo and (levels is not None or len(checkpoints) > 1):
        raise UsageError("--unpack takes one packed checkpoint and no --levels")
    with contextlib.ExitStack() as stack:
        if len(checkpoints) > 1:
            if "-" in checkpoints:
                raise UsageError("a bundle is made from files", hint="name them all")
            sources = [Input(path) for path in checkpoints]
        else:
            argument = checkpoints[0] if checkpoints else None
            sources = [stack.enter_context(open_input(argument, screen, search=True))]
        goes_to = default_output(output, sources[0].named)
        progress = stack.enter_context(screen.progress("unpack" if undo else "pack"))
        paths = [source.path for source in sources]
        if undo:
            report = unpack(
                paths[0],
                goes_to,
                threads=threads,
                clobber=not no_clobber,
                force=force,
                progress=progress,
            )
        else:
            report = pack(
                paths,
                goes_to,
                levels=levels,
                threads=threads,
                clobber=not no_clobber,
                force=force,
                progress=progress,
            )
    if not undo:
        screen.table(
            ["level", "bytes to fetch", "of the packed file"],
            [
                [str(level), size(prefix), f"{100 * prefix / report.prefix[-1]:.1f} %"]
                for level, prefix in zip(report.levels, report.prefix, strict=True)
            ],
        )
    screen.note(f"{size(report.bytes_in)} became {size(report.bytes_out)}")
    send(screen, [report.output], to_json(report) if as_json else None)
