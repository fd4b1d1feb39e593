"""What nested and packed checkpoints have in common for those who read them."""

from __future__ import annotations

import os
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from elsa_cli.checkpoint.bitmask import Bytes
from elsa_cli.checkpoint.closing import Closing
from elsa_cli.checkpoint.container import Container, TensorInfo
from elsa_cli.checkpoint.level import Level
from elsa_cli.checkpoint.manifest import Manifest
from elsa_cli.checkpoint.names import foreign
from elsa_cli.checkpoint.work import Scratch
from elsa_cli.errors import BadManifest

__all__ = ["Job", "Reader", "Sink"]

# Takes bytes of a tensor: its name, the offset of the bytes in it, the bytes (reused afterwards).
Sink = Callable[[str, int, memoryview], None]


@dataclass(frozen=True)
class Job:
    """A piece of one prunable tensor: weights start … start + count of manifest entry `entry`."""

    entry: int
    start: int
    count: int


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
    def jobs(self, level: Level) -> Iterator[Job]:
        """Yield independent pieces of the tensors that `verbatim` leaves out."""

    @abstractmethod
    def produce(self, job: Job, level: Level, scratch: Scratch, sink: Sink) -> None:
        """Compute one piece of a level and hand its bytes to `sink`."""

    @abstractmethod
    def masks(self, at: int) -> Iterator[tuple[int, int, list[Bytes]]]:
        """Yield (start, count, packed bits of every level held) of manifest tensor `at`, in order.

        Sparsest level first; every start is a multiple of 8.
        """

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
