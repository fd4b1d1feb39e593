"""`elsa freeze-train`: train level by level, sparsest first, and freeze each finished level."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import click

from elsa_cli.commands._input import open_input, open_optional
from elsa_cli.commands._options import (
    Choice,
    Numbers,
    Shown,
    Target,
    checkpoint_argument,
    choice_options,
    gathered,
    output_options,
    shown_options,
)
from elsa_cli.commands._tables import show_roles
from elsa_cli.commands._training import Running, number, recipe_options, recipe_session
from elsa_cli.errors import UsageError
from elsa_cli.ui import Screen, count

if TYPE_CHECKING:
    from elsa_cli.operations.freeze_train import FreezeTrainReport
    from elsa_cli.training.options import TrainOptions

__all__ = ["command"]

# The fields of TrainOptions but for the seed, which belongs to all that runs a recipe.
TRAINING = [
    click.option(
        "--epochs",
        type=Numbers(float),
        metavar="N[,N…]",
        help="Pass over the data this many times for each level: one value for all, or one for "
        "each level, sparsest first and dense last.  [default: 5]",
    ),
    click.option(
        "--steps",
        type=Numbers(int),
        metavar="N[,N…]",
        help="Take this many optimizer steps for each level, instead of --epochs.",
    ),
    click.option(
        "--lr",
        type=Numbers(float),
        metavar="LR[,LR…]",
        help="Begin with this learning rate: one value, of which levels after a joint phase take a "
        "third, or one for each level.  [default: 0.001 for adamw, 0.05 for sgd]",
    ),
    click.option(
        "--optimizer",
        type=click.Choice(["sgd", "adamw", "recipe"]),
        help="Train with this optimizer.  [default: the recipe's if it has one, else adamw]",
    ),
    click.option("--momentum", type=float, default=0.9, show_default=True, help="Momentum of SGD."),
    click.option(
        "--weight-decay",
        type=float,
        default=1e-4,
        show_default=True,
        help="Weight decay of tensors with two or more dimensions; vectors have none.",
    ),
    click.option(
        "--schedule",
        type=click.Choice(["cosine", "constant", "recipe"]),
        default="cosine",
        show_default=True,
        help="How the learning rate changes within each level.",
    ),
    click.option(
        "--init",
        type=click.Choice(["keep", "zero"]),
        default="keep",
        show_default=True,
        help="Start the weights that a level adds from the checkpoint's values, or from zero.",
    ),
    click.option(
        "--norm",
        type=click.Choice(["per-level", "shared", "recalibrate"]),
        default="per-level",
        show_default=True,
        help="Train biases and norms for each level, or once for all in the first level; "
        "recalibrate shares them and estimates running statistics for each level.",
    ),
    click.option(
        "--joint-epochs",
        type=float,
        metavar="N",
        help="Pass over the data this many times before the first freeze, training in each step "
        "one level drawn at random; 0 leaves this joint phase out.  [default: four fifths of the "
        "levels' passes, which then have the rest]",
    ),
    click.option(
        "--joint-lr",
        type=float,
        metavar="LR",
        help="Learning rate of the joint phase, if it differs from --lr.",
    ),
    click.option(
        "--reselect",
        is_flag=True,
        help="Choose the masks again by magnitude after the joint phase.",
    ),
    click.option(
        "--precision",
        type=click.Choice(["fp32", "bf16"]),
        default="fp32",
        show_default=True,
        help="Compute in this precision; bf16 uses autocast and leaves the stored dtypes as they "
        "are.",
    ),
    click.option("--compile", is_flag=True, help="Use torch.compile."),
    click.option(
        "--accumulate",
        type=click.IntRange(1),
        default=1,
        show_default=True,
        help="Add up the gradients of this many batches for one step.",
    ),
    click.option(
        "--clip-norm", type=float, metavar="NORM", help="Clip the norm of the gradient to NORM."
    ),
    click.option(
        "--save-every",
        type=click.IntRange(1),
        metavar="STEPS",
        help="Save every STEPS steps.  [default: every ten minutes, and at the end of each level]",
    ),
]


def _options(**values: Any) -> TrainOptions:
    from elsa_cli.training.options import TrainOptions

    return TrainOptions(**values)


@click.command(name="freeze-train")
@checkpoint_argument("NESTED")
@recipe_options
@output_options("NAME.trained.elsa.safetensors beside the input")
@choice_options(
    "Choose masks of these sparsities by magnitude first, for a plain checkpoint or none.",
    required=False,
)
@gathered("options", _options, TRAINING)
@click.option(
    "--resume", is_flag=True, help="Continue from the save beside the output, if there is one."
)
@click.option("--log", metavar="FILE.jsonl", help="Write a JSON line for each epoch and level.")
@click.option(
    "--log-every",
    type=click.IntRange(1),
    metavar="STEPS",
    help="Also log a line every STEPS steps.",
)
@shown_options()
def command(
    checkpoint: str | None,
    running: Running,
    target: Target,
    choice: Choice,
    options: TrainOptions,
    resume: bool,
    log: str | None,
    log_every: int | None,
    shown: Shown,
) -> None:
    """Train the levels of NESTED one by one, from the sparsest to dense.

    A finished level is frozen: its weights never change again, not by a single bit. So every level
    of the output is the network that its stage ended with. NESTED may also be a plain checkpoint
    with --levels. With --levels and no checkpoint, the recipe's new model is trained. An
    interrupted run continues with --resume and ends with the same bits.

    \b
    Example:
      elsa freeze-train model.elsa.safetensors --recipe recipe.py --epochs 3
    """
    from elsa_cli.operations.freeze_train import freeze_train

    if log_every is not None and log is None:
        raise UsageError("--log-every needs a file", hint="add --log FILE.jsonl")
    find = (
        partial(open_input, checkpoint, search=True)
        if choice.levels is None
        else partial(open_optional, checkpoint)
    )
    with recipe_session("freeze-train", shown, find, target) as run:
        from elsa_cli.commands._events import ScreenWatcher

        with (
            run.screen.training_line() as line,
            ScreenWatcher(line, run.spell, log, log_every) as watcher,
        ):
            report = freeze_train(
                None if run.source is None else run.source.path,
                running.recipe,
                run.output,
                settings=running.settings,
                device=running.device,
                threads=running.threads,
                options=replace(options, seed=running.seed),
                resume=resume,
                watcher=watcher,
                **{**vars(choice), **target.policy()},
            )
    if report.writes:
        _show(run.screen, report)
        run.send([report.output], report)


def _show(screen: Screen, report: FreezeTrainReport) -> None:
    names = list(dict.fromkeys(name for row in report.levels for name in row.metrics))
    rows = [
        [
            str(row.level),
            count(row.kept),
            count(row.steps),
            "-" if row.loss is None else number(row.loss),
            *(number(row.metrics[name]) if name in row.metrics else "-" for name in names),
            f"{row.seconds:.1f} s",
        ]
        for row in report.levels
    ]
    show_roles(screen, report.roles)
    screen.table(["level", "weights kept", "steps", "loss", *names, "time"], rows)
