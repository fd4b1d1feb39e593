"""A dense checkpoint whose masks are still to be chosen, as a nested source."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from elsa_cli.checkpoint.manifest import Manifest
from elsa_cli.checkpoint.source import NestedSource, Piece
from elsa_cli.core.batch import Batch, batches
from elsa_cli.core.bits import Bytes
from elsa_cli.core.level import Level
from elsa_cli.core.work import Progress, Scratch, chunk_of
from elsa_cli.selection.masks import Choice, Rule, Traits, choose
from elsa_cli.selection.scan import Piece as Scanned
from elsa_cli.selection.scores import Scorer
from elsa_cli.storage.container import Container, TensorInfo, TensorSpec
from elsa_cli.storage.source import Extent

__all__ = ["Choosing", "ChosenSource"]


@dataclass(frozen=True)
class Choosing:
    """How masks are chosen.

    Attributes:
        tensors: The prunable tensors, in the order of the file; all fit the rule.
        scorer: The sparsifier.
        rule: Scope, distribution, pattern.
        traits: What is known of some tensors.
        finite: Whether NaN and infinity are errors.
    """

    tensors: Sequence[TensorInfo]
    scorer: Scorer
    rule: Rule
    traits: Traits
    finite: bool = True


class ChosenSource(NestedSource):
    """A dense checkpoint, and masks that are made from its weights as they are read.

    Args:
        container: The dense checkpoint; it stays open.
        choosing: How masks are chosen.
        draft: The manifest, without counts and digests.
    """

    def __init__(self, container: Container, choosing: Choosing, draft: Manifest) -> None:
        self._container = container
        self._choosing = choosing
        self.name = container.path
        self.manifest = draft
        self.metadata = container.metadata
        self.tensors: Mapping[str, TensorSpec] = {t.name: t.spec for t in container.tensors}
        self.passes = 0 if choosing.rule.group else 2  # groups are chosen as they are written
        self._choice = Choice(())
        # What the choice is made in: for each prunable tensor the pieces of it, with their part.
        self._scanned: list[list[tuple[int, Scanned]]] = []

    def prepare(self, threads: int, progress: Progress) -> None:
        """Find what each level keeps.

        Raises:
            UsageError: A level does not suit the pattern or the tensors.
        """
        choosing = self._choosing
        self._choice = choose(
            self._container,
            choosing.tensors,
            self.manifest.levels,
            choosing.scorer,
            choosing.rule,
            threads,
            progress,
            choosing.traits,
        )
        entry = {t.name: n for n, t in enumerate(choosing.tensors)}
        self._scanned = [[] for _ in choosing.tensors]
        for part, scanned in self._choice.pieces():
            self._scanned[entry[scanned.tensor.name]].append((part, scanned))

    def jobs(self) -> Iterator[Batch]:
        """Yield weights in the pieces in which they are chosen, several small tensors at a time."""
        tensors = self.manifest.tensors
        for batch in batches([t.numel for t in tensors], [t.dtype for t in tensors], chunk_of):
            # Groups of an n:m pattern do not end where a block of a digest does: one after another.
            if batch.several or self._choosing.rule.group:
                yield batch
                continue
            for _, scanned in self._scanned[batch.first]:
                yield Batch(batch.first, [scanned.count], batch.dtypes, scanned.start)

    def pieces(self, batch: Batch, scratch: Scratch) -> Iterator[Piece]:
        """Yield weights and masks; see `NestedSource`.

        Raises:
            NonFinite: There is NaN or infinity among the weights.
        """
        if not batch.several:
            end = batch.start + batch.count
            for part, scanned in self._scanned[batch.first]:
                if batch.start <= scanned.start < end:
                    piece = Batch(batch.first, [scanned.count], batch.dtypes, scanned.start)
                    masks = self._masks(part, scanned, scratch)
                    yield Piece(piece, self._choice.bits(part, scanned, scratch), masks)
            return
        cells = scratch.array("several", batch.cells, batch.cell)
        raw, done = cells.view(np.uint8), 0
        found: list[list[Bytes]] = []
        for tensor in range(batch.first, batch.rows.stop):
            for part, scanned in self._scanned[tensor]:
                found.append([mask.copy() for mask in self._masks(part, scanned, scratch)])
                bits = self._choice.bits(part, scanned, scratch).view(np.uint8)
                raw[done : done + bits.size] = bits
                done += bits.size
        masks = [np.concatenate(level) for level in zip(*found, strict=True)]
        yield Piece(batch, cells, masks)

    def _masks(self, part: int, scanned: Scanned, scratch: Scratch) -> list[Bytes]:
        masks, _ = self._choice.packed(part, scanned, scratch, self._choosing.finite)
        return masks

    def per_level(self, level: Level) -> Mapping[str, bytes]:
        """Return nothing: no tensor differs by level yet."""
        return {}

    def verbatim(self, level: Level) -> Iterator[tuple[TensorSpec, Extent]]:
        """Yield the tensors whose bytes in the dense file are those of the level."""
        return self.extents_in(self._container, level)
