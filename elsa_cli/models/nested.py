"""A nested network in memory: the dense weights, and which level owns each of them.

A ladder of levels has one stage a level, sparsest first, and a last one for dense. Each prunable
weight is owned by one stage: that of the sparsest level that keeps it. So one small integer a
weight stands for all masks (as in PackNet, arXiv 1711.05769), and masks made from it nest by
construction. With the levels 0.75 and 0.5, eight weights may be owned by

    owner           2  0  1  2  0  2  1  2
    mask of 0.75    0  1  0  0  1  0  0  0      owner <= 0
    mask of 0.5     0  1  1  0  1  0  1  0      owner <= 1
    dense           1  1  1  1  1  1  1  1      owner <= 2
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from elsa_cli.core.level import DENSE, Level
from elsa_cli.models.tensors import choose_bits

__all__ = ["Nested", "owner_of"]


@dataclass
class Nested:
    """A nested network in memory, all tensors in their stored dtypes on the CPU.

    Attributes:
        levels: Stored levels, sparsest first, without dense.
        values: The dense network, by name.
        owner: For each prunable tensor the stage that owns each weight, uint8 in its shape;
            the number of levels stands for dense.
        per_level: Per-level tensors by level and name. A level that is missing begins with those
            of the next sparser one; once all levels are trained, those of dense are in `values`.
    """

    levels: tuple[Level, ...]
    values: dict[str, Tensor]
    owner: dict[str, Tensor]
    per_level: dict[Level, dict[str, Tensor]] = field(default_factory=dict)

    @property
    def stages(self) -> tuple[Level, ...]:
        """The level of each stage: the stored levels, then dense."""
        return (*self.levels, DENSE)

    def state(self, level: Level) -> dict[str, Tensor]:
        """Return the network of a level: its own weights, and +0.0 for all others."""
        stage = self.stages.index(level)
        state = dict(self.values)
        for name, owner in self.owner.items():
            state[name] = choose_bits(owner <= stage, state[name])
        return state | self.per_level.get(level, {})

    def masks(self, stage: int) -> dict[str, Tensor]:
        """Return which weights the level of a stage keeps: bool in the shape of each tensor."""
        return {name: owner <= stage for name, owner in self.owner.items()}

    def kept(self, name: str) -> tuple[int, ...]:
        """Return how many weights of a prunable tensor each stored level keeps, sparsest first."""
        stages = range(len(self.levels))
        return tuple(int((self.owner[name] <= stage).sum()) for stage in stages)


def owner_of(masks: Sequence[Tensor]) -> Tensor:
    """Return the owning stage of each weight, uint8 in the shape of the masks.

    Args:
        masks: The mask of each stored level, bool, sparsest first; they nest.
    """
    owner = torch.zeros(masks[0].shape, dtype=torch.uint8)
    for mask in masks:
        owner += ~mask
    return owner
