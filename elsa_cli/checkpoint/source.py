"""What nested and packed checkpoints have in common for those who read them."""

from __future__ import annotations

import os
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping

import numpy as np

from elsa_cli.checkpoint.manifest import Manifest
from elsa_cli.checkpoint.names import foreign
from elsa_cli.core.batch import Batch, Integers
from elsa_cli.core.bits import Bytes
from elsa_cli.core.closing import Closing
from elsa_cli.core.level import Level
from elsa_cli.core.work import Scratch
from elsa_cli.errors import BadManifest
from elsa_cli.storage.container import Container, TensorInfo

__all__ = ["Reader", "Sink"]

# Takes the bytes of the weights of a batch of manifest tensors; they are reused afterwards.
Sink = Callable[[Batch, memoryview], None]


class Reader(Closing):
    """An open nested or packed checkpoint.

    Attributes:
        container: The file.
        manifest: What it says of itself.
        metadata: Foreign metadata.
        dense: Name, dtype and shape of the dense network's tensors, in the order of a file.
        available: Levels that can be extracted, sparsest first; dense is the last.
    """

    dense: Mapping[str, TensorInfo]
    available: tuple[Level, ...]

    def __init__(self, container: Container, manifest: Manifest) -> None:
        """Keep the file and the manifest."""
        self.container = container
        self.manifest = manifest
        self.metadata = foreign(container.metadata)

    @property
    def path(self) -> str:
        """The file's path."""
        return self.container.path

    def damaged(self, what: str, how: str) -> BadManifest:
        """Return the error that says so."""
        return BadManifest(
            how, file=self.path, tensor=what, hint="the file is damaged; make or fetch it again"
        )

    @abstractmethod
    def per_level(self, level: Level) -> Mapping[str, bytes]:
        """Return the bytes of the per-level tensors of a stored level; none for dense."""

    @abstractmethod
    def verbatim(self, level: Level) -> Iterator[TensorInfo]:
        """Yield the tensors whose bytes in the file are those of the level."""

    @abstractmethod
    def wholes(self) -> Iterator[Batch]:
        """Yield all manifest tensors, in order, for `masks_of`: several small ones at a time."""

    @abstractmethod
    def jobs(self, level: Level) -> Iterator[Batch]:
        """Yield independent batches of the tensors that `verbatim` leaves out."""

    @abstractmethod
    def produce(self, batch: Batch, level: Level, scratch: Scratch, sink: Sink) -> None:
        """Compute one batch of a level and hand its bytes to `sink`, piece after piece."""

    @abstractmethod
    def masks_of(self, batch: Batch) -> Iterator[tuple[Batch, list[Bytes]]]:
        """Yield pieces of whole tensors and the packed bits of every level held, in order.

        Sparsest level first; the mask of each tensor begins on a byte.
        """

    def masks(self, at: int) -> Iterator[tuple[int, int, list[Bytes]]]:
        """Yield (start, count, packed bits of every level held) of manifest tensor `at`, in order.

        Sparsest level first; every start is a multiple of 8.
        """
        entry = self.manifest.tensors[at]
        for piece, packed in self.masks_of(Batch(at, [entry.numel], [entry.dtype])):
            yield piece.start, piece.count, packed

    def by_entry(self, places: Mapping[str, int]) -> Integers:
        """Return the place of each manifest tensor, for `Batch.moves`."""
        return np.array([places[t.name] for t in self.manifest.tensors], np.int64)

    def require(self, level: Level) -> Level:
        """Return the stored level that equals `level`.

        Raises:
            LevelNotStored: There is none.
            CutFile: The packed file ends before it.
        """
        return self.manifest.find(level, self.path)

    def close(self) -> None:
        """Close the file."""
        self.container.close()

    def __fspath__(self) -> str:
        """Return the path, so that a reader stands where a path does."""
        return os.fspath(self.path)
