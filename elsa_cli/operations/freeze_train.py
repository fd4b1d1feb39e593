"""Training a nested checkpoint level by level, sparsest first; finished levels are frozen."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from elsa_cli.checkpoint.names import content_hashes
from elsa_cli.checkpoint.nested.writer import write_nested
from elsa_cli.core.level import Level
from elsa_cli.core.work import default_threads
from elsa_cli.errors import Param, UsageError, Words
from elsa_cli.models.device import Device, pick_device, repeatable, threads_in_use
from elsa_cli.models.distributed import Group
from elsa_cli.models.nested import Nested
from elsa_cli.models.nested_file import NestedInMemory, digest_of
from elsa_cli.models.network import Network
from elsa_cli.models.recipe import Recipe
from elsa_cli.models.seeds import seed_everything, seed_of
from elsa_cli.operations.chosen import LeftRow, RoleRow, by_role
from elsa_cli.operations.output_names import trained_path
from elsa_cli.operations.training_input import TrainingInput, training_input
from elsa_cli.selection.eligible import Wanted
from elsa_cli.storage.output import OutputFile, Policy
from elsa_cli.training.events import PhaseReport, Watcher
from elsa_cli.training.ladder import Ladder
from elsa_cli.training.masks import choose_again
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
        metrics: What the recipe's evaluate returned at the end of its stage.
        seconds: Time of its stage.
        without_gradient: Parameters that it should train and that had no gradient in any step.
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
        joint: The joint phase; None if there was none.
        levels: A row for each level, sparsest first, dense last.
        per_level: Names of the tensors that differ by level.
        carried: Tensors of the checkpoint that the model lacks; the output has them unchanged.
        left: If the masks were chosen here, a row for each tensor that was left dense.
        roles: The tensors that were left dense, a row for each role.
        warnings: If the masks were chosen here, what looks wrong with the choice, a line each.
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
        resume: Continue from the save beside the output, if there is one.
        clobber: Replace an existing output.
        force: Let the output be the input.
        watcher: Is called with what happens.

    Returns:
        What was trained. Each level of the output is, bit for bit, the network at the end of its
        stage.

    Raises:
        UsageError: Options that contradict, a recipe or a device that does not exist.
        InputError: The checkpoint cannot be used, or does not fit the model.
        TrainingError: The training cannot continue; its save is kept.
        OutputError: The output cannot be written.
    """
    options = options or TrainOptions()
    watcher = watcher or Watcher()
    goes_to = _output_path(output, checkpoint, recipe)
    policy = Policy([] if checkpoint is None else [checkpoint], clobber=clobber, force=force)
    policy.check(goes_to)
    torch_device = pick_device(device)
    with repeatable(threads):
        loaded = Recipe(recipe, settings)
        seed_everything(seed_of(options.seed, "model"))
        network = Network(loaded.build_model(), torch_device)
        begins = training_input(checkpoint, network, levels, Wanted(include, exclude, roles))
        file, nested = begins.file, begins.file.nested
        name = loaded.path if checkpoint is None else os.fspath(checkpoint)
        carried = network.check(nested.values, nested.owner, name)
        network.store_as(nested.values)
        for note in _notes(begins, carried):
            watcher.noted(note)
        group = Group(torch_device)
        ladder = Ladder(nested, network, options)
        saves = _saves(goes_to, nested, options, loaded, group, torch_device, resume=resume)
        trainer = Trainer(
            Setup(loaded, ladder, options, group, torch_device),
            saves,
            watcher,
            lambda: choose_again(file, default_threads()),
        )
        reports = trainer.run()
        if options.reselect and trainer.phases[0].stage is None:
            file.chosen_by_magnitude()
        size = 0
        if group.writes:
            with OutputFile(goes_to, policy) as out, NestedInMemory(file) as source:
                size = write_nested(out, source, default_threads()).size
                out.commit()
            if saves is not None:
                saves.remove()
        group.barrier()
        group.close()
    joint, rows = _rows(nested, reports)
    return FreezeTrainReport(
        output=goes_to,
        writes=group.writes,
        device=str(torch_device),
        prunable=sum(owner.numel() for owner in nested.owner.values()),
        joint=joint,
        levels=rows,
        per_level=tuple(sorted({n for state in nested.per_level.values() for n in state})),
        carried=tuple(carried),
        left=begins.left,
        roles=by_role(begins.left),
        warnings=begins.warnings,
        bytes_out=size,
    )


def _output_path(
    output: str | os.PathLike[str] | None,
    checkpoint: str | os.PathLike[str] | None,
    recipe: str | os.PathLike[str],
) -> str:
    """Return the output's path: by default named after the checkpoint, or after the recipe."""
    if output is not None:
        return os.fspath(output)
    if checkpoint is not None:
        return trained_path(checkpoint)
    stem, _ = os.path.splitext(os.path.basename(recipe))
    return trained_path(stem)


def _notes(begins: TrainingInput, carried: Sequence[str]) -> list[str]:
    """Return what the user should know before the training begins, a line each."""
    return [
        *(Words("Warning: {}", line) for line in begins.warnings),
        *(f"{name} is not in the model: it stays as it is" for name in carried),
        *(
            f"{key} is left out: it would not hold for weights that are trained"
            for key in content_hashes(begins.file.metadata)
        ),
    ]


def _saves(
    output: str,
    nested: Nested,
    options: TrainOptions,
    recipe: Recipe,
    group: Group,
    device: Device,
    *,
    resume: bool,
) -> Saves | None:
    """Return where the run is saved; None if the output is a stream."""
    if output == "-":
        if resume:
            raise UsageError(
                "a run into standard output has no save",
                hint=Words("name a file with {}", Param("output")),
            )
        return None
    facts = {name: str(value) for name, value in options.as_fields().items()}
    facts |= {f"setting {name}": str(value) for name, value in recipe.settings.items()}
    facts["checkpoint"] = digest_of(nested)
    machine = {
        "processes": str(group.size),
        "device": device.type,
        "threads": str(threads_in_use()),
    }
    saves = Saves(output, facts, machine)
    if not resume:
        saves.refuse_leftover()
        group.barrier()  # no process saves before all have looked
    return saves


def _rows(
    nested: Nested, reports: Sequence[PhaseReport]
) -> tuple[PhaseReport | None, tuple[LevelRow, ...]]:
    """Return the report of the joint phase, if there was one, and a row for each level."""
    joint = next((report for report in reports if report.phase == "joint"), None)
    stages = [report for report in reports if report is not joint]
    rows = [
        LevelRow(
            level,
            sum(int((owner <= stage).sum()) for owner in nested.owner.values()),
            report.steps,
            report.loss,
            report.metrics,
            report.seconds,
            tuple(report.without_gradient),
        )
        for stage, (level, report) in enumerate(zip(nested.stages, stages, strict=True))
    ]
    return joint, tuple(rows)
