"""Taking the marked ones of 64 weights, and putting them in their places.

Where the processor does it with some instructions (AVX-512), a word of mask takes a few of them
whatever its bits are. Elsewhere a loop takes one bit after the other.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import llvmlite.ir as ir
import numpy as np
from numba import extending, types

from elsa_cli.core.kernels.coding_words import popcount, trailing_zeros
from elsa_cli.core.kernels.compiling import kernel

__all__ = ["put", "put_by_loop", "take", "take_by_loop"]

# Called as its parameters say, without the first one, of which no type checker knows.
intrinsic: Callable[[Any], Any] = extending.intrinsic

SOME = 16  # bits taken at a time: a loop that ends by chance makes the processor guess wrong
WORD, REGISTER = 64, 512  # bits


@kernel
def take_by_loop(values: Any, first: int, word: Any, out: Any, at: int) -> None:
    """Do what `take` does."""
    one, place = np.uint64(1), np.uint64(63)
    base, to = np.uint64(first), np.uint64(at)
    end = np.uint64(at + popcount(word))
    while to < end:
        for i in range(SOME):
            out[to + np.uint64(i)] = values[base | (np.uint64(trailing_zeros(word)) & place)]
            word &= word - one
        to += np.uint64(SOME)


@kernel
def put_by_loop(values: Any, at: int, word: Any, out: Any, first: int) -> None:
    """Do what `put` does."""
    one = np.uint64(1)
    base, begin = np.uint64(first), np.uint64(at)
    while word:
        out[base + np.uint64(trailing_zeros(word))] = values[begin]
        begin += one
        word &= word - one


def _groups(context: Any, builder: Any, array: Any, word: Any) -> Any:
    """Yield for each register that 64 weights fill: its number of lanes, type, mask and ones.

    Yield nothing where the processor cannot do it.
    """
    width = array.dtype.bitwidth
    features = context.codegen().magic_tuple()[2].split(",")
    if ("+avx512vbmi2" if width < 32 else "+avx512f") not in features:
        return
    lanes = REGISTER // width
    number, flags = ir.IntType(WORD), ir.VectorType(ir.IntType(1), lanes)
    for begin in range(0, WORD, lanes):
        part = builder.lshr(word, number(begin))
        if lanes < WORD:
            part = builder.trunc(part, ir.IntType(lanes))
        ones = builder.ctpop(part)
        ones = builder.zext(ones, number) if lanes < WORD else ones
        yield begin, ir.VectorType(ir.IntType(width), lanes), builder.bitcast(part, flags), ones


def _data(context: Any, builder: Any, kind: Any, array: Any, index: Any) -> Any:
    data = context.make_array(kind)(context, builder, array).data
    return builder.gep(data, [index])


def _call(builder: Any, name: str, result: Any, args: Any) -> Any:
    function = builder.module.globals.get(name)
    if function is None:
        kind = ir.FunctionType(result, [arg.type for arg in args])
        function = ir.Function(builder.module, kind, name)
    return builder.call(function, args)


@intrinsic
def take(_: Any, values: Any, first: Any, word: Any, out: Any, at: Any) -> Any:
    """Put those of 64 weights whose bit is set one behind the other.

    Args:
        values: The weights.
        first: The first of the 64.
        word: Their bits.
        out: Where they go: 64 elements from `at` are there, and written over.
        at: The first of them.
    """

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        kind = signature.args[0]
        source = _data(context, builder, kind, args[0], args[1])
        target = _data(context, builder, signature.args[3], args[3], args[4])
        found = False
        for begin, vector, mask, ones in _groups(context, builder, kind, args[2]):
            found = True
            place = builder.gep(source, [ir.IntType(WORD)(begin)])
            loaded = builder.load(builder.bitcast(place, vector.as_pointer()), align=1, typ=vector)
            name = f"llvm.x86.avx512.mask.compress.v{vector.count}i{vector.element.width}"
            dense = _call(builder, name, vector, [loaded, ir.Constant(vector, None), mask])
            builder.store(dense, builder.bitcast(target, vector.as_pointer()), align=1)
            target = builder.gep(target, [ones])
        if not found:
            loop: Any = take_by_loop
            return context.compile_internal(builder, loop.py_func, signature, args)
        return context.get_dummy_value()

    return types.void(values, types.intp, types.uint64, out, types.intp), generate


@intrinsic
def put(_: Any, values: Any, at: Any, word: Any, out: Any, first: Any) -> Any:
    """Put weights where bits of 64 are set, and leave the other places as they are.

    Args:
        values: The weights, one behind the other; 64 elements from `at` are there.
        at: The first of those to be used.
        word: The bits.
        out: Where they go.
        first: The first of the 64 places.
    """

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        kind = signature.args[0]
        source = _data(context, builder, kind, args[0], args[1])
        target = _data(context, builder, signature.args[3], args[3], args[4])
        found = False
        for begin, vector, mask, ones in _groups(context, builder, kind, args[2]):
            found = True
            place = builder.gep(target, [ir.IntType(WORD)(begin)])
            place = builder.bitcast(place, vector.as_pointer())
            there = builder.load(place, align=1, typ=vector)
            loaded = builder.bitcast(source, vector.as_pointer())
            dense = builder.load(loaded, align=1, typ=vector)
            name = f"llvm.x86.avx512.mask.expand.v{vector.count}i{vector.element.width}"
            wide = _call(builder, name, vector, [dense, there, mask])
            builder.store(wide, place, align=1)
            source = builder.gep(source, [ones])
        if not found:
            loop: Any = put_by_loop
            return context.compile_internal(builder, loop.py_func, signature, args)
        return context.get_dummy_value()

    return types.void(values, types.intp, types.uint64, out, types.intp), generate
