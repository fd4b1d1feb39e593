"""Weights to shells and back, compiled: 64 weights at a time.

How many of 64 weights a shell has is chance, and a loop that ends by chance makes the processor
guess wrong. So the bits of a word are taken many at a time, more than there are if need be; what
is written too much is written over by what comes next.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from elsa_cli.core.kernels.coding_masks_compiled import ALL, ONE, ZERO, _valid, _word
from elsa_cli.core.kernels.coding_words import popcount, trailing_zeros
from elsa_cli.core.kernels.compiling import kernel

__all__ = ["assemble", "deal"]

SOME, FEW = 16, 8  # bits taken at a time
PLACE = np.uint64(63)


@kernel
def deal(values: Any, sparser: Any, denser: Any, out: Any) -> int:
    """Take the weights of a shell; return how many there are."""
    done = 0
    for first in range(0, values.size, 64):
        word = _word(denser, first >> 3) if denser.size else ALL
        if sparser.size:
            word &= ~_word(sparser, first >> 3)
        word &= _valid(values.size - first)
        number = popcount(word)
        if done + number + SOME > out.size or first + 64 > values.size:
            while word:
                out[done] = values[first + trailing_zeros(word)]
                done += 1
                word &= word - ONE
            continue
        base, to = np.uint64(first), np.uint64(done)
        done += number
        end = np.uint64(done)
        while to < end:
            for i in range(SOME):
                out[to + np.uint64(i)] = values[base | (np.uint64(trailing_zeros(word)) & PLACE)]
                word &= word - ONE
            to += np.uint64(SOME)
    return done


@kernel
def assemble(values: Any, begins: Any, masks: Any, out: Any) -> None:
    """Put the weights of shells in their places; all other places become 0."""
    cursors = begins.copy()
    for first in range(0, out.size, 64):
        valid = _valid(out.size - first)
        taken = ZERO
        whole = first + 64 < out.size
        until = min(first + 64, out.size)
        for i in range(first, until):
            out[np.uint64(i)] = 0
        for k in range(begins.size):
            mask = _word(masks[k], first >> 3) & valid if k < masks.shape[0] else valid
            word = mask & ~taken
            taken |= mask
            at = cursors[k]
            number = popcount(word)
            cursors[k] = at + number
            if not whole or at + number + FEW > values.size:
                while word:
                    out[first + trailing_zeros(word)] = values[at]
                    at += 1
                    word &= word - ONE
                continue
            # What is too much goes to the first place of the next word.
            base, begin, end = np.uint64(first), np.uint64(at), np.uint64(at + number)
            while begin < end:
                for i in range(FEW):
                    out[base + np.uint64(trailing_zeros(word))] = values[begin + np.uint64(i)]
                    word &= word - ONE
                begin += np.uint64(FEW)
