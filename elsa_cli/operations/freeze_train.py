"""Training a nested checkpoint level by level, sparsest first, with what is done frozen."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from elsa_cli.checkpoint.manifest import Entry
from elsa_cli.checkpoint.names import content_hashes
from elsa_cli.checkpoint.opening import open_any
from elsa_cli.core.level import DENSE, Level, parse_levels
from elsa_cli.errors import Call, NothingToDo, Param, UsageError, Words
from elsa_cli.models.architecture import roles_of
from elsa_cli.models.device import Device, pick_device, repeatable, threads_in_use
from elsa_cli.models.distributed import Group
from elsa_cli.models.network import Network
from elsa_cli.models.recipe import Recipe
from elsa_cli.models.seeds import seed_everything, seed_of
from elsa_cli.operations._memory import (
    Source,
    choose_again,
    digest_of,
    from_nested,
    from_plain,
    from_state,
    write,
)
from elsa_cli.operations.chosen import LeftRow, RoleRow, by_role, left_rows
from elsa_cli.operations.output_names import trained_path
from elsa_cli.selection.concerns import concerns
from elsa_cli.selection.eligible import Wanted
from elsa_cli.selection.roles import Classes
from elsa_cli.storage.container import Container
from elsa_cli.storage.output import OutputFile, Policy
from elsa_cli.training.events import PhaseReport, Watcher
from elsa_cli.training.ladder import Ladder
from elsa_cli.training.options import TrainOptions
from elsa_cli.training.resume import Saves
from elsa_cli.training.stepping import Setup
from elsa_cli.training.trainer import Trainer

__all__ = ["FreezeTrainReport", "LevelRow", "freeze_train"]


@dataclass(frozen=True)
class LevelRow:
    """One trained level.

    Attributes:
        level: The level.
        kept: Prunable weights that it keeps.
        steps: Steps it was trained for.
        loss: Mean training loss of its last epoch; None without a step.
        metrics: What the recipe's evaluate gave at the end of its stage.
        seconds: Time of its stage.
        without_gradient: Parameters that it trains and that had no gradient in any step.
    """

    level: Level
    kept: int
    steps: int
    loss: float | None
    metrics: Mapping[str, float]
    seconds: float
    without_gradient: tuple[str, ...] = ()


@dataclass(frozen=True)
class FreezeTrainReport:
    """What was trained.

    Attributes:
        output: The file written.
        writes: Whether this is the process that wrote it.
        device: Where it was trained.
        prunable: Weights that take part in the masks.
        joint: The joint phase, if there was one.
        levels: A row a level, sparsest first, dense last.
        per_level: Names of the tensors that differ by level.
        carried: Tensors of the checkpoint that the model lacks; they are as they were.
        left: With masks that were chosen here, a row for each tensor that was left dense.
        roles: What was left dense, a row a role.
        warnings: What looks wrong with the choice, a line each.
        bytes_out: Size of the output; 0 in the processes that do not write.
    """

    output: str
    writes: bool
    device: str
    prunable: int
    joint: PhaseReport | None
    levels: tuple[LevelRow, ...]
    per_level: tuple[str, ...]
    carried: tuple[str, ...]
    left: tuple[LeftRow, ...]
    roles: tuple[RoleRow, ...]
    warnings: tuple[str, ...]
    bytes_out: int


def freeze_train(
    checkpoint: str | os.PathLike[str] | None,
    recipe: str | os.PathLike[str],
    output: str | os.PathLike[str] | None = None,
    *,
    levels: str | Iterable[str | float | Level] | None = None,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    roles: Sequence[str] = (),
    settings: Mapping[str, str] | None = None,
    options: TrainOptions | None = None,
    device: str = "auto",
    threads: int | None = None,
    resume: bool = False,
    clobber: bool = True,
    force: bool = False,
    watcher: Watcher | None = None,
) -> FreezeTrainReport:
    """Train the levels of a checkpoint, sparsest first, and write a nested checkpoint.

    Args:
        checkpoint: A nested or packed checkpoint; a plain one, whose masks are chosen by magnitude
            first; or None for a new model of the recipe.
        recipe: A Python file; see docs/recipes.md.
        output: The file to write; by default NAME.trained.elsa.safetensors beside the input.
        levels: Sparsities in [0, 1), for a plain checkpoint or a new model.
        include: Names or globs of the tensors to prune, with `levels`; see `sparsify`.
        exclude: Names or globs of tensors to leave dense, with `levels`.
        roles: NAME=ROLE pairs, with `levels`; see `sparsify`.
        settings: Settings of the recipe, as text.
        options: How to train.
        device: `auto`, `cpu`, `cuda`, or any name of a torch device.
        threads: Threads of torch on the CPU; the bits of the result depend on it.
        resume: Go on from the save beside the output, if there is one.
        clobber: Replace an existing output.
        force: Let the output be the input.
        watcher: Told what happens.

    Returns:
        What was trained. Each level of the output is, bit for bit, the network that its stage
        ended with.

    Raises:
        UsageError: Options that contradict, a recipe or a device that does not exist.
        InputError: The checkpoint cannot be used, or does not fit the model.
        TrainingError: The training cannot go on; what was saved is kept.
        OutputError: The output cannot be written.
    """
    options = options or TrainOptions()
    watcher = watcher or Watcher()
    goes_to = os.fspath(
        output
        if output is not None
        else trained_path(os.path.splitext(os.path.basename(recipe))[0])
        if checkpoint is None
        else trained_path(checkpoint)
    )
    policy = Policy([] if checkpoint is None else [checkpoint], clobber=clobber, force=force)
    policy.check(goes_to)
    place = pick_device(device)
    with repeatable(threads):
        loaded = Recipe(recipe, settings)
        seed_everything(seed_of(options.seed, "model"))
        network = Network(loaded.build_model(), place)
        source = _source(checkpoint, network, levels, Wanted(include, exclude, roles))
        left, warnings = _choice_of(source)
        for line in warnings:
            watcher.noted(Words("Warning: {}", line))
        name = loaded.path if checkpoint is None else os.fspath(checkpoint)
        carried = network.match(source.nested.values, source.nested.owner, name)
        for tensor in carried:
            watcher.noted(f"{tensor} is not in the model: it stays as it is")
        for key in content_hashes(source.metadata):
            watcher.noted(f"{key} is left out: it would not hold for weights that are trained")
        group = Group(place)
        ladder = Ladder(source.nested, network, options)
        saves = _saves(goes_to, source, options, loaded, group, place, resume=resume)
        trainer = Trainer(
            Setup(loaded, ladder, options, group, place),
            saves,
            watcher,
            lambda _: choose_again(source),
        )
        reports = trainer.run()
        if options.reselect and trainer.phases[0].stage is None:
            source.chosen_by_magnitude()  # perhaps by the run that is resumed here
        size = 0
        if group.writes:
            with OutputFile(goes_to, policy) as out:
                size = write(source, out)
                out.commit()
            if saves is not None:
                saves.remove()
        group.barrier()
        group.close()
    report = _report(goes_to, source, reports, place, carried, size, writes=group.writes)
    return replace(report, left=left, roles=by_role(left), warnings=tuple(warnings))


def _source(
    checkpoint: str | os.PathLike[str] | None,
    network: Network,
    levels: str | Iterable[str | float | Level] | None,
    wanted_tensors: Wanted,
) -> Source:
    """Read the checkpoint, or take the new model's tensors; choose masks where there are none."""
    nested = False
    if checkpoint is not None:
        with open_any(checkpoint) as opened:
            nested = not isinstance(opened, Container)
    if nested:
        assert checkpoint is not None
        if wanted_tensors != Wanted():
            raise UsageError(
                Words(
                    "{}, {} and {} choose what is sparsified first",
                    Param("include"),
                    Param("exclude"),
                    Param("roles"),
                ),
                hint=Words("add {}", Param("levels")),
            )
        if levels is not None:
            raise UsageError(
                "has its levels already",
                file=checkpoint,
                hint=Words("leave out {}", Param("levels")),
            )
        return from_nested(checkpoint)
    if levels is None:
        raise UsageError(
            "a checkpoint without masks needs levels" if checkpoint else "a new model needs levels",
            file=checkpoint,
            hint=Words(
                "add {}, such as 0.5,0.7,0.9, or choose masks with {} first",
                Param("levels"),
                Call("sparsify"),
            ),
        )
    wanted = tuple(level for level in parse_levels(levels) if level != DENSE)
    if not wanted:
        raise NothingToDo("dense alone needs no mask", hint="give a level above 0, such as 0.9")
    classes = Classes("the recipe's model", roles_of(network.model))
    if checkpoint is not None:
        return from_plain(checkpoint, wanted, wanted_tensors, classes)
    state, tied = network.fresh_state()
    return from_state(state, tied, wanted, wanted_tensors, classes)


def _choice_of(source: Source) -> tuple[tuple[LeftRow, ...], list[str]]:
    """Return what was left dense, and what looks wrong, if masks were chosen here."""
    if source.chosen is None:
        return (), []
    eligible, tensors = source.chosen
    nested = source.nested
    stages = range(len(nested.levels))
    entries = [
        Entry(t.name, t.dtype, t.shape, tuple(int((owner <= k).sum()) for k in stages), "")
        for t in eligible.tensors
        for owner in (nested.owner[t.name],)
    ]
    return left_rows(eligible, tensors), concerns(nested.levels, entries, eligible)


def _saves(
    output: str,
    source: Source,
    options: TrainOptions,
    recipe: Recipe,
    group: Group,
    device: Device,
    *,
    resume: bool,
) -> Saves | None:
    """Return where the run is saved; nowhere if the output is a stream."""
    if output == "-":
        if resume:
            raise UsageError(
                "a run into standard output has no save",
                hint=Words("name a file with {}", Param("output")),
            )
        return None
    facts = {name: str(value) for name, value in options.as_fields().items()}
    facts |= {f"setting {name}": str(value) for name, value in recipe.settings.items()}
    facts["checkpoint"] = digest_of(source.nested)
    machine = {
        "processes": str(group.size),
        "device": device.type,
        "threads": str(threads_in_use()),
    }
    saves = Saves(output, facts, machine)
    if not resume:
        saves.refuse_leftover()
        group.barrier()  # nobody saves before all have looked
    return saves


def _report(
    output: str,
    source: Source,
    reports: Sequence[PhaseReport],
    device: Device,
    carried: Sequence[str],
    size: int,
    *,
    writes: bool,
) -> FreezeTrainReport:
    nested = source.nested
    stages = (*nested.levels, DENSE)
    joint = [report for report in reports if report.phase == "joint"]
    rows = [report for report in reports if report.phase != "joint"]
    return FreezeTrainReport(
        output=output,
        writes=writes,
        device=str(device),
        prunable=sum(owner.numel() for owner in nested.owner.values()),
        joint=joint[0] if joint else None,
        levels=tuple(
            LevelRow(
                level,
                sum(int((owner <= stage).sum()) for owner in nested.owner.values()),
                row.steps,
                row.loss,
                row.metrics,
                row.seconds,
                tuple(row.without_gradient),
            )
            for stage, (level, row) in enumerate(zip(stages, rows, strict=True))
        ),
        per_level=tuple(sorted({name for own in nested.own.values() for name in own})),
        carried=tuple(carried),
        left=(),
        roles=(),
        warnings=(),
        bytes_out=size,
    )
