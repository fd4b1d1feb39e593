"""`elsa pack`: make the shipping file, of which each level is a prefix."""

from __future__ import annotations

from functools import partial

import click

from elsa_cli.commands._input import open_input
from elsa_cli.commands._options import (
    Shown,
    Target,
    output_options,
    shown_options,
    threads_option,
)
from elsa_cli.commands._session import session
from elsa_cli.errors import UsageError
from elsa_cli.ui import size

__all__ = ["command"]


@click.command(name="pack")
@click.argument("checkpoints", metavar="[NESTED]...", nargs=-1)
@output_options("NAME.packed.elsa.safetensors beside the input")
@click.option("--unpack", is_flag=True, help="Turn a packed checkpoint back into a nested one.")
@click.option(
    "--levels",
    metavar="LEVELS",
    help="Give the sparse checkpoints of a bundle these levels, instead of those that their zeros "
    "give.",
)
@threads_option
@shown_options("Show all rows of a long table.")
def command(
    checkpoints: tuple[str, ...],
    target: Target,
    unpack: bool,
    levels: str | None,
    threads: int | None,
    shown: Shown,
) -> None:
    """Pack NESTED so that every level is a prefix of the file.

    A device that wants level 0.9 fetches the file up to the end of that level's prefix. Several
    checkpoints are bundled: a dense one comes first, then sparse ones made by any tool, whose zeros
    become the masks.

    \b
    Examples:
      elsa pack model.elsa.safetensors
      elsa pack --unpack model.packed.elsa.safetensors -o model.elsa.safetensors
      elsa pack dense.safetensors half.safetensors tenth.safetensors -o all.elsa.safetensors
    """
    if unpack and (levels is not None or len(checkpoints) > 1):
        raise UsageError("--unpack takes one packed checkpoint and no --levels")
    if len(checkpoints) > 1:
        if "-" in checkpoints:
            raise UsageError("a bundle is made from files", hint="name them all")
        find = None
    else:
        find = partial(open_input, checkpoints[0] if checkpoints else None, search=True)
    with session("unpack" if unpack else "pack", shown, find, target) as run:
        from elsa_cli.operations import pack as operation

        paths = [run.path] if find else checkpoints
        how = {**target.policy(), "threads": threads, "progress": run.progress}
        if unpack:
            report = operation.unpack(paths[0], run.output, **how)
        else:
            report = operation.pack(paths, run.output, levels=levels, **how)
    if not unpack:
        run.screen.table(
            ["level", "bytes to fetch", "of the packed file"],
            [
                [str(level), size(prefix), f"{100 * prefix / report.prefix[-1]:.1f} %"]
                for level, prefix in zip(report.levels, report.prefix, strict=True)
            ],
        )
    run.screen.note(f"{size(report.bytes_in)} became {size(report.bytes_out)}")
    run.send([report.output], report)
