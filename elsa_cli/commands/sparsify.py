"""`elsa sparsify`: choose the nested masks of a checkpoint."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import click

from elsa_cli.commands._input import open_input
from elsa_cli.commands._options import (
    Choice,
    Shown,
    Target,
    checkpoint_argument,
    choice_options,
    gathered,
    output_options,
    settings_option,
    shown_options,
    threads_option,
)
from elsa_cli.commands._session import Session, session
from elsa_cli.commands._tables import show_roles
from elsa_cli.sparsifiers import methods
from elsa_cli.text import counted
from elsa_cli.ui import Screen, count, listed, percent, size

if TYPE_CHECKING:
    from elsa_cli.operations.sparsify import SparsifyReport

__all__ = ["command"]

# What scores the weights, and how the best are picked.
RULE = [
    click.option(
        "--method",
        type=click.Choice(methods()),
        default="magnitude",
        show_default=True,
        help="Score the weights by this method.",
    ),
    settings_option("--set", "settings", "Change an option of the method."),
    click.option(
        "--scope",
        type=click.Choice(["global", "layer"]),
        help="Let all weights compete, or only those of each layer.  [default: global]",
    ),
    click.option(
        "--distribution",
        type=click.Choice(["uniform", "erk"]),
        help="Choose how density is spread over the layers; this implies --scope layer.  "
        "[default: uniform]",
    ),
    click.option(
        "--group",
        type=int,
        metavar="M",
        help="Keep the best of each M weights along the input dimension, an n:m pattern. With "
        "--group 4, level 0.5 keeps 2 of 4 and level 0.75 keeps 1 of 4.",
    ),
    click.option(
        "--group-dim",
        "group_dims",
        multiple=True,
        metavar="[NAME=]DIM",
        help="Run the groups along this dimension, counted from 0, in all tensors or in those of a "
        "name or glob.  [default: the input dimension, told by names, shapes and biases]",
    ),
    click.option(
        "--seed",
        type=click.IntRange(min=0),
        default=0,
        show_default=True,
        help="Seed for methods that draw random numbers.",
    ),
    click.option("--allow-nonfinite", is_flag=True, help="Rank NaN and infinity highest."),
]
# What tells the tensors' roles, besides their names.
CLASSES = [
    click.option(
        "--recipe",
        metavar="FILE.py",
        help="Build this recipe's model; the classes of its modules tell what each tensor is.",
    ),
    settings_option("--recipe-set", "recipe_settings", "Change a setting of the recipe."),
    click.option(
        "--no-config",
        is_flag=True,
        help="Ignore the config.json beside CHECKPOINT. Where transformers is installed, it tells "
        "the classes of the modules.",
    ),
]


def _classes(no_config: bool, **recipe: Any) -> dict[str, Any]:
    return {"config": not no_config, **recipe}


@click.command(name="sparsify")
@checkpoint_argument("CHECKPOINT")
@choice_options("Make these sparsities, in any order: 0.5,0.7,0.9 or 50%,70%,90%.", required=True)
@output_options("NAME.elsa.safetensors beside the input")
@gathered("rule", dict, RULE)
@gathered("classes", _classes, CLASSES)
@click.option(
    "--masks",
    type=click.Choice(["auto", "header", "tensors"]),
    default="auto",
    show_default=True,
    help="Store the masks here. With header, the file loads as the dense network everywhere; auto "
    "does so up to 16 MiB of header.",
)
@click.option("--dry-run", is_flag=True, help="Show what would be pruned, and write nothing.")
@threads_option
@shown_options("Show one table row for each tensor.")
def command(
    checkpoint: str | None,
    choice: Choice,
    target: Target,
    rule: dict[str, Any],
    classes: dict[str, Any],
    masks: str,
    dry_run: bool,
    threads: int | None,
    shown: Shown,
) -> None:
    """Choose nested masks for CHECKPOINT, a safetensors file.

    The masks of all levels are stored next to the untouched dense weights. Each level keeps exactly
    round((1 - level) * weights) of the prunable weights: matrices and kernels of layers, but no
    embeddings, heads, routers, norms, biases, positions or buffers. With --scope layer the share of
    each layer is rounded.

    \b
    Example:
      elsa sparsify model.safetensors --levels 0.5,0.7,0.9
    """
    with session("sparsify", shown, partial(open_input, checkpoint, search=False), target) as run:
        from elsa_cli.operations.sparsify import sparsify

        report = sparsify(
            run.path,
            output=None if dry_run else run.output,
            masks=masks,
            dry_run=dry_run,
            threads=threads,
            progress=run.progress,
            **{**vars(choice), **rule, **classes, **target.policy()},
        )
    _show(run, report)
    run.send([] if report.output is None else [report.output], report)


def _show(run: Session, report: SparsifyReport) -> None:
    screen = run.screen
    if screen.verbose:
        _show_tensors(screen, report)
    screen.table(
        ["level", "kept", "of prunable", "zeroed"],
        [
            [
                str(level),
                count(kept),
                percent(kept / report.prunable),
                count(report.prunable - kept),
            ]
            for level, kept in zip(report.levels, report.kept, strict=True)
        ],
    )
    show_roles(screen, report.roles)
    if report.skipped:
        screen.warn(
            "the groups do not fit the input dimension of "
            f"{counted(len(report.skipped), 'tensor')}, left dense: {listed(report.skipped)}"
        )
    run.warn(report.warnings)
    if report.told_by != "names":
        screen.note(f"roles were told by {report.told_by}")
    verb = "would become" if report.output is None else "became"
    screen.note(
        f"{count(report.prunable)} prunable weights in {counted(len(report.tensors), 'tensor')}; "
        f"{size(report.bytes_in)} {verb} {size(report.bytes_out)} (masks in the {report.masks})"
    )


def _show_tensors(screen: Screen, report: SparsifyReport) -> None:
    """Show a row a tensor: what each level keeps of it, its role, and what told that."""
    grouped = any(t.group_dim is not None for t in report.tensors)
    kept = [
        [
            t.name,
            "x".join(map(str, t.shape)),
            t.dtype,
            *(percent(k / t.numel) for k in t.kept),
            *([str(t.group_dim)] if grouped else []),
            t.role,
            t.reason,
        ]
        for t in report.tensors
    ]
    dense = [
        [
            t.name,
            "x".join(map(str, t.shape)) or "0-d",
            t.dtype,
            *("dense" for _ in report.levels),
            *([""] if grouped else []),
            t.role,
            t.reason,
        ]
        for t in report.left
    ]
    levels = [f"kept at {level}" for level in report.levels]
    group = ["groups along"] if grouped else []
    columns = ["tensor", "shape", "dtype", *levels, *group, "role", "told by"]
    screen.table(columns, kept + dense, texts=("role", "told by"))
