"""`elsa evaluate`: measure every level with a recipe's metrics."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from elsa_cli.commands._common import checkpoint_argument, send, shown_options, to_json
from elsa_cli.commands._input import open_input
from elsa_cli.commands._training import explained, number, recipe_options, screen_of
from elsa_cli.core.settings import parse_pairs
from elsa_cli.ui import Screen, count, size

if TYPE_CHECKING:
    from elsa_cli.operations.evaluate import EvaluateReport

__all__ = ["command"]


@click.command(name="evaluate")
@checkpoint_argument("NESTED")
@recipe_options
@click.option("--level", "levels", metavar="LEVELS", help="Only these levels, such as 0.9,dense.")
@click.option(
    "--plot",
    metavar="FILE",
    help="Draw the metrics against sparsity and against bytes: a png, svg or pdf.",
)
@shown_options
def command(
    checkpoint: str | None,
    recipe: str,
    settings: tuple[str, ...],
    device: str,
    seed: int,
    threads: int | None,
    levels: str | None,
    plot: str | None,
    as_json: bool,
    quiet: bool,
) -> None:
    """Measure every level of NESTED, nested or packed, with the recipe's evaluate.

    \b
    Example:
      elsa evaluate model.elsa.safetensors --recipe recipe.py --plot levels.svg
    """
    from elsa_cli.operations.evaluate import evaluate

    screen = screen_of(quiet=quiet)
    if plot is not None:
        from elsa_cli.ui.plots import check_plot

        check_plot(plot)
    with open_input(checkpoint, screen, search=True) as source, explained(screen):
        report = evaluate(
            source.path,
            recipe,
            levels=levels,
            settings=parse_pairs(settings),
            device=device,
            seed=seed,
            threads=threads,
        )
    for tensor in report.carried:
        screen.note(f"{tensor} is not in the model")
    _show(screen, report)
    if plot is not None:
        from elsa_cli.ui.plots import draw_levels

        draw_levels(plot, report)
    payload = {**to_json(report), "plot": plot} if as_json else None
    send(screen, [source.path] if source.named else [], payload)


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
