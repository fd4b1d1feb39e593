"""`elsa extract`: write any level as an ordinary checkpoint."""

from __future__ import annotations

import click

from elsa_cli.commands._common import (
    check_stream,
    checkpoint_argument,
    default_output,
    output_options,
    run_options,
    send,
    to_json,
)
from elsa_cli.commands._input import open_input
from elsa_cli.errors import UsageError
from elsa_cli.ui import Screen, count, percent, size

__all__ = ["command"]


@click.command(name="extract")
@checkpoint_argument("NESTED")
@click.option(
    "--level",
    required=True,
    metavar="LEVEL",
    help="A stored level, or dense; several as 0.5,0.9 with {level} in -o.",
)
@output_options("NAME-LEVEL.safetensors beside the input")
@run_options
def command(
    checkpoint: str | None,
    level: str,
    output: str | None,
    no_clobber: bool,
    force: bool,
    threads: int | None,
    as_json: bool,
    quiet: bool,
    verbose: bool,
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
    from elsa_cli.operations.extract import extract

    screen = Screen(quiet=quiet, verbose=verbose)
    check_stream(output, as_json)
    if output == "-" and len(parse_levels(level)) > 1:
        raise UsageError(
            "standard output takes one level", hint="name one level, or a file with -o"
        )
    with (
        open_input(checkpoint, screen, search=True) as source,
        screen.progress("extract") as progress,
    ):
        report = extract(
            source.path,
            level,
            default_output(output, source.named),
            threads=threads,
            clobber=not no_clobber,
            force=force,
            progress=progress,
        )
    screen.table(
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
        title=f"from {size(report.bytes_in)}" if verbose else None,
    )
    if report.dropped_metadata:
        names = ", ".join(report.dropped_metadata)
        screen.note(f"left out of the metadata, since it holds for dense alone: {names}")
    outputs = [done.output for done in report.written]
    payload = None
    if as_json:
        payload = {"output": outputs[0] if len(outputs) == 1 else outputs, **to_json(report)}
    send(screen, outputs, payload)
