"""Why a loss is not finite: the level's own zeros, something else before any step, or the steps."""

from __future__ import annotations

from elsa_cli.errors import Call, Param, Words
from elsa_cli.models.tensors import dtype_of
from elsa_cli.selection.naming import Siblings
from elsa_cli.selection.rows import normed_dims
from elsa_cli.storage.container import lay_out
from elsa_cli.training.ladder import Nested

__all__ = ["lost_rows", "why_not_finite"]


def lost_rows(nested: Nested) -> list[str]:
    """Return the tensors of which a row that is normalised keeps nothing, at the sparsest level.

    Weight normalisation divides by the norm of each row, which is then 0.
    """
    infos = lay_out((n, dtype_of(t), tuple(t.shape)) for n, t in nested.values.items())
    pruned = [info for info in infos if info.name in nested.owner]
    lost = []
    for name, dim in normed_dims(pruned, Siblings(infos)).items():
        kept = nested.owner[name] == 0
        rows = kept.reshape(1, -1) if dim is None else kept.movedim(dim, 0).flatten(1)
        if not bool(rows.any(dim=1).all()):
            lost.append(name)
    return lost


def why_not_finite(nested: Nested, step: int) -> str:
    """Return what to do about a loss that is not finite.

    Args:
        nested: Weights and masks.
        step: Which step of its phase it is, from 1.
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
