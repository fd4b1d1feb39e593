"""Deflate with numpy: a code and its bits for every symbol, and all put in place at once."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from elsa_cli.core.batch import segment_sums, spread, starts
from elsa_cli.core.kernels.coding_deflate import (
    BLOCK,
    END,
    FIXED,
    LONGEST,
    LONGEST_LENGTH,
    ORDER,
    TINY,
    Bytes,
    Integers,
)

__all__ = ["code_streams"]

# Some values and the number of bits of each, at most 16, the first bit lowest.
Tokens = tuple[NDArray[np.uint64], Integers]


def _code_lengths(counts: Sequence[int], limit: int) -> list[int]:
    """Return the bits of each symbol's code; at least two symbols have a count."""
    halvings = 0
    while True:
        order = sorted((-(-count >> halvings), s) for s, count in enumerate(counts) if count)
        n = len(order)
        weights = [weight for weight, _ in order]
        parents = [0] * (2 * n - 1)
        leaf, joined = 0, n
        for node in range(n, 2 * n - 1):
            total = 0
            for _ in range(2):
                if joined == node or (leaf < n and weights[leaf] <= weights[joined]):
                    least, leaf = leaf, leaf + 1
                else:
                    least, joined = joined, joined + 1
                total += weights[least]
                parents[least] = node
            weights.append(total)
        depths = [0] * (2 * n - 1)
        for node in range(2 * n - 3, -1, -1):
            depths[node] = depths[parents[node]] + 1
        if max(depths) <= limit:
            lengths = [0] * len(counts)
            for (_, s), depth in zip(order, depths, strict=False):
                lengths[s] = depth
            return lengths
        halvings += 1


def _canonical(lengths: Sequence[int]) -> list[int]:
    """Return each symbol's code, first bit lowest."""
    codes = [0] * len(lengths)
    code = 0
    for length in range(1, LONGEST + 1):
        for s in [s for s, found in enumerate(lengths) if found == length]:
            codes[s] = int(f"{code:0{length}b}"[::-1], 2)
            code += 1
        code <<= 1
    return codes


def _tokens(pairs: Sequence[tuple[int, int]]) -> Tokens:
    values, bits = np.array(pairs, np.int64).reshape(-1, 2).T
    return values.astype(np.uint64), bits


FIXED_CODES = _tokens(list(zip(_canonical(FIXED), FIXED, strict=True))[: END + 1])


def _run_lengths(lengths: Sequence[int]) -> Iterator[tuple[int, int, int]]:
    """Yield the symbols that tell code lengths, the number behind each and its bits."""
    for length, group in itertools.groupby(lengths):
        run = len(list(group))
        if length:
            yield length, 0, 0
            run -= 1
        while run >= 3:
            if length:
                taken = min(run, 6)
                yield 16, taken - 3, 2
            elif run <= 10:
                taken = run
                yield 17, taken - 3, 3
            else:
                taken = min(run, 138)
                yield 18, taken - 11, 7
            run -= taken
        yield from [(length, 0, 0)] * run


def _header(lengths: Sequence[int]) -> list[tuple[int, int]]:
    """Return what tells the code lengths of a block, as values and bits."""
    told = list(_run_lengths([*lengths, 0]))  # the one of the only distance behind them
    uses = [0] * len(ORDER)
    for symbol, _, _ in told:
        uses[symbol] += 1
    own = _code_lengths(uses, LONGEST_LENGTH)
    codes = _canonical(own)
    written = max(4, *(n + 1 for n, s in enumerate(ORDER) if own[s]))
    pairs = [(0, 10), (written - 4, 4), *((own[s], 3) for s in ORDER[:written])]
    for symbol, extra, bits in told:
        pairs += [(codes[symbol], own[symbol]), (extra, bits)]
    return pairs


def _block(data: Bytes, last: bool, held: int) -> Iterator[Tokens]:
    """Yield a block in the shortest of three ways, `held` bits of a byte before it."""
    counts = np.append(np.bincount(data, minlength=END), 1)
    pad = (-held - 3) % 8
    stored = 3 + pad + 32 + 8 * data.size
    fixed = dynamic = 3 + int(counts @ FIXED_CODES[1])
    header: list[tuple[int, int]] = []
    lengths: list[int] = []
    if data.size >= TINY:
        lengths = _code_lengths(counts.tolist(), LONGEST)
        header = _header(lengths)
        dynamic = 3 + sum(bits for _, bits in header) + int(counts @ np.array(lengths))
    final = int(last)
    if stored <= min(fixed, dynamic):
        yield _tokens([(final, 3), (0, pad), (data.size, 16), (data.size ^ 0xFFFF, 16)])
        yield data.astype(np.uint64), np.full(data.size, 8, np.int64)
        return
    if fixed <= dynamic:
        yield _tokens([(final | 1 << 1, 3)])
        codes, bits = FIXED_CODES
    else:
        yield _tokens([(final | 2 << 1, 3), *header])
        codes, bits = _tokens(list(zip(_canonical(lengths), lengths, strict=True)))
    yield codes[data], bits[data]
    yield codes[END:], bits[END:]


def _emit(tokens: Tokens, out: Bytes, state: tuple[int, int] = (0, 0)) -> tuple[int, int, int]:
    """Put tokens one behind the other; return the whole bytes, the bits over and their number.

    A token begins in every 32 bits, since none is longer than 16. So the parts of the tokens that
    lie in the 32 bits where they begin are joined by one call, and so are those behind.
    """
    values = np.concatenate([np.array(state[:1], np.uint64), tokens[0]])
    bits = np.concatenate([np.array(state[1:], np.int64), tokens[1]])
    ends = np.cumsum(bits)
    total = int(ends[-1])
    begins = ends - bits
    words = begins >> 5
    first = np.flatnonzero(np.diff(words, prepend=-1))
    joined = np.bitwise_or.reduceat(values << (begins & 31).astype(np.uint64), first)
    whole: NDArray[Any] = np.zeros(joined.size + 1, np.uint32)
    whole[:-1] = (joined & 0xFFFFFFFF).astype(np.uint32)
    whole[1:] |= (joined >> np.uint64(32)).astype(np.uint32)
    coded = whole.astype("<u4").view(np.uint8)
    size = total >> 3
    out[:size] = coded[:size]
    return size, int(coded[size]) if total & 7 else 0, total & 7


def _blocks(data: Bytes, last: bool, state: Integers, out: Bytes) -> int:
    """Code some blocks of a stream; return how many bytes are whole."""
    done = 0
    for begin in range(0, max(data.size, 1), BLOCK):
        final = last and begin + BLOCK >= data.size
        parts = list(_block(data[begin : begin + BLOCK], final, int(state[1])))
        if final:
            over = int(state[1]) + sum(int(bits.sum()) for _, bits in parts)
            parts.append(_tokens([(0, -over % 8)]))
        tokens = (np.concatenate([p[0] for p in parts]), np.concatenate([p[1] for p in parts]))
        size, state[0], state[1] = _emit(tokens, out[done:], (int(state[0]), int(state[1])))
        done += size
    return done


def code_streams(
    data: Bytes,
    ends: Integers,
    last: int,
    state: Integers,
    out: Bytes,
    sizes: Integers,
    work: Integers,
) -> int:
    """Code each of some parts of `data`; return the bytes of all."""
    begins = starts(np.diff(ends, prepend=0))[:-1]
    lengths = ends - begins
    alone = (lengths >= TINY) | (not last) | (state[1] > 0)
    tiny = np.flatnonzero(~alone)
    coded, sizes[tiny] = _tiny_streams(data, begins[tiny], lengths[tiny])
    done, taken, first = 0, 0, 0
    for n in [*np.flatnonzero(alone).tolist(), ends.size]:
        size = int(sizes[first:n].sum())  # the tiny ones before it
        out[done : done + size] = coded[taken : taken + size]
        done, taken, first = done + size, taken + size, n + 1
        if n < ends.size:
            sizes[n] = _blocks(data[begins[n] : ends[n]], bool(last), state, out[done:])
            done += int(sizes[n])
    return done


def _tiny_streams(data: Bytes, begins: Integers, lengths: Integers) -> tuple[Bytes, Integers]:
    """Return the streams of parts that are too short for codes of their own, and their sizes.

    A stream is 3 tokens (a stored one tells its length twice), those of the bytes, and 2 more (the
    end of the block and what fills the last byte; nothing where it is stored).
    """
    codes, bits = FIXED_CODES
    raw = data[spread(begins, lengths)]
    fixed = 10 + segment_sums(bits[raw], lengths)
    stored = 40 + 8 * lengths <= fixed
    first = starts(lengths + 5)
    values: NDArray[np.uint64] = np.zeros(int(first[-1]), np.uint64)
    widths: Integers = np.zeros(int(first[-1]), np.int64)
    first = first[:-1]
    values[first], widths[first] = np.where(stored, 1, 3), np.where(stored, 8, 3)
    values[first + 1], values[first + 2] = lengths * stored, (lengths ^ 0xFFFF) * stored
    widths[first + 1] = widths[first + 2] = 16 * stored
    middle, plain = spread(first + 3, lengths), np.repeat(stored, lengths)
    values[middle] = np.where(plain, raw, codes[raw])
    widths[middle] = np.where(plain, 8, bits[raw])
    last = first + 3 + lengths
    widths[last], widths[last + 1] = 7 * ~stored, (-fixed % 8) * ~stored
    sizes = np.where(stored, 5 + lengths, (fixed + 7) // 8)
    out: Bytes = np.empty(int(sizes.sum()), np.uint8)
    _emit((values, widths), out)
    return out, sizes
