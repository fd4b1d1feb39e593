"""What a training begins with: a nested checkpoint, a plain one, or a new model of the recipe."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass

from elsa_cli.checkpoint.manifest import Entry
from elsa_cli.checkpoint.opening import open_any, require_plain
from elsa_cli.core.level import DENSE, Level, parse_levels
from elsa_cli.core.work import default_threads
from elsa_cli.errors import Call, NothingToDo, Param, UsageError, Words
from elsa_cli.models.architecture import roles_of
from elsa_cli.models.nested_file import NestedFile, from_nested
from elsa_cli.models.network import Network
from elsa_cli.operations.chosen import LeftRow, left_rows
from elsa_cli.selection.concerns import concerns
from elsa_cli.selection.eligible import Wanted
from elsa_cli.selection.roles import Classes
from elsa_cli.storage.container import Container
from elsa_cli.training.masks import Chosen, from_plain, from_state

__all__ = ["TrainingInput", "training_input"]

Levels = str | Iterable[str | float | Level]


@dataclass(frozen=True)
class TrainingInput:
    """What a training begins with.

    Attributes:
        file: The network in memory, with masks.
        left: If the masks were chosen here, a row for each tensor that was left dense.
        warnings: If the masks were chosen here, what looks wrong with the choice, a line each.
    """

    file: NestedFile
    left: tuple[LeftRow, ...] = ()
    warnings: tuple[str, ...] = ()


def training_input(
    checkpoint: str | os.PathLike[str] | None,
    network: Network,
    levels: Levels | None,
    wanted: Wanted,
) -> TrainingInput:
    """Read the checkpoint, or take the new model's tensors; choose masks if there are none.

    Args:
        checkpoint: The file, which is opened once; None for the model's own tensors.
        network: The recipe's model.
        levels: The levels to choose masks for; None for a checkpoint that has masks.
        wanted: The tensors to prune, as the user names them.

    Raises:
        UsageError: Levels are missing or not wanted, or nothing is prunable.
        NothingToDo: There is no level but dense.
        InputError: The checkpoint cannot be used.
    """
    if checkpoint is None:
        sparse = _sparse_levels(None, levels)
        state, tied = network.fresh_state()
        chosen = from_state(state, tied, sparse, default_threads(), wanted, _classes(network))
        return _with_choice(chosen)
    with open_any(checkpoint) as opened:
        if isinstance(opened, Container):
            sparse, container = _sparse_levels(checkpoint, levels), require_plain(opened)
            chosen = from_plain(container, sparse, default_threads(), wanted, _classes(network))
            return _with_choice(chosen)
        if wanted != Wanted():
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
        return TrainingInput(from_nested(opened, default_threads()))


def _sparse_levels(
    checkpoint: str | os.PathLike[str] | None, levels: Levels | None
) -> tuple[Level, ...]:
    """Return the levels to choose masks for, sparsest first, without dense."""
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
    sparse = tuple(level for level in parse_levels(levels) if level != DENSE)
    if not sparse:
        raise NothingToDo("dense alone needs no mask", hint="give a level above 0, such as 0.9")
    return sparse


def _classes(network: Network) -> Classes:
    return Classes("the recipe's model", roles_of(network.model))


def _with_choice(chosen: Chosen) -> TrainingInput:
    """Return a network with the rows and warnings of its choice."""
    nested, eligible = chosen.file.nested, chosen.eligible
    entries = [Entry(t.name, t.dtype, t.shape, nested.kept(t.name), "") for t in eligible.tensors]
    left = left_rows(eligible, chosen.tensors)
    return TrainingInput(chosen.file, left, tuple(concerns(nested.levels, entries, eligible)))
