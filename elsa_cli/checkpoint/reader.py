"""What readers of nested and packed files have in common."""

from __future__ import annotations

import os
from abc import abstractmethod
from collections.abc import Iterator, Mapping

import numpy as np

from elsa_cli.checkpoint.manifest import Manifest
from elsa_cli.checkpoint.names import foreign
from elsa_cli.checkpoint.source import NestedSource
from elsa_cli.core.batch import Integers
from elsa_cli.core.work import Progress
from elsa_cli.errors import BadManifest
from elsa_cli.storage.container import Container

__all__ = ["Reader"]


class Reader(NestedSource):
    """An open nested or packed file.

    Attributes:
        container: The file.
    """

    def __init__(self, container: Container, manifest: Manifest) -> None:
        self.container = container
        self.name = container.path
        self.manifest = manifest
        self.metadata = foreign(container.metadata)

    @property
    def size(self) -> int:
        """Bytes of the file."""
        return self.container.size

    @property
    def before_levels(self) -> int:
        """Bytes of the file that every level needs."""
        return self.size

    @abstractmethod
    def wrong_digests(self, threads: int, progress: Progress) -> tuple[int, list[str]]:
        """Compare all digests; return how many there are, and of what those are that differ."""

    def unfinished(self) -> Iterator[str]:
        """Yield what the file has of a part that it does not have whole."""
        return iter(())

    def damaged(self, what: str, how: str) -> BadManifest:
        """Return the error that says so."""
        return BadManifest(
            how, file=self.name, tensor=what, hint="the file is damaged; make or fetch it again"
        )

    def by_entry(self, places: Mapping[str, int]) -> Integers:
        """Return the place of each manifest tensor, for `Batch.moves`."""
        return np.array([places[t.name] for t in self.manifest.tensors], np.int64)

    def close(self) -> None:
        """Close the file."""
        self.container.close()

    def __fspath__(self) -> str:
        """Return the path, so that a reader stands where a path does."""
        return os.fspath(self.name)
