"""What a report says of the tensors that were left dense, and why."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from elsa_cli.selection.eligible import Eligible
from elsa_cli.selection.rules import ROLES
from elsa_cli.storage.header import TensorSpec

__all__ = ["LeftRow", "RoleRow", "by_role", "left_rows"]


@dataclass(frozen=True)
class LeftRow:
    """One tensor that is dense at every level.

    Attributes:
        name: Its name.
        shape: Its shape.
        dtype: Its dtype.
        numel: Its elements.
        role: What it is, a key of `elsa_cli.selection.rules.ROLES`.
        reason: What told the role, or what else keeps it dense.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    numel: int
    role: str
    reason: str


@dataclass(frozen=True)
class RoleRow:
    """What was left dense, by role.

    Attributes:
        role: The role.
        tensors: Number of tensors.
        parameters: Their elements.
        example: The name of the largest one.
    """

    role: str
    tensors: int
    parameters: int
    example: str


def left_rows(
    eligible: Eligible, tensors: Sequence[TensorSpec], skipped: Sequence[str] = ()
) -> tuple[LeftRow, ...]:
    """Return a row for each tensor that is not pruned.

    Args:
        eligible: What was chosen.
        tensors: All tensors of the file.
        skipped: Weights that n:m groups do not fit.
    """
    infos = {t.name: t for t in tensors}
    left = [(name, told.role, told.reason) for name, told in eligible.left().items()]
    left = [
        (name, role, reason if role != "weight" else _why(infos[name]))
        for name, role, reason in left
    ]
    told = eligible.roles.told
    left += [(n, told[n].role, "the groups do not fit its input dimension") for n in skipped]
    return tuple(
        LeftRow(n, infos[n].shape, infos[n].dtype.name, infos[n].numel, role, reason)
        for n, role, reason in left
    )


def _why(weight: TensorSpec) -> str:
    """Return what keeps a weight dense."""
    return "left out by the options" if weight.numel else "it has no elements"


def by_role(left: Sequence[LeftRow]) -> tuple[RoleRow, ...]:
    """Return a row a role, in the order of `ROLES`."""
    rows = []
    for role in ROLES:
        own = [row for row in left if row.role == role]
        if own:
            largest = max(own, key=lambda row: row.numel)
            rows.append(RoleRow(role, len(own), sum(r.numel for r in own), largest.name))
    return tuple(rows)
