"""Choosing the nested masks of a checkpoint."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from elsa_cli.checkpoint.manifest import Entry, Manifest
from elsa_cli.checkpoint.nested.placement import PLACEMENTS
from elsa_cli.checkpoint.nested.writer import write_nested
from elsa_cli.checkpoint.opening import open_plain
from elsa_cli.core.level import DENSE, Level, parse_levels
from elsa_cli.core.work import Progress, default_threads, no_progress
from elsa_cli.errors import NothingToDo, Param, UsageError, Words
from elsa_cli.operations.architecture import classes_beside
from elsa_cli.operations.chosen import LeftRow, RoleRow, by_role, left_rows
from elsa_cli.operations.chosen_source import Choosing, ChosenSource
from elsa_cli.operations.output_names import nested_path
from elsa_cli.selection.concerns import concerns
from elsa_cli.selection.eligible import Wanted, eligible_tensors
from elsa_cli.selection.masks import Rule, Traits
from elsa_cli.selection.method import method_of
from elsa_cli.selection.orientation import parse_dims
from elsa_cli.sparsifiers import bind
from elsa_cli.storage.output import OutputFile, Policy

__all__ = ["SparsifyReport", "TensorRow", "sparsify"]


@dataclass(frozen=True)
class TensorRow:
    """One prunable tensor.

    Attributes:
        name: Its name.
        shape: Its shape.
        dtype: Its dtype.
        numel: Its weights.
        kept: Kept weights at each level, sparsest first.
        role: What it is; a weight, unless `include` named something else.
        reason: What told the role.
        group_dim: The dimension along which n:m groups run; None without a group.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    numel: int
    kept: tuple[int, ...]
    role: str
    reason: str
    group_dim: int | None


@dataclass(frozen=True)
class SparsifyReport:
    """What was chosen.

    Attributes:
        output: The file written; None for a dry run.
        levels: Sparsest first.
        prunable: Weights that take part.
        kept: How many of them each level keeps.
        tensors: A row a prunable tensor, in the order of the file.
        skipped: Tensors left dense because groups do not fit their input dimension.
        left: A row for each tensor that is dense at every level, with its role and the reason.
        roles: What was left dense, a row a role.
        told_by: What told the roles: `names`, or where the classes of modules were known from.
        warnings: What looks wrong with the choice, a line each.
        masks: Where the masks are: `header` or `tensors`.
        bytes_in: Size of the input.
        bytes_out: Size of the output.
    """

    output: str | None
    levels: tuple[Level, ...]
    prunable: int
    kept: tuple[int, ...]
    tensors: tuple[TensorRow, ...]
    skipped: tuple[str, ...]
    left: tuple[LeftRow, ...]
    roles: tuple[RoleRow, ...]
    told_by: str
    warnings: tuple[str, ...]
    masks: str
    bytes_in: int
    bytes_out: int


def sparsify(
    checkpoint: str | os.PathLike[str],
    levels: str | Iterable[str | float | Level],
    output: str | os.PathLike[str] | None = None,
    *,
    method: str = "magnitude",
    settings: Mapping[str, str] | None = None,
    scope: str | None = None,
    distribution: str | None = None,
    group: int | None = None,
    group_dims: Sequence[str] = (),
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    roles: Sequence[str] = (),
    recipe: str | os.PathLike[str] | None = None,
    recipe_settings: Mapping[str, str] | None = None,
    config: bool = True,
    seed: int = 0,
    masks: str = "auto",
    threads: int | None = None,
    allow_nonfinite: bool = False,
    dry_run: bool = False,
    clobber: bool = True,
    force: bool = False,
    progress: Progress = no_progress,
) -> SparsifyReport:
    """Choose nested masks and write a nested checkpoint.

    Args:
        checkpoint: A safetensors file.
        levels: Sparsities in [0, 1): `"0.5,0.7,0.9"` or a list.
        output: The file to write; by default NAME.elsa.safetensors beside the input.
        method: What scores the weights: a file of `elsa_cli/sparsifiers/`.
        settings: Options of the method, as text.
        scope: `global` (all weights compete) or `layer`.
        distribution: Density of each layer: `uniform` or `erk`; implies scope `layer`.
        group: Weights a group of an n:m pattern.
        group_dims: The dimension along which groups run, counted from 0: DIM for every tensor, or
            NAME=DIM for those that a name or glob matches.
        include: Names or globs of the tensors to prune, instead of all weights. A glob takes no
            norms, biases and the like; a name written out takes any float.
        exclude: Names or globs of tensors to leave dense.
        roles: NAME=ROLE pairs, a name or glob and what those tensors are: `decoder.*=head`.
        recipe: A recipe, whose model's classes tell the roles.
        recipe_settings: Settings of the recipe, as text.
        config: Use a `config.json` beside the checkpoint, if transformers is installed, to learn
            the modules' classes.
        seed: For methods that draw random numbers.
        masks: Where the masks go: `header`, `tensors` or `auto`.
        threads: Number of threads; the bytes written do not depend on it.
        allow_nonfinite: Rank NaN and infinity highest instead of refusing them.
        dry_run: Write nothing.
        clobber: Replace an existing output.
        force: Let the output be the input.
        progress: Told of the bytes of weights done.

    Returns:
        What was chosen, exact: level s keeps round((1 - s) * weights); by layer with scope `layer`.

    Raises:
        UsageError: Options that contradict, or levels that cannot be read.
        InputError: The checkpoint cannot be used.
        OutputError: The output cannot be written; nothing is left behind.
    """
    wanted = tuple(level for level in parse_levels(levels) if level != DENSE)
    if not wanted:
        raise NothingToDo("dense alone needs no mask", hint="give a level above 0, such as 0.9")
    if masks not in PLACEMENTS:
        raise UsageError(f"masks cannot go to {masks!r}", hint=f"use {', '.join(PLACEMENTS)}")
    if seed < 0:
        raise UsageError(f"seed {seed} is negative", hint="use 0 or more")
    rule = Rule.of(scope, distribution, group)
    if group_dims and group is None:
        raise UsageError(
            Words("{} says where groups run", Param("group_dims")),
            hint=Words("use it with {}", Param("group")),
        )
    if recipe_settings and recipe is None:
        raise UsageError(
            Words("{} sets what a recipe reads", Param("recipe_settings")),
            hint=Words("use it with {}", Param("recipe")),
        )
    given_dims = parse_dims(group_dims)
    wanted_tensors = Wanted(include, exclude, roles)
    scorer, options = bind(method, settings or {}, seed)
    threads = threads or default_threads()
    with open_plain(checkpoint) as source:
        classes = classes_beside(source, recipe, recipe_settings, config=config)
        eligible = eligible_tensors(source, wanted_tensors, classes)
        traits = Traits.of(eligible, group, given_dims, source.metadata)
        tensors = [t for t in eligible.tensors if rule.fits(t, traits)]
        skipped = tuple(t.name for t in eligible.tensors if not rule.fits(t, traits))
        if not tensors:
            raise NothingToDo(
                f"no prunable tensor has an input dimension divisible by {group}", file=source.path
            )
        goes_to = os.fspath(nested_path(checkpoint) if output is None else output)
        policy = Policy([checkpoint], clobber=clobber, force=force)
        if not dry_run:
            policy.check(goes_to)
        draft = Manifest(
            levels=wanted,
            tensors=tuple(Entry(t.name, t.dtype, t.shape, (), "") for t in tensors),
            method=method_of(method, options, rule, eligible, traits),
            seed=seed,
            masks=masks,
            mask_digests=(),
        )
        choosing = Choosing(tensors, scorer, rule, traits, not allow_nonfinite)
        chosen = ChosenSource(source, choosing, draft)
        if dry_run:
            written = write_nested(None, chosen, threads, progress)
        else:
            with OutputFile(goes_to, policy) as out:
                written = write_nested(out, chosen, threads, progress)
                out.commit()
    final = written.manifest
    told = eligible.roles.told
    rows = tuple(
        TensorRow(
            name=t.name,
            shape=t.shape,
            dtype=t.dtype.name,
            numel=t.numel,
            kept=t.kept,
            role=told[t.name].role,
            reason=told[t.name].reason,
            group_dim=None if group is None else traits.dims[t.name],
        )
        for t in final.tensors
    )
    left = left_rows(eligible, source.tensors, skipped)
    return SparsifyReport(
        output=None if dry_run else goes_to,
        levels=wanted,
        prunable=final.prunable,
        kept=tuple(final.kept(level) for level in wanted),
        tensors=rows,
        skipped=skipped,
        left=left,
        roles=by_role(left),
        told_by=eligible.roles.source,
        warnings=tuple(concerns(wanted, final.tensors, eligible)),
        masks=final.masks,
        bytes_in=source.size,
        bytes_out=written.size,
    )
