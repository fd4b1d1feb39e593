"""The k largest of very many keys, exactly, in a few streamed passes and little memory.

All weights are in a total order: by key, then by the hash of the position. For each level a pair
(key, hash), the *cut*, is sought such that exactly the wanted number of weights is at or above it.
Levels nest because they are cut from one order.

The cut is bracketed and the bracket narrowed: a pass counts what is above the bracket, and a
histogram of 65,536 bins what is inside; the bin with the cut is the next bracket; once few weights
are left they are gathered and sorted. A sample guesses the first bracket, since weights near the
cut are few and a histogram of few is cheap; a wrong guess is noticed by the counts, and costs time
only.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from elsa_cli.core.bits import Bools
from elsa_cli.core.dtypes import Bits
from elsa_cli.core.work import Progress, Scratch, no_progress, run
from elsa_cli.selection.bracket import BIN_BITS, MAX_HASH, Bracket, Cut, Tally, narrow
from elsa_cli.selection.scan import Hashes, Piece, Scan, position_hash

__all__ = ["Cut", "cuts", "few_where", "kept_mask"]

REMEMBER = 1 << 24  # bins remembered over all threads and levels, 2 bytes each
SAMPLE_FROM = 1 << 22  # weights; fewer are held at once
SAMPLE = 1 << 21  # weights in a sample


def few_where(mask: Bools) -> NDArray[np.intp]:
    """Return the positions of True in a mask that has few, by way of the words that have any."""
    if mask.size % 8:
        return np.flatnonzero(mask)
    words = np.flatnonzero(mask.view(np.uint64) != 0)
    at = np.flatnonzero(mask.reshape(-1, 8).take(words, axis=0))
    return words.take(at >> 3) * 8 + (at & 7)


def _hashes(scan: Scan, piece: Piece, where: NDArray[np.intp]) -> Hashes:
    return position_hash(where.astype(np.uint64) + np.uint64(scan.position(piece)))


def cuts(
    scan: Scan,
    wanted: Sequence[int],
    threads: int,
    progress: Progress = no_progress,
    scratch: Scratch | None = None,
) -> list[Cut]:
    """Return a cut for each number of weights to keep.

    Args:
        scan: The weights.
        wanted: How many to keep, each from 0 to all.
        threads: Number of threads; the result does not depend on it.
        progress: Told of the bytes read.
        scratch: Buffers of this thread, for few weights.
    """
    if scan.numel < SAMPLE_FROM:
        return _direct(scan, wanted, progress, scratch or Scratch())
    top = _largest_key(scan)
    brackets = _guess(scan, wanted, top, threads)
    for b in brackets:
        if b.want == 0:
            b.cut = Cut(top + 1, 0)
        elif b.want == scan.numel:
            b.cut = Cut(0, 0)
    while open_ := [b for b in brackets if b.cut is None]:
        tallies = _pass(scan, open_, threads, progress)
        for k, bracket in enumerate(open_):
            narrow(bracket, [t[k] for t in tallies], top)
    return [b.cut for b in brackets if b.cut is not None]


def _direct(scan: Scan, wanted: Sequence[int], progress: Progress, scratch: Scratch) -> list[Cut]:
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


def kept_mask(scan: Scan, piece: Piece, keys: Bits, cut: Cut, scratch: Scratch) -> Bools:
    """Return which weights of a piece are at or above a cut, (count,) bool."""
    mask: Bools = scratch.array("kept", keys.size, np.bool_)
    if cut.key >> 8 * keys.itemsize:  # above every key
        mask.fill(False)
        return mask
    bound = keys.dtype.type(cut.key)
    if cut.hash == 0:
        return np.greater_equal(keys, bound, out=mask)
    tied: Bools = scratch.array("tied", keys.size, np.bool_)
    np.equal(keys, bound, out=tied)
    np.greater(keys, bound, out=mask)
    where = few_where(tied)
    mask[where] = _hashes(scan, piece, where) >= np.uint64(cut.hash)
    return mask


def _largest_key(scan: Scan) -> int:
    piece = next(iter(scan.pieces()))
    keys = scan.keys(Piece(piece.tensor, piece.start, 1), Scratch())
    return int(np.iinfo(keys.dtype).max)


def _guess(scan: Scan, wanted: Sequence[int], top: int, threads: int) -> list[Bracket]:
    """Bracket each cut by a sample."""
    share = -(-scan.numel // SAMPLE)
    shift = max(0, top.bit_length() - BIN_BITS)

    def work(piece: Piece, histogram: tuple[NDArray[Any], Scratch]) -> None:
        count = -(-piece.count // share)
        # Somewhere in the piece, by its position: rows and channels should all have their turn.
        room = (piece.count - count) // 8 * 8
        spot = int(position_hash(np.array([scan.position(piece)], np.uint64))[0]) % (room + 1)
        part = Piece(piece.tensor, piece.start + spot // 8 * 8, count)
        keys = scan.keys(part, histogram[1])
        bins = (keys >> keys.dtype.type(shift)).astype(np.intp)
        histogram[0][:] += np.bincount(bins, minlength=1 << BIN_BITS)

    states = run(
        scan.pieces(), work, lambda: (np.zeros(1 << BIN_BITS, np.int64), Scratch()), threads
    )
    # at_or_above[i]: how many of the sample have a key in bin i or above.
    at_or_above = np.cumsum(np.sum([s[0] for s in states], axis=0)[::-1])[::-1]
    size = int(at_or_above[0])
    brackets = []
    for want in wanted:
        rank = want / scan.numel * size
        # Neighbours are alike, so the sample is worth less than its size: thrice the deviation
        # of an independent one, and a little for very even layers.
        margin = 3 * (rank * (1 - want / scan.numel)) ** 0.5 + size / 2000
        low, high = 0, top
        if rank + margin < size:
            low = int(np.count_nonzero(at_or_above >= rank + margin)) - 1 << shift
        if rank - margin >= 1:
            high = min(top, (int(np.count_nonzero(at_or_above >= rank - margin)) << shift) - 1)
        brackets.append(Bracket(want, low, high, above=None))
    return brackets


def _pass(
    scan: Scan, brackets: Sequence[Bracket], threads: int, progress: Progress
) -> list[list[Tally]]:
    """Read everything once and tally every bracket."""

    def work(piece: Piece, state: tuple[list[Tally], Scratch]) -> None:
        tallies, scratch = state
        keys = scan.keys(piece, scratch)
        for bracket, tally in zip(brackets, tallies, strict=True):
            _tally(scan, piece, keys, bracket, tally, scratch)
        progress(piece.count * piece.tensor.dtype.itemsize)

    room = REMEMBER // (threads * len(brackets))
    states = run(
        _pieces(scan, brackets),
        work,
        lambda: ([Tally(room) for _ in brackets], Scratch()),
        threads,
    )
    return [tallies for tallies, _ in states]


def _pieces(scan: Scan, brackets: Sequence[Bracket]) -> Iterable[Piece]:
    """Return the pieces that have to be read: all, unless each bracket knows its own."""
    found: dict[tuple[str, int], Piece] = {}
    for bracket in brackets:
        if bracket.pieces is None:
            return scan.pieces()
        found |= {(p.tensor.name, p.start): p for p in bracket.pieces}
    return found.values()


def _tally(
    scan: Scan, piece: Piece, keys: Bits, bracket: Bracket, tally: Tally, scratch: Scratch
) -> None:
    """Count one piece: what is above the bracket, and what is inside it."""
    kind = keys.dtype.type
    mask: Bools = scratch.array("tally", keys.size, np.bool_)
    if bracket.above is None:
        np.greater(keys, kind(bracket.high), out=mask)
        tally.above += int(np.count_nonzero(mask))
    everything = bracket.low == 0 and bracket.high == np.iinfo(keys.dtype).max
    where = inside = None
    if not everything:
        below = scratch.array("below", keys.size, keys.dtype)
        np.subtract(keys, kind(bracket.low), out=below)  # wraps below the bracket
        np.less_equal(below, kind(bracket.high - bracket.low), out=mask)
        where = few_where(mask)
        inside = below.take(where)
    shift, hash_bits = bracket.bins()
    narrow_hash = (bracket.hash_low, bracket.hash_high) != (0, MAX_HASH)
    if bracket.gathers or hash_bits or bracket.low == bracket.high:
        if where is None or inside is None:
            where, inside = np.arange(keys.size), keys
        hashes = _hashes(scan, piece, where)
        if narrow_hash:
            near = (hashes >= np.uint64(bracket.hash_low)) & (
                hashes <= np.uint64(bracket.hash_high)
            )
            inside, hashes = inside[near], hashes[near]
        if bracket.gathers:
            tally.gathered.append((inside.astype(np.uint64), hashes))
            return
        if bracket.low == bracket.high:
            width = max(0, (bracket.hash_high - bracket.hash_low).bit_length() - BIN_BITS)
            bins = (hashes - np.uint64(bracket.hash_low)) >> np.uint64(width)
        else:
            bins = inside.astype(np.uint64) << np.uint64(hash_bits)
            bins |= hashes >> np.uint64(64 - hash_bits)
    else:
        bins = (keys if inside is None else inside) >> kind(shift)
    tally.add(piece, bins.astype(np.uint16))
