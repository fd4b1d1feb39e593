"""Tensors in memory as the bytes of a safetensors file.

So everything that reads files reads them too: masks are chosen, and checkpoints written, without a
temporary file.
"""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Mapping, Sequence

from elsa_cli.errors import TruncatedFile
from elsa_cli.storage.header import TensorSpec, encode_header, lay_out
from elsa_cli.storage.source import ByteSource

__all__ = ["MemoryBytes"]


class MemoryBytes(ByteSource):
    """Buffers one behind the other.

    Args:
        name: What to call them in messages.
        parts: The buffers; they are read when they are asked for, and not copied before.
    """

    def __init__(self, name: str, parts: Sequence[memoryview]) -> None:
        self.name = name
        self._parts = [part.cast("B") for part in parts if part.nbytes]
        self._ends = list(itertools.accumulate(part.nbytes for part in self._parts))
        self.size = self._ends[-1] if self._ends else 0

    @classmethod
    def of_tensors(
        cls,
        name: str,
        tensors: Mapping[TensorSpec, memoryview],
        metadata: Mapping[str, str] | None = None,
    ) -> MemoryBytes:
        """Return the bytes of the safetensors file that would hold some tensors.

        Args:
            name: What to call it in messages.
            tensors: The raw bytes of each tensor, contiguous.
            metadata: The `__metadata__` of the file.
        """
        layout = lay_out(tensors)
        data = {spec.name: view for spec, view in tensors.items()}
        header = encode_header(layout, metadata or {})
        return cls(name, [memoryview(header), *(data[t.name] for t in layout)])

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fill `buffer` with the bytes from `offset`; see `ByteSource`."""
        if offset + len(buffer) > self.size:
            raise TruncatedFile(f"ends at byte {self.size:,}", file=self.name)
        done = 0
        part = bisect.bisect_right(self._ends, offset)
        while done < len(buffer):
            view = self._parts[part]
            begin = offset + done - (self._ends[part] - view.nbytes)
            some = view[begin : begin + len(buffer) - done]
            buffer[done : done + len(some)] = some
            done, part = done + len(some), part + 1

    def close(self) -> None:
        """Let go of the buffers."""
        self._parts, self._ends, self.size = [], [], 0
