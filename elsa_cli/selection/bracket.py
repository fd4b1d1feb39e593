"""Where a cut can lie: brackets, the tallies that narrow them, and the cut at the end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from elsa_cli.core.dtypes import Bits
from elsa_cli.selection.scan import Hashes, Piece

__all__ = ["BIN_BITS", "MAX_HASH", "Bracket", "Cut", "Tally", "narrow"]

BIN_BITS = 16
GATHER = 1 << 16  # weights that are few enough to be gathered and sorted
MAX_HASH = (1 << 64) - 1


class Cut(NamedTuple):
    """A weight is kept if (its key, its hash) >= (key, hash)."""

    key: int
    hash: int


@dataclass
class Bracket:
    """Where the cut of one level lies.

    Either a range of keys with all their hashes, or one key with a range of hashes; all bounds
    inclusive.
    """

    want: int
    low: int
    high: int
    hash_low: int = 0
    hash_high: int = MAX_HASH
    above: int | None = 0
    inside: int | None = None
    cut: Cut | None = None
    pieces: list[Piece] | None = None  # those with weights inside, if that is known

    @property
    def gathers(self) -> bool:
        """Whether so few weights are inside that they can be gathered."""
        return self.inside is not None and self.inside <= GATHER

    def bins(self) -> tuple[int, int]:
        """Return (shift of keys, bits of the hash) that spread the bracket over the bins."""
        span = (self.high - self.low).bit_length()
        if self.low == self.high or (self.inside is None and self.above == 0):
            # The first pass without a guess leaves the hashes, which are costly, aside.
            return max(0, span - BIN_BITS), 0
        return max(0, span - BIN_BITS), max(0, BIN_BITS - span)


@dataclass
class Tally:
    """What one thread saw of one level.

    Attributes:
        room: How many bins may be remembered, to know later which pieces to read again.
        above: Weights above the bracket.
        seen: The bins of each piece; None once there is no more room.
        gathered: Keys and hashes of weights inside, where these are few.
    """

    room: int
    above: int = 0
    seen: list[tuple[Piece, NDArray[np.uint16]]] | None = field(default_factory=list)
    gathered: list[tuple[Bits, Hashes]] = field(default_factory=list)
    _histogram: NDArray[Any] = field(default_factory=lambda: np.zeros(1 << BIN_BITS, np.int64))
    _waiting: list[NDArray[np.uint16]] = field(default_factory=list)
    _count: int = 0

    def add(self, piece: Piece, bins: NDArray[np.uint16]) -> None:
        """Count the bins of the weights of a piece that are inside."""
        self._waiting.append(bins)
        self._count += bins.size
        self.room -= bins.size
        if self.room < 0:
            self.seen = None
        elif self.seen is not None:
            self.seen.append((piece, bins))
        if self._count >= 1 << BIN_BITS:  # fewer would cost less to count than to clear the bins
            self.histogram()

    def histogram(self) -> NDArray[Any]:
        """Return how many weights each bin has."""
        if self._waiting:
            waiting = np.concatenate(self._waiting).astype(np.intp)
            self._histogram += np.bincount(waiting, minlength=1 << BIN_BITS)
            self._waiting, self._count = [], 0
        return self._histogram


def narrow(bracket: Bracket, tallies: Sequence[Tally], top: int) -> None:
    """Put the bracket around the bin with the cut, or find the cut itself."""
    if bracket.gathers:
        _finish(bracket, tallies)
        return
    above = sum(t.above for t in tallies) if bracket.above is None else bracket.above
    # from_top[i]: weights in the i + 1 highest bins.
    from_top = np.cumsum(np.sum([t.histogram() for t in tallies], axis=0)[::-1])
    if not above < bracket.want <= above + int(from_top[-1]):
        bracket.low, bracket.high, bracket.above = 0, top, 0  # the sample misled
        return
    at = int(np.searchsorted(from_top, bracket.want - above))
    before = int(from_top[at - 1]) if at else 0
    inside = int(from_top[at]) - before
    exact = above + before + inside == bracket.want
    bin_ = (1 << BIN_BITS) - 1 - at
    shift, hash_bits = bracket.bins()
    if bracket.low == bracket.high:
        width = max(0, (bracket.hash_high - bracket.hash_low).bit_length() - BIN_BITS)
        low = bracket.hash_low + (bin_ << width)
        bracket.hash_low, bracket.hash_high = low, min(low + (1 << width) - 1, bracket.hash_high)
    elif hash_bits:
        low = (bin_ & ((1 << hash_bits) - 1)) << (64 - hash_bits)
        bracket.hash_low, bracket.hash_high = low, low + (1 << (64 - hash_bits)) - 1
        bracket.low = bracket.high = bracket.low + (bin_ >> hash_bits)
    else:
        low = bracket.low + (bin_ << shift)
        bracket.low, bracket.high = low, min(low + (1 << shift) - 1, bracket.high)
    bracket.above, bracket.inside = above + before, inside
    bracket.pieces = None
    if all(t.seen is not None for t in tallies):
        bracket.pieces = [p for t in tallies for p, bins in t.seen or () if (bins == bin_).any()]
    if exact:
        bracket.cut = Cut(bracket.low, bracket.hash_low)


def _finish(bracket: Bracket, tallies: Sequence[Tally]) -> None:
    """Sort the weights that are left and take the cut at the last one wanted."""
    gathered = [part for t in tallies for part in t.gathered]
    keys = np.concatenate([k for k, _ in gathered])
    hashes = np.concatenate([h for _, h in gathered])
    assert bracket.above is not None
    assert keys.size == bracket.inside
    order = np.lexsort((~hashes, ~keys))
    last = order[bracket.want - bracket.above - 1]
    bracket.cut = Cut(bracket.low + int(keys[last]), int(hashes[last]))
