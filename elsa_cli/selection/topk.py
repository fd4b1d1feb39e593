"""The k largest of very many keys, exactly, in a few streamed passes and little memory.

All weights are in a total order: by key, then by the hash of the position. For each level a pair
(key, hash), the *cut*, is sought such that exactly the wanted number of weights is at or above it.
Levels nest because they are cut from one order.

Key and hash, one behind the other, are one long number, and its digits of 16 bits are found one by
one: a pass counts the next digit of all weights that share those found so far, for all levels at
once. The first digit is counted of all weights; the others of the few in the one bucket that
matters, which is a hundredth of the weights where keys are floats. Two passes are usually enough:
digits after the first are spread so evenly that it can be foretold about where the cut will be, and
the weights near there are remembered, to be sorted. If it is not there, one more pass finds it.

Example, with digits of 2 bits, keys of 4 and 3 of 8 weights wanted:

    keys      0011 1001 1000 1011 0010 1001 1110 0111
    digit 1   00: 2   01: 1   10: 4   11: 1      1 of 8 is above 10; 2 of its 4 are wanted
    digit 2   of 10xx: 00: 1   01: 2   11: 1     1 more is above 1001; 1 of its 2 is wanted
    hashes    of the two keys 1001: the larger one is the cut: (1001, hash)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from elsa_cli.core.hashing import Hashes
from elsa_cli.core.work import Progress, Scratch, no_progress, run
from elsa_cli.selection.cut import Cut
from elsa_cli.selection.few import few_cuts
from elsa_cli.selection.scan import Piece, Scan

__all__ = ["DIRECT", "ROOM", "cuts"]

DIGIT = 16  # bits
HASH = 64  # bits
DIRECT = 1 << 22  # weights; fewer are held at once
ROOM = 1 << 20  # weights near the cuts of all levels that are remembered, 16 bytes each

WORD = (1 << HASH) - 1

Words = NDArray[np.uint64]
Counts = Words


def cuts(
    scan: Scan,
    wanted: Sequence[int],
    threads: int,
    progress: Progress = no_progress,
    scratch: Scratch | None = None,
    *,
    direct: int = DIRECT,
    room: int = ROOM,
) -> list[Cut]:
    """Return a cut for each number of weights to keep.

    Args:
        scan: The weights.
        wanted: How many to keep, each from 0 to all.
        threads: Number of threads; the result does not depend on it.
        progress: Told of the bytes read.
        scratch: Buffers of this thread, for few weights.
        direct: Fewer weights than this are held at once.
        room: How many weights may be remembered on the way.
    """
    if scan.numel < direct:
        return few_cuts(scan, wanted, progress, scratch or Scratch())
    width, counts = _first_digit(scan, threads, progress)
    searches = [_Search(width, want, scan.numel) for want in wanted]
    for search in searches:
        search.narrow(counts)
    while open_ := [s for s in searches if not s.found]:
        _next_digit(scan, open_, threads, progress, room)
    return [s.cut for s in searches]


@dataclass
class _Search:
    """What is known of one level's cut: its first bits, and how many weights share them.

    Attributes:
        width: Bits of a key; the long number has 64 more, of the hash.
        want: Of the weights that share the bits known, how many are kept.
        size: How many weights share them.
        prefix: These bits.
        known: How many bits they are.
    """

    width: int
    want: int
    size: int
    prefix: int = 0
    known: int = 0

    @property
    def found(self) -> bool:
        """Whether all that share the bits are kept, or none."""
        return self.want in (0, self.size)

    @property
    def digit(self) -> int:
        """The last 16 bits that are known."""
        return self.prefix & ((1 << DIGIT) - 1)

    @property
    def cut(self) -> Cut:
        """The lowest number with these bits, or the one above all of them if none is kept."""
        number = self.prefix + (self.want == 0) << self.width + HASH - self.known
        return Cut(number >> HASH, number & WORD)

    def narrow(self, counts: Counts) -> None:
        """Find the next digit.

        Args:
            counts: How many of the weights have which digit, (digits,).
        """
        if self.found:
            return
        from_top = np.cumsum(counts[::-1]).astype(np.int64)  # of the i + 1 highest digits
        at = int(np.searchsorted(from_top, self.want))
        digit = counts.size - 1 - at
        bits = counts.size.bit_length() - 1
        self.prefix, self.known = self.prefix << bits | digit, self.known + bits
        self.want -= int(from_top[at - 1]) if at else 0
        self.size = int(counts[digit])

    def near(self, room: int) -> tuple[int, int]:
        """Return the lowest and the highest next digit near which the cut will likely be.

        About `room` weights have digits from the one to the other, if digits are spread evenly.
        """
        top = (1 << DIGIT) - 1
        if self.size <= room:
            return 0, top
        middle = (top + 1) * (self.size - self.want) // self.size
        half = (top + 1) * room // (2 * self.size)
        return max(0, middle - half), min(top, middle + half)


@dataclass
class _Seen:
    """What one thread has seen in one pass.

    Attributes:
        counts: For each level, how many weights have which digit, (levels, 65536).
        remembered: For each level keys and hashes of weights near the cut; of ties, hashes alone.
            None if they were more than expected.
        scratch: The thread's buffers.
    """

    counts: Counts
    remembered: list[list[tuple[Words | None, Hashes]] | None]
    scratch: Scratch = field(default_factory=Scratch)

    @staticmethod
    def of(levels: int) -> _Seen:
        """Begin with nothing seen."""
        return _Seen(np.zeros((levels, 1 << DIGIT), np.uint64), [[] for _ in range(levels)])


def _first_digit(scan: Scan, threads: int, progress: Progress) -> tuple[int, Counts]:
    """Return the bits of a key, and how many weights have which of its first 16 bits (or 8)."""

    @dataclass
    class State:
        counts: Counts = field(default_factory=lambda: np.zeros((4, 0), np.uint64))
        width: int = 0
        magnitude: int = 0
        scratch: Scratch = field(default_factory=Scratch)

    def work(piece: Piece, state: State) -> None:
        bits, magnitude = scan.unsigned(piece, state.scratch)
        if not state.width:
            state.width, state.magnitude = 8 * bits.itemsize, int(magnitude)
            state.counts = np.zeros((4, 1 << min(DIGIT, state.width)), np.uint64)
        shift = max(0, state.width - DIGIT)
        scan.kernels.count_high(bits, np.uint64(shift), state.counts)
        progress(piece.count * piece.tensor.dtype.itemsize)

    states = [s for s in run(scan.pieces(), work, State, threads) if s.width]
    width, magnitude = states[0].width, states[0].magnitude
    signed = sum(s.counts.sum(axis=0) for s in states)
    # What was counted has signs: weights that differ in nothing else have one key.
    keys = np.arange(signed.size) & magnitude >> max(0, width - DIGIT)
    counts = np.zeros_like(signed)
    np.add.at(counts, keys, signed)
    scan.see_counts(counts, max(0, width - DIGIT))
    return width, counts


def _next_digit(
    scan: Scan, searches: Sequence[_Search], threads: int, progress: Progress, room: int
) -> None:
    """Read everything once and find the next digit of each search, or all the rest of them."""
    each = room // len(searches)
    near = np.array([search.near(each) for search in searches], np.int64)

    def work(piece: Piece, seen: _Seen) -> None:
        _see(scan, piece, searches, near, seen, 2 * each)
        progress(piece.count * piece.tensor.dtype.itemsize)

    states = run(scan.pieces(), work, lambda: _Seen.of(len(searches)), threads)
    for level, search in enumerate(searches):
        search.narrow(np.sum([seen.counts[level] for seen in states], axis=0))
        if search.found or not near[level, 0] <= search.digit <= near[level, 1]:
            continue
        parts = [seen.remembered[level] for seen in states]
        if None not in parts:
            _finish(search, [part for some in parts for part in some or ()])


def _see(
    scan: Scan,
    piece: Piece,
    searches: Sequence[_Search],
    near: NDArray[np.int64],
    seen: _Seen,
    room: int,
) -> None:
    """Count one piece, and remember at most `room` weights of each level."""
    bits, magnitude = scan.unsigned(piece, seen.scratch)
    position, shape = scan.position(piece), (len(searches), bits.size)
    hashes = seen.scratch.array("hashes near", shape[0] * shape[1], np.uint64).reshape(shape)
    found = np.zeros(len(searches), np.int64)
    keys = None
    # All searches know equally many bits. How many of the key, or then of the hash, are not known?
    below = searches[0].width - searches[0].known
    if below > 0:
        keys = seen.scratch.array("keys near", shape[0] * shape[1], np.uint64).reshape(shape)
        scan.kernels.count_keys(
            bits,
            magnitude,
            np.uint64(int(magnitude) >> below << below),
            np.array([search.prefix << below for search in searches], np.uint64),
            np.uint64(below - DIGIT),
            position,
            seen.counts,
            near,
            keys,
            hashes,
            found,
        )
    else:
        below += HASH
        scan.kernels.count_ties(
            bits,
            magnitude,
            np.array([search.cut.key for search in searches], np.uint64),
            np.uint64(WORD >> below << below),
            np.array([search.cut.hash for search in searches], np.uint64),
            np.uint64(below - DIGIT),
            position,
            seen.counts,
            near,
            hashes,
            found,
        )
    for level, count in enumerate(found.tolist()):
        held = seen.remembered[level]
        if held is None or not count:
            continue
        held.append(
            (None if keys is None else keys[level, :count].copy(), hashes[level, :count].copy())
        )
        if sum(h.size for _, h in held) > room:  # digits are not spread evenly after all
            seen.remembered[level] = None


def _finish(search: _Search, parts: Sequence[tuple[Words | None, Hashes]]) -> None:
    """Find the last weight wanted among those that share the bits known: the cut is there."""
    hashes = np.concatenate([h for _, h in parts])
    keys = np.full(hashes.size, search.cut.key, np.uint64)
    if search.known <= search.width:
        keys = np.concatenate([k for k, _ in parts if k is not None])
    of_key, of_hash = (np.uint64(number) for number in search.cut)
    below = search.width - search.known
    if below >= 0:
        inside = keys >> np.uint64(below) == of_key >> np.uint64(below)
    else:
        below += HASH
        inside = hashes >> np.uint64(below) == of_hash >> np.uint64(below)
    keys, hashes = keys[inside], hashes[inside]
    assert hashes.size == search.size
    # Of the keys the one at the cut, and of its hashes the one at the cut: no need to sort all.
    key = _largest(keys, search.want)
    above = int(np.count_nonzero(keys > key))
    tie = _largest(hashes[keys == key], search.want - above)
    search.prefix = int(key) << HASH | int(tie)
    search.known, search.want, search.size = search.width + HASH, 1, 1


def _largest(numbers: Words, rank: int) -> np.uint64:
    """Return the largest number (rank 1), the second largest (rank 2), and so on."""
    at = numbers.size - rank
    found: np.uint64 = np.partition(numbers, at)[at]
    return found
