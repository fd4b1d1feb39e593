"""Which networks a checkpoint holds, and which shells make each of them.

The weights are partitioned into shells, and a network is a set of shells. The one kind of
checkpoint today is a ladder of levels: its k-th network is made of the first k shells, the last one
is dense.

Example: levels 0.9 and 0.5 have three networks, 0.9, 0.5 and dense. Of eight weights, owned by
shells 1 0 2 1 0 2 1 2, network 0.9 keeps those of shell 0 and network 0.5 those of shells 0 and 1.
"""

from __future__ import annotations

from collections.abc import Sequence

from elsa_cli.core.level import DENSE, Level

__all__ = ["depth_of", "ladder"]


def ladder(levels: Sequence[Level]) -> tuple[Level, ...]:
    """Return the networks of a checkpoint with these levels, sparsest first and dense last."""
    return (*levels, DENSE)


def depth_of(members: Sequence[Level], level: Level) -> int:
    """Return how many shells, from the first on, make a network."""
    return members.index(level) + 1
