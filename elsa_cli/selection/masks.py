"""From a rule to masks: cuts are found first, then masks are made piece by piece."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from elsa_cli.core.bits import Bytes
from elsa_cli.core.dtypes import Bits
from elsa_cli.core.kernels.selecting import selecting
from elsa_cli.core.level import Level
from elsa_cli.core.work import Progress, Scratch, chunk_of, no_progress, run, threads_for
from elsa_cli.errors import Param, UsageError, Words
from elsa_cli.selection.cut import Cut, keep
from elsa_cli.selection.density import DISTRIBUTIONS, layer_counts
from elsa_cli.selection.eligible import Eligible
from elsa_cli.selection.orientation import input_dims
from elsa_cli.selection.pattern import fits_group, group_masks, group_step, keep_of
from elsa_cli.selection.rows import normed_dims
from elsa_cli.selection.scaled import Factors, Grid
from elsa_cli.selection.scan import Piece, Scan, positions_of
from elsa_cli.selection.scores import Scorer
from elsa_cli.selection.topk import DIRECT, cuts
from elsa_cli.storage.container import Container, TensorInfo, TensorSpec

__all__ = ["Choice", "Rule", "Traits", "choose"]


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
                raise UsageError(
                    Words("{} is not a group", Param("group", group)),
                    hint="use 2 or more, such as 4",
                )
            if scope == "global" or distribution == "erk":
                raise UsageError(
                    Words("{} gives every layer the same density", Param("group")),
                    hint=Words(
                        "leave out {} and {}",
                        Param("scope", "global"),
                        Param("distribution", "erk"),
                    ),
                )
            return Rule("layer", "uniform", group)
        if scope == "global" and distribution is not None:
            raise UsageError(
                Words("{} sets what each layer keeps", Param("distribution")),
                hint=Words("use it with {}", Param("scope", "layer")),
            )
        if scope == "layer" or distribution is not None:
            return Rule("layer", distribution or "uniform")
        return Rule()

    def fits(self, tensor: TensorInfo, traits: Traits) -> bool:
        """Tell whether a tensor suits the pattern.

        Its input dimension splits into groups, and none of the groups lies across rows of a weight
        norm, which could then lose all their weights.
        """
        if self.group is None:
            return True
        dim = traits.dims[tensor.name]
        return fits_group(tensor.shape, self.group, dim) and traits.rows.get(tensor.name) != dim


@dataclass(frozen=True)
class Traits:
    """What has to be known of some tensors before their weights are compared.

    Attributes:
        dims: The input dimension of each tensor, for n:m patterns.
        rows: Of vectors of a weight norm, the dimension whose rows must not lose all weights, or
            None for one row of everything.
        scales: Of FP8 codes, the tensor of their scales and how these lie over them.
    """

    dims: Mapping[str, int] = field(default_factory=dict)
    rows: Mapping[str, int | None] = field(default_factory=dict)
    scales: Mapping[str, tuple[TensorSpec, Grid]] = field(default_factory=dict)

    @staticmethod
    def of(
        eligible: Eligible,
        group: int | None = None,
        given_dims: Sequence[tuple[str, int]] = (),
        metadata: Mapping[str, str] | None = None,
    ) -> Traits:
        """Return what is known of eligible tensors.

        Raises:
            UsageError: A dimension is given that does not exist.
        """
        roles, tensors = eligible.roles, eligible.tensors
        names = {t.name for t in tensors}
        return Traits(
            {} if group is None else input_dims(tensors, roles, given_dims, metadata),
            normed_dims(tensors, roles.siblings),
            {n: scale for n, scale in roles.quantised.scales.items() if n in names},
        )


@dataclass(frozen=True)
class _Part:
    """Tensors that are compared with each other, and where they are cut, level by level."""

    scan: Scan
    cuts: Sequence[Cut]


class Choice:
    """The masks of all levels, made a piece at a time."""

    def __init__(
        self,
        parts: Sequence[_Part],
        group: int | None = None,
        dims: Mapping[str, int] | None = None,
        best: Sequence[int] = (),
    ) -> None:
        """Keep the cuts, or the n:m pattern."""
        self._parts = parts
        self._group = group
        self._dims = dims or {}
        self._best = best

    def pieces(self) -> Iterator[tuple[int, Piece]]:
        """Yield (part, piece) for all weights."""
        for at, part in enumerate(self._parts):
            for piece in part.scan.pieces():
                yield at, piece

    def bits(self, part: int, piece: Piece, scratch: Scratch) -> Bits:
        """Return the raw bits of the piece whose masks were made last, (count,)."""
        return self._parts[part].scan.last_bits(piece, scratch)

    def packed(
        self, part: int, piece: Piece, scratch: Scratch, finite: bool = True
    ) -> tuple[list[Bytes], list[int]]:
        """Return the masks of a piece and how many weights they keep, sparsest first.

        A mask is (ceil(count / 8),) uint8, one bit a weight in little bit order, its spare bits 0;
        it is valid until the next call with the same scratch.

        Args:
            part: As `pieces` gave it.
            piece: As `pieces` gave it.
            scratch: The thread's buffers.
            finite: Whether NaN and infinity are errors.

        Raises:
            NonFinite: There is NaN or infinity among the weights.
        """
        scan = self._parts[part].scan
        bits, magnitude = scan.unsigned(piece, scratch)
        if finite:
            scan.check_finite(piece, scratch)
        position = scan.position(piece)
        if self._group is not None:
            shape, dim = piece.tensor.shape, self._dims[piece.tensor.name]
            return group_masks(
                scan.kernels,
                bits,
                magnitude,
                shape,
                self._group,
                dim,
                self._best,
                position,
                scratch,
            )
        return keep(scan.kernels, bits, magnitude, self._parts[part].cuts, position, scratch)


def choose(
    container: Container,
    tensors: Sequence[TensorInfo],
    levels: Sequence[Level],
    scorer: Scorer,
    rule: Rule,
    threads: int,
    progress: Progress = no_progress,
    traits: Traits | None = None,
    direct: int = DIRECT,
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
        traits: What is known of some tensors.
        direct: Of fewer weights than this, all are held at once.

    Raises:
        UsageError: A level does not suit the pattern, or keeps fewer weights than there are rows
            that have to keep one.
    """
    traits = traits or Traits()
    first = positions_of(tensors)
    by_name = {t.name: t for t in tensors}
    factors = {
        name: Factors(container, scale, by_name[name], grid)
        for name, (scale, grid) in traits.scales.items()
        if name in by_name
    }

    kernels = selecting(sum(t.nbytes for t in tensors))

    def scan_of(some: Sequence[TensorInfo], step: int | None = None) -> Scan:
        return Scan(container, some, first, scorer, step, factors, kernels)

    if rule.group is not None:
        dims = {t.name: traits.dims.get(t.name, 1) for t in tensors}
        best = [keep_of(level, rule.group) for level in levels]
        steps = [
            group_step(t.shape, rule.group, dims[t.name], chunk_of(t.dtype.itemsize))
            for t in tensors
        ]
        parts = [_Part(scan_of([t], step), ()) for t, step in zip(tensors, steps, strict=True)]
        return Choice(parts, rule.group, dims, best)
    if rule.distribution is None:
        scan = scan_of(tensors)
        wanted = [level.kept(scan.numel) for level in levels]
        _protect(scan, traits.rows, levels, wanted)
        return Choice([_Part(scan, cuts(scan, wanted, threads, progress, direct=direct))])
    shapes = [t.shape for t in tensors]
    counts = [layer_counts(rule.distribution, shapes, level) for level in levels]
    layers = list(zip(tensors, zip(*counts, strict=True), strict=True))
    found: list[_Part | None] = [None] * len(layers)

    def cut(at: int, inner_threads: int, scratch: Scratch) -> None:
        t, kept = layers[at]
        scan = scan_of([t])
        _protect(scan, traits.rows, levels, kept)
        found[at] = _Part(scan, cuts(scan, kept, inner_threads, progress, scratch, direct=direct))

    # Large layers one after the other, each on all threads; small ones side by side.
    small = [at for at, (t, _) in enumerate(layers) if t.numel < direct]
    for at in sorted({*range(len(layers))} - {*small}):
        cut(at, threads, Scratch())
    sizes = [layers[at][0].numel for at in small]
    few = threads_for(threads, sizes)
    run(small, lambda at, scratch: cut(at, 1, scratch), Scratch, few)
    return Choice([part for part in found if part is not None])


def _protect(
    scan: Scan, rows: Mapping[str, int | None], levels: Sequence[Level], wanted: Sequence[int]
) -> None:
    """Let rows keep a weight each, and refuse levels that keep fewer weights than that."""
    if not rows or not any(t.name in rows for t in scan.tensors):
        return
    count = scan.find_champions(rows)
    for level, want in zip(levels, wanted, strict=True):
        if want < count:
            raise UsageError(
                f"level {level} keeps {want:,} weights, but weight norm has {count:,} rows that "
                "have to keep one each",
                tensor=next(t.name for t in scan.tensors if t.name in rows),
                hint=Words(
                    "take a lower level, or leave these tensors out with {}", Param("exclude")
                ),
            )
