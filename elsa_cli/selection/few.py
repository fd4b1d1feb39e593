"""The k largest of so few keys that all of them can be held at once, and sorted."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from elsa_cli.core.hashing import Hashes, position_hash
from elsa_cli.core.work import Progress, Scratch
from elsa_cli.selection.cut import Cut
from elsa_cli.selection.scan import Scan

__all__ = ["few_cuts"]


def few_cuts(scan: Scan, wanted: Sequence[int], progress: Progress, scratch: Scratch) -> list[Cut]:
    """Return the cuts of so few weights that all their keys can be held at once.

    Example: of the keys 7 3 3 1 three are wanted. The third largest is 3, one key is above it, so
    two of the tied ones are kept: the cut is (3, the second largest hash among them).
    """
    parts, positions = [], []
    for piece in scan.pieces():
        parts.append(scan.keys(piece, scratch).copy())
        positions.append((scan.position(piece), piece.count))
        progress(piece.count * piece.tensor.dtype.itemsize)
    keys = np.concatenate(parts) if len(parts) > 1 else parts[0]
    ascending = np.sort(keys)
    found = []
    for want in wanted:
        if want == 0:
            found.append(Cut(1 << 8 * keys.itemsize, 0))  # above every key
            continue
        key = ascending[keys.size - want]
        low, high = (
            np.searchsorted(ascending, key, "left"),
            np.searchsorted(ascending, key, "right"),
        )
        ties = int(high) - (keys.size - want)  # of the tied keys, how many are kept
        if ties == high - low:
            found.append(Cut(int(key), 0))
            continue
        hashes = _hashes_of(np.flatnonzero(keys == key), positions)
        found.append(Cut(int(key), int(np.partition(hashes, hashes.size - ties)[-ties])))
    return found


def _hashes_of(where: NDArray[np.intp], positions: Sequence[tuple[int, int]]) -> Hashes:
    """Return the hashes of weights, by their places among pieces given as (position, count)."""
    starts = np.cumsum([0, *(count for _, count in positions)])
    part = np.searchsorted(starts, where, side="right") - 1
    first = np.array([position for position, _ in positions], np.int64)
    return position_hash((first[part] + where - starts[part]).astype(np.uint64))
