"""`elsa freeze-train`: train level by level, sparsest first, freezing what is done."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import click

from elsa_cli.commands._common import (
    check_stream,
    checkpoint_argument,
    choice_options,
    default_output,
    output_options,
    send,
    show_roles,
    shown_options,
    to_json,
)
from elsa_cli.commands._input import open_input, open_optional
from elsa_cli.commands._training import explained, number, recipe_options, screen_of
from elsa_cli.core.settings import parse_pairs
from elsa_cli.errors import UsageError
from elsa_cli.ui import Screen, count

if TYPE_CHECKING:
    from elsa_cli.operations.freeze_train import FreezeTrainReport

__all__ = ["command"]

N = TypeVar("N", int, float)


@click.command(name="freeze-train")
@checkpoint_argument("NESTED")
@recipe_options
@output_options("NAME.trained.elsa.safetensors beside the input")
@click.option(
    "--levels",
    metavar="LEVELS",
    help="Sparsities, for a plain checkpoint or none: masks are chosen by magnitude first.",
)
@choice_options
@click.option(
    "--epochs",
    metavar="N[,N…]",
    help="Passes over the data for each level: one value, or one a level, sparsest first and dense "
    "last.  [default: 5]",
)
@click.option("--steps", metavar="N[,N…]", help="Steps of the optimizer instead.")
@click.option(
    "--lr",
    metavar="LR[,LR…]",
    help="Learning rate at the beginning; levels after a joint phase begin at a third. Or one a "
    "level.  [default: 0.001 for adamw, 0.05 for sgd]",
)
@click.option(
    "--optimizer",
    type=click.Choice(["sgd", "adamw", "recipe"]),
    help="[default: the recipe's if it has one, else adamw]",
)
@click.option("--momentum", type=float, default=0.9, show_default=True, help="Of sgd.")
@click.option(
    "--weight-decay",
    type=float,
    default=1e-4,
    show_default=True,
    help="Of tensors of two or more dimensions.",
)
@click.option(
    "--schedule",
    type=click.Choice(["cosine", "constant", "recipe"]),
    default="cosine",
    show_default=True,
    help="Of the learning rate, within each level.",
)
@click.option(
    "--init",
    type=click.Choice(["keep", "zero"]),
    default="keep",
    show_default=True,
    help="What a level's new weights begin with: the checkpoint's values, or zero.",
)
@click.option(
    "--norm",
    type=click.Choice(["per-level", "shared", "recalibrate"]),
    default="per-level",
    show_default=True,
    help="Biases and norms: each level trains its own; the first level's for all; or that, with "
    "running statistics estimated anew for each level.",
)
@click.option(
    "--joint-epochs",
    type=float,
    metavar="N",
    help="Before the first freeze: passes in which each step trains one level, drawn at random; 0 "
    "for none.  [default: four fifths of the levels' passes are spent there instead]",
)
@click.option(
    "--joint-lr", type=float, metavar="LR", help="Learning rate of the joint phase, if another."
)
@click.option(
    "--reselect", is_flag=True, help="Choose the masks again by magnitude after the joint phase."
)
@click.option(
    "--precision",
    type=click.Choice(["fp32", "bf16"]),
    default="fp32",
    show_default=True,
    help="bf16 computes under autocast; stored dtypes do not change.",
)
@click.option("--compile", "compiles", is_flag=True, help="Use torch.compile.")
@click.option(
    "--accumulate",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    help="Batches whose gradients make one step.",
)
@click.option("--clip-norm", type=float, metavar="NORM", help="Largest norm of the gradient.")
@click.option("--resume", is_flag=True, help="Go on from the save beside the output, if any.")
@click.option(
    "--save-every",
    type=click.IntRange(1),
    metavar="STEPS",
    help="Steps between saves.  [default: every ten minutes, and at each level's end]",
)
@click.option("--log", metavar="FILE.jsonl", help="Write a JSON line for each epoch and level.")
@click.option(
    "--log-every", type=click.IntRange(1), metavar="STEPS", help="And one after so many steps."
)
@shown_options
def command(
    checkpoint: str | None,
    recipe: str,
    settings: tuple[str, ...],
    device: str,
    seed: int,
    threads: int | None,
    output: str | None,
    no_clobber: bool,
    force: bool,
    levels: str | None,
    include: tuple[str, ...],
    exclude: tuple[str, ...],
    roles: tuple[str, ...],
    epochs: str | None,
    steps: str | None,
    lr: str | None,
    optimizer: str | None,
    momentum: float,
    weight_decay: float,
    schedule: str,
    init: str,
    norm: str,
    joint_epochs: float | None,
    joint_lr: float | None,
    reselect: bool,
    precision: str,
    compiles: bool,
    accumulate: int,
    clip_norm: float | None,
    resume: bool,
    save_every: int | None,
    log: str | None,
    log_every: int | None,
    as_json: bool,
    quiet: bool,
) -> None:
    """Train the levels of NESTED, sparsest first, each around those that are done.

    What a level has trained is frozen bit for bit, so every level of the output is the network
    that its stage ended with. NESTED may also be a plain checkpoint with --levels, or, with
    --levels and without any checkpoint, the recipe's new model. An interrupted run goes on
    with --resume and ends with the same bits.

    \b
    Example:
      elsa freeze-train model.elsa.safetensors --recipe recipe.py --epochs 3
    """
    from elsa_cli.commands._events import ScreenWatcher
    from elsa_cli.operations.freeze_train import freeze_train
    from elsa_cli.training.options import TrainOptions

    screen = screen_of(quiet=quiet)
    check_stream(output, as_json)
    if log_every is not None and log is None:
        raise UsageError("--log-every needs a file", hint="add --log FILE.jsonl")
    options = TrainOptions(
        epochs=_numbers(epochs, float, "epochs"),
        steps=_numbers(steps, int, "steps"),
        lr=_numbers(lr, float, "lr"),
        optimizer=optimizer,
        momentum=momentum,
        weight_decay=weight_decay,
        schedule=schedule,
        init=init,
        norm=norm,
        precision=precision,
        seed=seed,
        compile=compiles,
        accumulate=accumulate,
        clip_norm=clip_norm,
        joint_epochs=joint_epochs,
        joint_lr=joint_lr,
        reselect=reselect,
        save_every=save_every,
    )
    with (
        (
            open_input(checkpoint, screen, search=True)
            if levels is None
            else open_optional(checkpoint, screen)
        ) as source,
        explained(screen),
        screen.training_line() as line,
        ScreenWatcher(line, log, log_every) as watcher,
    ):
        if source is not None:
            output = default_output(output, source.named)
        report = freeze_train(
            None if source is None else source.path,
            recipe,
            output,
            levels=levels,
            include=include,
            exclude=exclude,
            roles=roles,
            settings=parse_pairs(settings),
            options=options,
            device=device,
            threads=threads,
            resume=resume,
            clobber=not no_clobber,
            force=force,
            watcher=watcher,
        )
    if report.writes:
        _show(screen, report)
        send(screen, [report.output], to_json(report) if as_json else None)


def _numbers(text: str | None, kind: type[N], option: str) -> tuple[N, ...] | None:
    """Read one number or several with commas between them."""
    if text is None:
        return None
    try:
        return tuple(kind(word) for word in text.split(","))
    except ValueError:
        kinds = "whole numbers" if kind is int else "numbers"
        raise UsageError(
            f"--{option} {text}: not {kinds} with commas between them",
            hint="give one value, or one a level",
        ) from None


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
