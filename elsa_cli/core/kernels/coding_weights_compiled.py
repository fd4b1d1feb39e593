"""Weights to shells and back, compiled: 64 weights at a time."""

from __future__ import annotations

from typing import Any

from elsa_cli.core.kernels.coding_masks_compiled import ALL, ONE, ZERO, valid_bits, word_at
from elsa_cli.core.kernels.coding_vectors import put, put_by_loop, take
from elsa_cli.core.kernels.coding_words import load64, popcount, trailing_zeros
from elsa_cli.core.kernels.compiling import kernel

__all__ = ["assemble", "deal"]


@kernel
def deal(values: Any, sparser: Any, denser: Any, out: Any) -> int:
    """Take the weights of a shell; return how many there are."""
    done = 0
    for first in range(0, values.size, 64):
        word = word_at(denser, first >> 3) if denser.size else ALL
        if sparser.size:
            word &= ~word_at(sparser, first >> 3)
        if first + 64 <= values.size and done + 64 <= out.size:
            # What is written behind the shell's weights is written over by those that follow.
            take(values, first, word, out, done)
            done += popcount(word)
            continue
        word &= valid_bits(values.size - first)
        while word:
            out[done] = values[first + trailing_zeros(word)]
            done += 1
            word &= word - ONE
    return done


@kernel
def assemble(values: Any, begins: Any, masks: Any, out: Any) -> None:
    """Put the weights of shells in their places; all other places become 0."""
    cursors = begins.copy()
    levels, size = masks.shape
    rest = out.size & ~63
    for first in range(0, rest, 64):
        out[first : first + 64] = 0
        taken = ZERO
        for k in range(begins.size):
            # Not masks[k]: counting who uses a row takes longer than all the rest.
            mask = load64(masks, k * size + (first >> 3)) if k < levels else ALL
            word = mask & ~taken
            taken |= mask
            if cursors[k] + 64 <= values.size:
                put(values, cursors[k], word, out, first)
            else:
                put_by_loop(values, cursors[k], word, out, first)
            cursors[k] += popcount(word)
    out[rest:] = 0
    taken = ZERO
    for k in range(begins.size):
        mask = (word_at(masks[k], rest >> 3) if k < levels else ALL) & valid_bits(out.size - rest)
        put_by_loop(values, cursors[k], mask & ~taken, out, rest)
        taken |= mask
