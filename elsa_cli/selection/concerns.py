"""What a user should know of a choice of masks: levels and tensors that ended up strangely."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from elsa_cli.core.level import Level
from elsa_cli.errors import Call, Param, Words
from elsa_cli.selection.eligible import Eligible
from elsa_cli.text import counted, listed

__all__ = ["Counted", "concerns"]

SHARE = 3  # times a tensor's share of the weights that its share of what is kept is too much
PART = 0.1  # of what a level keeps: below, no tensor is too much


class Counted(Protocol):
    """A prunable tensor, and how many of its weights each level keeps."""

    @property
    def name(self) -> str:
        """Its name."""

    @property
    def numel(self) -> int:
        """Its weights."""

    @property
    def kept(self) -> Sequence[int]:
        """Kept weights at each level, sparsest first."""


def concerns(levels: Sequence[Level], entries: Sequence[Counted], eligible: Eligible) -> list[str]:
    """Return warnings, a line each, that name levels and tensors.

    Args:
        levels: Sparsest first.
        entries: The prunable tensors with their kept counts.
        eligible: How they were chosen.
    """
    found = [*_unknown(eligible), *_taken(eligible)]
    total = sum(t.numel for t in entries)
    for k, level in enumerate(levels):
        kept = sum(t.kept[k] for t in entries)
        if not kept:
            found.append(f"level {level} keeps nothing of any tensor")
            continue
        dead = [t.name for t in entries if t.numel and not t.kept[k]]
        if dead:
            found.append(
                Words(
                    "level {} keeps nothing of {}: {}; {} gives each its share",
                    level,
                    counted(len(dead), "tensor"),
                    listed(dead),
                    Call("sparsify", Param("scope", "layer")),
                )
            )
        rich = [
            f"{t.name} ({100 * part:.0f} % of what is kept, {100 * t.numel / total:.0f} % of all)"
            for t in entries
            for part in (t.kept[k] / kept,)
            if part > PART and part > SHARE * t.numel / total
        ]
        if rich:
            found.append(
                Words(
                    "level {} keeps far more than its share of {}: {}; {} leaves a tensor dense",
                    level,
                    counted(len(rich), "tensor"),
                    listed(rich),
                    Param("exclude"),
                )
            )
    return found


def _unknown(eligible: Eligible) -> list[str]:
    told = eligible.roles.told
    names = [t.name for t in eligible.tensors if not told[t.name].known]
    if not names:
        return []
    return [
        Words(
            "no rule knows the name of {} taken for weights: {}; {} leaves a tensor dense",
            counted(len(names), "tensor"),
            listed(names),
            Param("exclude"),
        )
    ]


def _taken(eligible: Eligible) -> list[str]:
    if not eligible.taken:
        return []
    told = eligible.roles.told
    names = [f"{name} ({told[name].role})" for name in eligible.taken]
    taken = counted(len(names), "tensor")
    return [
        Words("{} takes {} of other roles than weight: {}", Param("include"), taken, listed(names))
    ]
