"""Where bytes come from: the contract that everything that reads a checkpoint is written against.

A local file is one kind of byte source, tensors in memory are another. Each kind is one file in
this room and passes the tests in `tests/storage/test_sources.py`.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import NamedTuple

from elsa_cli.core.closing import Closing

__all__ = ["ByteSource", "Extent"]


class ByteSource(Closing):
    """Bytes at offsets, read from any thread.

    Attributes:
        name: A path or an address, for messages.
        size: Number of bytes.
    """

    name: str
    size: int

    @property
    def fd(self) -> int | None:
        """A descriptor from which the kernel can copy the same bytes, if there is one."""
        return None

    @abstractmethod
    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fill `buffer` (bytes) with the bytes from `offset`.

        Raises:
            InputError: They cannot be read.
            TruncatedFile: The source ends before the buffer is full.
        """


class Extent(NamedTuple):
    """Some bytes of a source: what can be copied without looking at it.

    Attributes:
        source: Where they are.
        offset: Where they begin, in bytes.
        size: How many there are.
    """

    source: ByteSource
    offset: int
    size: int
