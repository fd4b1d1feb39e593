"""Weights to shells and back, compiled: 64 weights at a time."""

from __future__ import annotations

from typing import Any

import numpy as np

from elsa_cli.core.kernels.coding_masks_compiled import valid_bits, word_at
from elsa_cli.core.kernels.coding_words import load64, put, put_by_loop, take
from elsa_cli.core.kernels.compiling import inlined, kernel
from elsa_cli.core.kernels.vectors import ones, zeros_before

__all__ = ["assemble", "deal"]

ALL = np.uint64(0xFFFF_FFFF_FFFF_FFFF)
ZERO, ONE = np.uint64(0), np.uint64(1)


@kernel
def deal(values: Any, sparser: Any, denser: Any, out: Any) -> int:
    """Take the weights of a shell; return how many there are."""
    done = 0
    for first in range(0, values.size, 64):
        word = word_at(denser, first >> 3, denser.size) if denser.size else ALL
        if sparser.size:
            word &= ~word_at(sparser, first >> 3, sparser.size)
        if first + 64 <= values.size and done + 64 <= out.size:
            # What is written behind the shell's weights is written over by those that follow.
            take(values, first, word, out, done)
            done += ones(word)
            continue
        word &= valid_bits(values.size - first)
        while word and done < out.size:  # masks that do not nest would take more than there is
            out[done] = values[first + zeros_before(word)]
            done += 1
            word &= word - ONE
    return done


@inlined
def _row(masks: Any, k: int, at: int) -> Any:
    """Return the last bytes of a level's mask, from byte `at` on."""
    word = ZERO
    for i in range(at, masks.shape[1]):
        word |= np.uint64(masks[k, i]) << np.uint64(8 * (i - at))
    return word


@kernel
def assemble(values: Any, begins: Any, masks: Any, out: Any) -> None:
    """Put the weights of shells in their places; all other places become 0."""
    levels, size = masks.shape
    rest = out.size & ~63
    for first in range(0, rest, 64):
        for i in range(64):
            out[np.uint64(first + i)] = 0
        taken = ZERO
        for k in range(begins.size):
            mask = load64(masks, k * size + (first >> 3)) if k < levels else ALL
            word = mask & ~taken
            taken |= mask
            if begins[k] + 64 <= values.size:
                put(values, begins[k], word, out, first)
            else:
                put_by_loop(values, begins[k], word, out, first)
            begins[k] += ones(word)
    for i in range(rest, out.size):
        out[i] = 0
    taken = ZERO
    for k in range(begins.size):
        mask = _row(masks, k, rest >> 3) if k < levels else ALL
        mask &= valid_bits(out.size - rest)
        put_by_loop(values, begins[k], mask & ~taken, out, rest)
        taken |= mask
