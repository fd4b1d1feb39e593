"""Why a loss is not finite: the level's zeros, a fault before the first step, or the steps."""

from __future__ import annotations

from elsa_cli.errors import Call, Param, Words
from elsa_cli.models.nested import Nested
from elsa_cli.training.masks import rows_of

__all__ = ["lost_rows", "why_not_finite"]


def lost_rows(nested: Nested) -> list[str]:
    """Return the weight-normalised tensors with a row that the sparsest level keeps nothing of.

    Weight normalisation divides by the norm of each row, which is 0 for such a row.
    """
    lost = []
    for name, dim in rows_of(nested).items():
        kept = nested.owner[name] == 0
        rows = kept.reshape(1, -1) if dim is None else kept.movedim(dim, 0).flatten(1)
        if not bool(rows.any(dim=1).all()):
            lost.append(name)
    return lost


def why_not_finite(nested: Nested, step: int) -> str:
    """Return a hint for a loss that is not finite.

    Args:
        nested: Weights and masks.
        step: The step of its phase, from 1.
    """
    lost = lost_rows(nested)
    if lost:
        return Words(
            "level {} keeps nothing of a row of {}, and its weight norm divides by that row's "
            "norm: choose the masks again with {}",
            nested.levels[0],
            lost[0],
            Call("sparsify"),
        )
    if step == 1:
        return (
            "no step of this phase has changed a weight yet, so the learning rate is not to blame: "
            "look at the data, the loss, and what the zeros of the level do to the model"
        )
    return Words("lower {}, or use {}", Param("lr"), Param("clip_norm"))
