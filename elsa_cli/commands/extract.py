"""`elsa extract`: write any level as an ordinary checkpoint."""

from __future__ import annotations

from functools import partial

import click

from elsa_cli.commands._input import open_input
from elsa_cli.commands._options import (
    Shown,
    Target,
    checkpoint_argument,
    output_options,
    shown_options,
    threads_option,
)
from elsa_cli.commands._session import session
from elsa_cli.errors import UsageError
from elsa_cli.ui import count, percent, size

__all__ = ["command"]


@click.command(name="extract")
@checkpoint_argument("NESTED")
@click.option(
    "--level",
    required=True,
    metavar="LEVEL",
    help="Write this level: a stored one, or dense. Several are given as 0.5,0.9, with {level} in "
    "the name of the output.",
)
@output_options("NAME-LEVEL.safetensors beside the input")
@threads_option
@shown_options("Show all rows of a long table.")
def command(
    checkpoint: str | None, level: str, target: Target, threads: int | None, shown: Shown
) -> None:
    """Write one level of NESTED, a nested or packed checkpoint, as an ordinary one.

    Weights outside the level become +0.0; names, shapes, dtypes and all other bits stay. Without
    NESTED, standard input is read, or else the only *.elsa.safetensors in the folder is taken.

    \b
    Examples:
      elsa extract --level 0.9 -o sparse.safetensors
      elsa extract model.elsa.safetensors --level 0.5,0.9 -o 'out-{level}.safetensors'
    """
    from elsa_cli.core.level import parse_levels

    if target.output == "-" and len(parse_levels(level)) > 1:
        raise UsageError(
            "standard output takes one level", hint="name one level, or a file with -o"
        )
    with session("extract", shown, partial(open_input, checkpoint, search=True), target) as run:
        from elsa_cli.operations.extract import extract

        report = extract(
            run.path, level, run.output, threads=threads, progress=run.progress, **target.policy()
        )
    run.screen.table(
        ["level", "kept", "of prunable", "bytes", "file"],
        [
            [
                str(done.level),
                count(done.kept),
                percent(done.kept / report.prunable),
                size(done.bytes_out),
                "standard output" if done.output == "-" else done.output,
            ]
            for done in report.written
        ],
        title=f"from {size(report.bytes_in)}" if shown.verbose else None,
    )
    if report.dropped_metadata:
        names = ", ".join(report.dropped_metadata)
        run.screen.note(f"left out of the metadata, since it holds for dense alone: {names}")
    outputs = [done.output for done in report.written]
    run.send(outputs, report, output=outputs[0] if len(outputs) == 1 else outputs)
