"""`elsa sparsify`: choose the nested masks of a checkpoint."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from elsa_cli.commands._common import (
    check_stream,
    checkpoint_argument,
    choice_options,
    default_output,
    output_options,
    run_options,
    send,
    show_roles,
    to_json,
)
from elsa_cli.commands._input import open_input
from elsa_cli.core.settings import parse_pairs
from elsa_cli.sparsifiers import methods
from elsa_cli.text import counted
from elsa_cli.ui import Screen, count, listed, percent, size

if TYPE_CHECKING:
    from elsa_cli.operations.sparsify import SparsifyReport

__all__ = ["command"]


@click.command(name="sparsify")
@checkpoint_argument("CHECKPOINT")
@click.option(
    "--levels",
    required=True,
    metavar="LEVELS",
    help="Sparsities, in any order: 0.5,0.7,0.9 or 50%,70%,90%.",
)
@output_options("NAME.elsa.safetensors beside the input")
@click.option(
    "--method",
    type=click.Choice(methods()),
    default="magnitude",
    show_default=True,
    help="What scores the weights.",
)
@click.option(
    "--set", "settings", multiple=True, metavar="NAME=VALUE", help="Option of the method."
)
@click.option(
    "--scope",
    type=click.Choice(["global", "layer"]),
    help="Do all weights compete, or those of each layer?  [default: global]",
)
@click.option(
    "--distribution",
    type=click.Choice(["uniform", "erk"]),
    help="Density of each layer; implies --scope layer.  [default: uniform]",
)
@click.option(
    "--group",
    type=int,
    metavar="M",
    help="n:m pattern: the best of each M weights along the input dimension. With --group 4, level "
    "0.5 keeps 2 of 4 and 0.75 keeps 1 of 4.",
)
@click.option(
    "--group-dim",
    "group_dims",
    multiple=True,
    metavar="[NAME=]DIM",
    help="The dimension along which groups run, counted from 0, for all tensors or for those that "
    "a name or glob matches.  [default: the input dimension, told by names, shapes and biases]",
)
@choice_options
@click.option(
    "--recipe",
    metavar="FILE.py",
    help="Build this recipe's model: its modules' classes tell what each tensor is.",
)
@click.option(
    "--recipe-set",
    "recipe_settings",
    multiple=True,
    metavar="NAME=VALUE",
    help="Setting of the recipe.",
)
@click.option(
    "--no-config",
    is_flag=True,
    help="Do not use a config.json beside CHECKPOINT. Where transformers is installed, it tells "
    "the modules' classes.",
)
@click.option(
    "--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of random methods."
)
@click.option(
    "--masks",
    type=click.Choice(["auto", "header", "tensors"]),
    default="auto",
    show_default=True,
    help="Where the masks go. In the header, the file loads as the dense network everywhere; "
    "auto does so up to 16 MiB of header.",
)
@click.option("--allow-nonfinite", is_flag=True, help="Rank NaN and infinity highest.")
@click.option("--dry-run", is_flag=True, help="Show what would be pruned; write nothing.")
@run_options
def command(
    checkpoint: str | None,
    levels: str,
    output: str | None,
    no_clobber: bool,
    force: bool,
    method: str,
    settings: tuple[str, ...],
    scope: str | None,
    distribution: str | None,
    group: int | None,
    group_dims: tuple[str, ...],
    include: tuple[str, ...],
    exclude: tuple[str, ...],
    roles: tuple[str, ...],
    recipe: str | None,
    recipe_settings: tuple[str, ...],
    no_config: bool,
    seed: int,
    masks: str,
    allow_nonfinite: bool,
    dry_run: bool,
    threads: int | None,
    as_json: bool,
    quiet: bool,
    verbose: bool,
) -> None:
    """Choose nested masks for CHECKPOINT, a safetensors file.

    The masks of all levels are stored next to the untouched dense weights. Each level keeps
    exactly round((1 - level) * weights) of the prunable weights: matrices and kernels of layers,
    but no embeddings, heads, routers, norms, biases, positions or buffers. With --scope layer
    each layer's own share is rounded.

    \b
    Example:
      elsa sparsify model.safetensors --levels 0.5,0.7,0.9
    """
    from elsa_cli.operations.sparsify import sparsify

    screen = Screen(quiet=quiet, verbose=verbose)
    check_stream(output, as_json)
    with (
        open_input(checkpoint, screen, search=False) as source,
        screen.progress("sparsify") as progress,
    ):
        if not dry_run:
            output = default_output(output, source.named)
        report = sparsify(
            source.path,
            levels,
            output,
            method=method,
            settings=parse_pairs(settings),
            scope=scope,
            distribution=distribution,
            group=group,
            group_dims=group_dims,
            include=include,
            exclude=exclude,
            roles=roles,
            recipe=recipe,
            recipe_settings=parse_pairs(recipe_settings),
            config=not no_config,
            seed=seed,
            masks=masks,
            threads=threads,
            allow_nonfinite=allow_nonfinite,
            dry_run=dry_run,
            clobber=not no_clobber,
            force=force,
            progress=progress,
        )
    _show(screen, report)
    outputs = [] if report.output is None else [report.output]
    send(screen, outputs, to_json(report) if as_json else None)


def _show(screen: Screen, report: SparsifyReport) -> None:
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
            "groups do not fit the input dimension, which leaves dense "
            f"{counted(len(report.skipped), 'tensor')}: {listed(report.skipped)}"
        )
    for line in report.warnings:
        screen.warn(line)
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
