"""From a rule to masks: cuts are found first, then masks are made piece by piece."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from elsa_cli.checkpoint.bitmask import Bools
from elsa_cli.checkpoint.container import Container, TensorInfo
from elsa_cli.checkpoint.dtypes import Bits
from elsa_cli.checkpoint.level import Level
from elsa_cli.checkpoint.work import Progress, Scratch, chunk_of, no_progress
from elsa_cli.errors import UsageError
from elsa_cli.selection.density import DISTRIBUTIONS, layer_counts
from elsa_cli.selection.pattern import fits_group, group_masks, group_step, keep_of
from elsa_cli.selection.scan import Piece, Scan, Scorer, positions_of
from elsa_cli.selection.topk import Cut, cuts, kept_mask

__all__ = ["Choice", "Rule", "choose"]


@dataclass(frozen=True)
class Rule:
    """How scores become masks.

    Attributes:
        scope: `global`: all weights compete; `layer`: those of each tensor among themselves.
        distribution: What each layer keeps, by its name in `DISTRIBUTIONS`; None for global.
        group: Weights a group of an n:m pattern, or None for unstructured masks.
    """

    scope: str = "global"
    distribution: str | None = None
    group: int | None = None

    @staticmethod
    def of(scope: str | None, distribution: str | None, group: int | None) -> Rule:
        """Fill in what is left open, and refuse what contradicts.

        Raises:
            UsageError: See the message.
        """
        if scope not in (None, "global", "layer"):
            raise UsageError(f"there is no scope {scope!r}", hint="use global or layer")
        if distribution not in (None, *DISTRIBUTIONS):
            names = " or ".join(DISTRIBUTIONS)
            raise UsageError(f"there is no distribution {distribution!r}", hint=f"use {names}")
        if group is not None:
            if group < 2:
                raise UsageError(f"--group {group} is not a group", hint="use 2 or more, such as 4")
            if scope == "global" or distribution == "erk":
                raise UsageError(
                    "--group gives every layer the same density",
                    hint="leave out --scope global and --distribution erk",
                )
            return Rule("layer", "uniform", group)
        if scope == "global" and distribution is not None:
            raise UsageError(
                "--distribution sets what each layer keeps", hint="use it with --scope layer"
            )
        if scope == "layer" or distribution is not None:
            return Rule("layer", distribution or "uniform")
        return Rule()

    def fits(self, tensor: TensorInfo) -> bool:
        """Tell whether a tensor's shape suits the pattern."""
        return self.group is None or fits_group(tensor.shape, self.group)


@dataclass(frozen=True)
class _Part:
    """Tensors that are compared with each other, and where they are cut, level by level."""

    scan: Scan
    cuts: Sequence[Cut]


class Choice:
    """The masks of all levels, made a piece at a time."""

    def __init__(self, parts: Sequence[_Part], group: int | None, keep: Sequence[int]) -> None:
        """Keep the cuts, or the n:m pattern."""
        self._parts = parts
        self._group = group
        self._keep = keep

    def pieces(self) -> Iterator[tuple[int, Piece]]:
        """Yield (part, piece) for all weights."""
        for at, part in enumerate(self._parts):
            for piece in part.scan.pieces():
                yield at, piece

    def masks(
        self, part: int, piece: Piece, scratch: Scratch, finite: bool = True
    ) -> Iterator[Bools]:
        """Yield the mask of each level for a piece, sparsest first; each valid until the next.

        Args:
            part: As `pieces` gave it.
            piece: As `pieces` gave it.
            scratch: The thread's buffers.
            finite: Whether NaN and infinity are errors.

        Raises:
            NonFinite: There is NaN or infinity among the weights.
        """
        scan = self._parts[part].scan
        keys: Bits = scan.keys(piece, scratch)
        if finite:
            scan.check_finite(piece, scratch)
        if self._group is not None:
            yield from group_masks(
                keys, piece.tensor.shape, self._group, self._keep, scan.position(piece)
            )
        for cut in self._parts[part].cuts:
            yield kept_mask(scan, piece, keys, cut, scratch)


def choose(
    container: Container,
    tensors: Sequence[TensorInfo],
    levels: Sequence[Level],
    scorer: Scorer,
    rule: Rule,
    threads: int,
    progress: Progress = no_progress,
) -> Choice:
    """Find what each level keeps.

    Args:
        container: The file with the weights.
        tensors: The prunable tensors; all fit the rule.
        levels: Sparsest first.
        scorer: The sparsifier.
        rule: Scope, distribution, pattern.
        threads: Number of threads; the result does not depend on it.
        progress: Told of the bytes read.

    Raises:
        UsageError: A level does not suit the pattern.
    """
    first = positions_of(tensors)
    if rule.group is not None:
        keep = [keep_of(level, rule.group) for level in levels]
        steps = [group_step(t.shape, rule.group, chunk_of(t.dtype.itemsize)) for t in tensors]
        parts = [
            _Part(Scan(container, [t], first, scorer, step), ())
            for t, step in zip(tensors, steps, strict=True)
        ]
        return Choice(parts, rule.group, keep)
    if rule.distribution is None:
        scan = Scan(container, tensors, first, scorer)
        wanted = [level.kept(scan.numel) for level in levels]
        return Choice([_Part(scan, cuts(scan, wanted, threads, progress))], None, ())
    shapes = [t.shape for t in tensors]
    counts = [layer_counts(rule.distribution, shapes, level) for level in levels]
    parts = []
    for t, per_level in zip(tensors, zip(*counts, strict=True), strict=True):
        scan = Scan(container, [t], first, scorer)
        parts.append(_Part(scan, cuts(scan, per_level, threads, progress)))
    return Choice(parts, None, ())
