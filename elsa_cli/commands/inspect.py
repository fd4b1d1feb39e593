"""`elsa inspect`: show what is inside: levels, layers, bytes."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import click

from elsa_cli.commands._input import open_input
from elsa_cli.commands._options import Shown, checkpoint_argument, shown_options, threads_option
from elsa_cli.commands._session import session
from elsa_cli.ui import Screen, count, percent, size

if TYPE_CHECKING:
    from elsa_cli.operations.inspect import InspectReport

__all__ = ["command"]


@click.command(name="inspect")
@checkpoint_argument("CHECKPOINT")
@threads_option
@shown_options("Show all rows of a long table.")
def command(checkpoint: str | None, threads: int | None, shown: Shown) -> None:
    """Show the levels, tensors and bytes of CHECKPOINT, which may be nested, packed or plain.

    The tables go to standard error and the path to standard output, so the next command can follow
    in a pipe. With --json, everything goes to standard output.

    \b
    Examples:
      elsa inspect model.elsa.safetensors
      elsa inspect model.safetensors --json
    """
    with session("inspect", shown, partial(open_input, checkpoint, search=True)) as run:
        from elsa_cli.operations.inspect import inspect

        report = inspect(run.path, threads=threads, progress=run.progress)
    if not shown.as_json:
        _show(run.screen, report)
    run.send_input(report)


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
