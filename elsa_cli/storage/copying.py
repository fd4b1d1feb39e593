"""Copies of bytes that need not be looked at, cut into steps that any thread can take."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from elsa_cli.storage.source import Extent

__all__ = ["COPY_BYTES", "copy_steps"]

COPY_BYTES = 1 << 24  # bytes a step; small enough that an interrupt is answered at once


def copy_steps(moves: Iterable[tuple[Extent, int]]) -> Iterator[tuple[Extent, int]]:
    """Join moves that adjoin at both ends, and split them into even steps.

    Args:
        moves: What to copy, and the offset in the output where it goes.

    Example: (bytes 0 to 4, to 100) and (bytes 4 to 6, to 104) are one step: (0 to 6, to 100).
    """
    joined: list[tuple[Extent, int]] = []
    for extent, target in moves:
        if joined:
            last, begin = joined[-1]
            follows = last.source is extent.source and last.offset + last.size == extent.offset
            if follows and begin + last.size == target:
                joined[-1] = (last._replace(size=last.size + extent.size), begin)
                continue
        joined.append((extent, target))
    for extent, target in joined:
        for done in range(0, extent.size, COPY_BYTES):
            size = min(COPY_BYTES, extent.size - done)
            yield Extent(extent.source, extent.offset + done, size), target + done
