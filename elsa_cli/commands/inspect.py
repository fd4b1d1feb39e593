"""`elsa inspect`: show what is inside: levels, layers, bytes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from elsa_cli.commands._common import checkpoint_argument, run_options, send, to_json
from elsa_cli.commands._input import open_input
from elsa_cli.ui import Screen, count, percent, size

if TYPE_CHECKING:
    from elsa_cli.operations.inspect import InspectReport

__all__ = ["command"]


@click.command(name="inspect")
@checkpoint_argument("CHECKPOINT")
@run_options
def command(
    checkpoint: str | None,
    threads: int | None,
    as_json: bool,
    quiet: bool,
    verbose: bool,
) -> None:
    """Show levels, layers and bytes of CHECKPOINT: nested, packed or plain.

    The tables go to standard error, the path to standard output, so that the next command can
    follow in a pipe; --json prints everything on standard output.

    \b
    Examples:
      elsa inspect model.elsa.safetensors
      elsa inspect model.safetensors --json
    """
    from elsa_cli.operations.inspect import inspect

    screen = Screen(quiet=quiet, verbose=verbose)
    with (
        open_input(checkpoint, screen, search=True) as source,
        screen.progress("inspect") as progress,
    ):
        report = inspect(source.path, threads=threads, progress=progress)
    if not as_json:
        _show(screen, report)
    send(screen, [source.path] if source.named else [], to_json(report) if as_json else None)


def _show(screen: Screen, report: InspectReport) -> None:
    levels = [info.level for info in report.levels if info.level.text != "dense"]
    if report.kind == "plain":
        columns = ["zeros", "of all"]
    else:
        columns = ["part", *(f"density at {level}" for level in levels)]
    rows = []
    for t in report.tensors:
        numel = 1
        for dim in t.shape:
            numel *= dim
        if report.kind == "plain":
            unknown = t.zeros is None
            cells = [
                "?" if unknown else count(t.zeros or 0),
                "?" if unknown or not numel else percent((t.zeros or 0) / numel),
            ]
        else:
            cells = [t.part, *(percent(d) for d in t.density)]
            cells += [""] * (len(columns) - len(cells))
        rows.append(
            [
                t.name,
                t.dtype,
                "x".join(map(str, t.shape)) or "0-d",
                size(t.nbytes),
                *cells,
                t.role,
                t.reason,
            ]
        )
    screen.table(
        ["tensor", "dtype", "shape", "bytes", *columns, "role", "told by"],
        rows,
        texts=("role", "told by"),
    )
    if report.levels:
        about = "" if report.packed_exact else "about "
        screen.table(
            ["level", "kept", "of prunable", "adds nested", "adds packed", "prefix to fetch"],
            [
                [
                    str(info.level) + ("" if info.available else " (cut off)"),
                    count(info.kept),
                    percent(info.kept / report.prunable),
                    size(info.nested_bytes),
                    about + size(info.packed_bytes),
                    "" if info.prefix is None else count(info.prefix),
                ]
                for info in report.levels
            ],
        )
    method = f", masks by {report.method.get('name')}" if report.method else ""
    screen.note(
        f"{report.kind}, {size(report.size)}, {count(report.parameters)} parameters, "
        f"{count(report.prunable)} prunable{method}"
        if report.levels
        else f"{report.kind}, {size(report.size)}, {count(report.parameters)} parameters"
    )
