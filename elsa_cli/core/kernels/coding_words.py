"""Eight bytes at a time: what compiled kernels do with 64 bits and numba has no name for.

Two of them are one instruction where the processor has it (BMI2), and a dozen steps of shifts
elsewhere (Warren, Hacker's Delight, "compress" and "expand").
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import llvmlite.ir as ir
import numpy as np
from numba import extending, types
from numba.core import cgutils

from elsa_cli.core.kernels.compiling import kernel

__all__ = [
    "extract",
    "extract_by_shifts",
    "load64",
    "popcount",
    "spread",
    "spread_by_shifts",
    "store64",
    "trailing_zeros",
]

# Called as its parameters say, without the first one, of which no type checker knows.
intrinsic: Callable[[Any], Any] = extending.intrinsic

BYTE, WORD = ir.IntType(8), ir.IntType(64)


def _pointer(context: Any, builder: Any, kind: Any, array: Any, index: Any) -> Any:
    """Return where byte `index` of an array is, as the place of 64 bits."""
    data = context.make_array(kind)(context, builder, array).data
    place = builder.gep(builder.bitcast(data, BYTE.as_pointer()), [index], source_etype=BYTE)
    return builder.bitcast(place, WORD.as_pointer())


@intrinsic
def load64(_: Any, array: Any, index: Any) -> Any:
    """Return the 8 bytes of a contiguous array from byte `index`, the first one lowest."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        place = _pointer(context, builder, signature.args[0], args[0], args[1])
        return builder.load(place, align=1, typ=WORD)

    return types.uint64(array, types.intp), generate


@intrinsic
def store64(_: Any, array: Any, index: Any, value: Any) -> Any:
    """Put 8 bytes into a contiguous array from byte `index`, the lowest first."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        builder.store(args[2], _pointer(context, builder, signature.args[0], args[0], args[1]), 1)
        return context.get_dummy_value()

    return types.void(array, types.intp, types.uint64), generate


@intrinsic
def popcount(_: Any, word: Any) -> Any:
    """Return how many of 64 bits are set, an int64."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.ctpop(args[0])

    return types.int64(types.uint64), generate


@intrinsic
def trailing_zeros(_: Any, word: Any) -> Any:
    """Return the position of the lowest bit that is set, an int64; 64 if none is."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.cttz(args[0], ir.Constant(ir.IntType(1), 0))

    return types.int64(types.uint64), generate


@kernel
def _moving(mask: Any, moved: Any) -> None:
    """Fill in which bits of a mask move down by 1, 2, 4 … places to bring its bits together.

    Args:
        mask: 64 bits.
        moved: (6,): filled.
    """
    one = np.uint64(1)
    holes = ~mask << one
    for n in range(6):
        odd = holes  # where an odd number of holes are below
        for m in range(6):
            odd ^= odd << (one << np.uint64(m))
        moved[n] = odd & mask
        mask = (mask ^ moved[n]) | (moved[n] >> (one << np.uint64(n)))
        holes &= ~odd


@kernel
def extract_by_shifts(word: Any, mask: Any) -> Any:
    """Return what `extract` does."""
    moved = np.empty(6, np.uint64)
    _moving(mask, moved)
    word &= mask
    for n in range(6):
        some = word & moved[n]
        word = (word ^ some) | (some >> (np.uint64(1) << np.uint64(n)))
    return word


@kernel
def spread_by_shifts(word: Any, mask: Any) -> Any:
    """Return what `spread` does."""
    moved = np.empty(6, np.uint64)
    _moving(mask, moved)
    for n in range(5, -1, -1):
        some = word << (np.uint64(1) << np.uint64(n))
        word = (word & ~moved[n]) | (some & moved[n])
    return word & mask


def _by_instruction(name: str, otherwise: Any) -> Any:
    """Return what generates one instruction of BMI2, or calls a kernel where there is none."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        if "+bmi2" not in context.codegen().magic_tuple()[2].split(","):
            return context.compile_internal(builder, otherwise.py_func, signature, args)
        kind = ir.FunctionType(WORD, [WORD, WORD])
        utils: Any = cgutils  # without types
        function = utils.get_or_insert_function(builder.module, kind, f"llvm.x86.bmi.{name}.64")
        return builder.call(function, args)

    return generate


@intrinsic
def extract(_: Any, word: Any, mask: Any) -> Any:
    """Return the bits of a word where a mask has ones, brought together from bit 0 on."""
    kind = types.uint64(types.uint64, types.uint64)
    return kind, _by_instruction("pext", extract_by_shifts)


@intrinsic
def spread(_: Any, word: Any, mask: Any) -> Any:
    """Return the bits of a word from bit 0 on, put where a mask has ones: undo `extract`."""
    kind = types.uint64(types.uint64, types.uint64)
    return kind, _by_instruction("pdep", spread_by_shifts)
