"""Tables that several commands show."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from elsa_cli.ui import Screen, count

if TYPE_CHECKING:
    from elsa_cli.operations.chosen import RoleRow

__all__ = ["show_roles"]


def show_roles(screen: Screen, roles: Sequence[RoleRow]) -> None:
    """Show what was left dense, one row for each role."""
    if roles:
        screen.table(
            ["left dense", "tensors", "parameters", "largest"],
            [[row.role, count(row.tensors), count(row.parameters), row.example] for row in roles],
            texts=("largest",),
        )
