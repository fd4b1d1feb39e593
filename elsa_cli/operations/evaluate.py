"""The metric of every level of a nested or packed checkpoint."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from elsa_cli.checkpoint.opening import open_nested
from elsa_cli.core.level import DENSE, Level, parse_levels
from elsa_cli.errors import RecipeError
from elsa_cli.models.device import pick_device, repeatable
from elsa_cli.models.network import Network
from elsa_cli.models.recipe import Recipe
from elsa_cli.models.seeds import seed_everything, seed_of
from elsa_cli.operations.inspect import InspectReport, describe
from elsa_cli.operations.load import NestedCheckpoint

__all__ = ["EvaluateReport", "EvaluateRow", "evaluate"]


@dataclass(frozen=True)
class EvaluateRow:
    """One level.

    Attributes:
        level: The level.
        kept: Prunable weights that it keeps.
        nbytes: Bytes of a packed checkpoint that it needs: its prefix. If the input is not packed,
            they are estimated from the entropy of the masks, without the header.
        metrics: What the recipe's evaluate returned.
    """

    level: Level
    kept: int
    nbytes: int
    metrics: Mapping[str, float]


@dataclass(frozen=True)
class EvaluateReport:
    """What was measured.

    Attributes:
        checkpoint: The file.
        kind: `nested` or `packed`.
        device: Where it was measured.
        prunable: Weights that take part in the masks.
        levels: A row for each level that was measured.
        carried: Tensors of the checkpoint that the model lacks.
    """

    checkpoint: str
    kind: str
    device: str
    prunable: int
    levels: tuple[EvaluateRow, ...]
    carried: tuple[str, ...]


def evaluate(
    checkpoint: str | os.PathLike[str],
    recipe: str | os.PathLike[str],
    *,
    levels: str | Iterable[str | float | Level] | None = None,
    settings: Mapping[str, str] | None = None,
    device: str = "auto",
    seed: int = 0,
    threads: int | None = None,
    progress: Callable[[Level, Mapping[str, float]], None] | None = None,
) -> EvaluateReport:
    """Measure levels with the recipe's own metrics.

    Args:
        checkpoint: A nested or packed checkpoint; a packed one may be cut off after a level.
        recipe: A Python file with `build_model` and `evaluate`; see docs/recipes.md.
        levels: The levels to measure; by default all that the file holds.
        settings: Settings of the recipe, as text.
        device: `auto`, `cpu`, `cuda`, or any name of a torch device.
        seed: Seed for everything random in the recipe.
        threads: Threads of torch on the CPU.
        progress: Is called with each level and its metrics.

    Raises:
        UsageError: A recipe or a device that does not exist.
        InputError: The checkpoint cannot be used, or does not fit the model.
        RecipeError: The recipe has no evaluate, or raised.
    """
    torch_device = pick_device(device)
    with repeatable(threads), open_nested(checkpoint) as reader:
        loaded = Recipe(recipe, settings)
        loaded.require("evaluate")
        known = describe(reader)
        sizes = _sizes(known)
        opened = NestedCheckpoint(reader)
        chosen = opened.levels if levels is None else parse_levels(levels)
        for level in chosen:
            opened.require(level)
        seed_everything(seed_of(seed, "model"))
        network = Network(loaded.build_model(), torch_device)
        rows = []
        carried: list[str] = []
        for level in chosen:
            state = opened.load(level)
            carried = network.check(state, opened.prunable, os.fspath(checkpoint))
            network.load(state)
            seed_everything(seed_of(seed, "evaluate"))
            metrics = loaded.evaluate(network.model)
            if progress is not None:
                progress(level, metrics)
            kept, nbytes = sizes[level]
            rows.append(EvaluateRow(level, kept, nbytes, metrics))
        if not rows[0].metrics:
            raise RecipeError("evaluate gave no metric", file=loaded.path)
    return EvaluateReport(
        checkpoint=os.fspath(checkpoint),
        kind=known.kind,
        device=str(torch_device),
        prunable=known.prunable,
        levels=tuple(rows),
        carried=tuple(carried),
    )


def _sizes(known: InspectReport) -> dict[Level, tuple[int, int]]:
    """Return the weights that each level keeps, and the bytes of a packed file that it needs."""
    total = sum(t.nbytes for t in known.tensors if t.part == "shared")
    dense_only = sum(t.nbytes for t in known.tensors if t.part == "per-level")
    sizes = {}
    for row in known.levels:
        total += row.packed_bytes
        needed = total + (dense_only if row.level == DENSE else 0)
        sizes[row.level] = (row.kept, needed if row.prefix is None else row.prefix)
    return sizes
