"""The contract between those who have a nested checkpoint, in whatever form, and those who use it.

A nested source is a dense network, the masks of its levels, and what differs by level. A nested
file is one, a packed file, a dense checkpoint with sparse copies of it, a choice of masks that is
still being made, a network in memory. It says what its tensors are, never where they lie: whoever
uses it knows no file, no descriptor and no offset.

Each kind passes the tests in `tests/checkpoint/test_sources.py`.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np

from elsa_cli.checkpoint.manifest import Manifest
from elsa_cli.checkpoint.members import depth_of
from elsa_cli.core.batch import Batch, batches, largest_first
from elsa_cli.core.bits import Bytes, zero_unkept
from elsa_cli.core.closing import Closing
from elsa_cli.core.dtypes import Bits
from elsa_cli.core.level import DENSE, Level
from elsa_cli.core.work import Progress, Scratch, chunk_of
from elsa_cli.storage.container import Container
from elsa_cli.storage.header import TensorSpec
from elsa_cli.storage.source import Extent

__all__ = ["NestedSource", "Piece"]


class Piece(NamedTuple):
    """Weights of prunable tensors, and which of them each level keeps.

    Attributes:
        batch: Which weights: of one tensor, or of several small ones.
        cells: Their raw bits, as `Batch` has them; valid until the next piece.
        masks: The packed bits of every level, sparsest first; the mask of each tensor begins on a
            byte.
    """

    batch: Batch
    cells: Bits
    masks: list[Bytes]


class NestedSource(Closing):
    """A dense network, nested masks of it, and what differs by level.

    Attributes:
        name: A path or the like, for messages.
        manifest: Levels and prunable tensors. A source whose masks are still to be made has empty
            counts and digests there; the writers fill them in.
        metadata: Foreign metadata of the dense network.
        tensors: All tensors of the dense network, in the order of a file.
        passes: How often `prepare` goes over the prunable weights, for progress.
    """

    name: str
    manifest: Manifest
    metadata: Mapping[str, str]
    tensors: Mapping[str, TensorSpec]
    passes: int = 0

    @property
    def available(self) -> tuple[Level, ...]:
        """The networks that can be read, sparsest first."""
        return self.manifest.members

    def require(self, level: Level) -> Level:
        """Return the stored level that equals `level`.

        Raises:
            LevelNotStored: There is none.
            CutFile: The packed file ends before it.
        """
        return self.manifest.find(level, self.name)

    def prepare(self, threads: int, progress: Progress) -> None:
        """Do what has to be done before the first piece can be read."""

    def wholes(self) -> Iterator[Batch]:
        """Yield all prunable tensors, in order: several small ones at a time."""
        tensors = self.manifest.tensors
        return batches([t.numel for t in tensors], [t.dtype for t in tensors], chunk_of)

    def jobs(self) -> Iterator[Batch]:
        """Yield all prunable weights in independent batches, each begun at a block of a digest.

        Where pieces can be read from anywhere, these are parts of tensors; else whole tensors.
        """
        return self.wholes()

    @abstractmethod
    def pieces(self, batch: Batch, scratch: Scratch) -> Iterator[Piece]:
        """Yield the weights of a batch and their masks in pieces, in order.

        Args:
            batch: From `wholes` or `jobs`.
            scratch: The buffers of this thread.

        Raises:
            BadManifest: The source is damaged.
        """

    def masks(self, batch: Batch) -> Iterator[tuple[Batch, list[Bytes]]]:
        """Yield the masks of a batch of `wholes` in pieces, without the weights.

        Of a packed file that is cut, only those of the levels that it holds.
        """
        scratch = Scratch()
        for piece in self.pieces(batch, scratch):
            yield piece.batch, piece.masks

    @abstractmethod
    def per_level(self, level: Level) -> Mapping[str, bytes]:
        """Return the bytes of the tensors that a level has for itself; none for dense."""

    @abstractmethod
    def verbatim(self, level: Level) -> Iterator[tuple[TensorSpec, Extent]]:
        """Yield tensors of a network that can be copied without looking at them.

        Those that are neither prunable nor per-level are always among them; at dense, so are the
        per-level ones, and prunable tensors whose dense bytes lie together.
        """

    def extents_in(self, container: Container, level: Level) -> Iterator[tuple[TensorSpec, Extent]]:
        """Do what `verbatim` has to do where the whole dense network is in one container."""
        left_out: set[str] = set()
        if level != DENSE:
            left_out = {t.name for t in self.manifest.tensors} | set(self.manifest.per_level)
        for name, spec in self.tensors.items():
            if name not in left_out:
                yield spec, container.extent(spec)

    def network_jobs(self, level: Level) -> Iterator[Batch]:
        """Yield independent batches of what `verbatim` leaves out of a network, for `network`."""
        copied = {spec.name for spec, _ in self.verbatim(level)}
        if any(t.name not in copied for t in self.manifest.tensors):
            yield from largest_first(self.jobs())

    def network(
        self, batch: Batch, level: Level, scratch: Scratch
    ) -> Iterator[tuple[Batch, memoryview]]:
        """Yield the bytes of a batch of one network in pieces, in order: other weights are +0.0.

        Args:
            batch: From `network_jobs`.
            level: A stored level or dense.
            scratch: The buffers of this thread.
        """
        depth = depth_of(self.manifest.members, level)
        for piece in self.pieces(batch, scratch):
            if level != DENSE:
                zero_unkept(piece.cells, piece.batch.cell_mask(piece.masks[depth - 1]), scratch)
            yield piece.batch, piece.cells.view(np.uint8).data

    def close(self) -> None:
        """Let go of what is held; closing twice is harmless."""
