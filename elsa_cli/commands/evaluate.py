"""`elsa evaluate`: measure every level with a recipe's metrics."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import click

from elsa_cli.commands._input import open_input
from elsa_cli.commands._options import Shown, checkpoint_argument, shown_options
from elsa_cli.commands._training import Running, number, recipe_options, recipe_session
from elsa_cli.ui import Screen, count, size

if TYPE_CHECKING:
    from elsa_cli.operations.evaluate import EvaluateReport

__all__ = ["command"]


@click.command(name="evaluate")
@checkpoint_argument("NESTED")
@recipe_options
@click.option(
    "--level",
    "levels",
    metavar="LEVELS",
    help="Measure only these levels, such as 0.9,dense.",
)
@click.option(
    "--plot",
    metavar="FILE",
    help="Draw the metrics against sparsity and against bytes into FILE, a png, svg or pdf.",
)
@shown_options()
def command(
    checkpoint: str | None,
    running: Running,
    levels: str | None,
    plot: str | None,
    shown: Shown,
) -> None:
    """Measure every level of NESTED with the recipe's evaluate function.

    NESTED is a nested or packed checkpoint; of a packed one that is cut off, the levels that are
    there are measured.

    \b
    Example:
      elsa evaluate model.elsa.safetensors --recipe recipe.py --plot levels.svg
    """
    from elsa_cli.operations.evaluate import evaluate

    if plot is not None:
        from elsa_cli.ui.plots import check_plot

        check_plot(plot)
    with recipe_session("evaluate", shown, partial(open_input, checkpoint, search=True)) as run:
        report = evaluate(run.path, levels=levels, **vars(running))
    for tensor in report.carried:
        run.screen.note(f"{tensor} is not in the model")
    _show(run.screen, report)
    if plot is not None:
        from elsa_cli.ui.plots import draw_levels

        draw_levels(plot, report)
    run.send_input(report, plot=plot)


def _show(screen: Screen, report: EvaluateReport) -> None:
    names = list(report.levels[0].metrics)
    about = "" if report.kind == "packed" else "≈ "
    screen.table(
        ["level", *names, "weights kept", "bytes to fetch"],
        [
            [
                str(row.level),
                *(number(row.metrics[name]) for name in names),
                count(row.kept),
                about + size(row.nbytes),
            ]
            for row in report.levels
        ],
    )
