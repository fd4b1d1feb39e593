"""Eight bytes at a time: what compiled kernels do with 64 bits and numba has no name for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import llvmlite.ir as ir
from numba import extending, types

__all__ = ["load64", "popcount", "store64", "trailing_zeros"]

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
