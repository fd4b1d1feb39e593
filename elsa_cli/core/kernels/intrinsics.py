"""The operations of `vectors.py` as LLVM code, for numba. Imported only to compile."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from elsa_cli.core.kernels.coding_intrinsics import CODING

__all__ = ["INTRINSICS"]

LANES = 64
WORD = ir.IntType(LANES)


def _lanes(context: Any, builder: Any, array: Any, value: Any, start: Any) -> tuple[Any, Any]:
    """Return (pointer to 64 elements, their vector type)."""
    vector = ir.VectorType(ir.IntType(array.dtype.bitwidth), LANES)
    data = context.make_array(array)(context, builder, value).data
    return builder.bitcast(builder.gep(data, [start]), vector.as_pointer()), vector


def _splat(builder: Any, vector: Any, value: Any) -> Any:
    """Return a vector of 64 copies of an integer of 64 bits, cut to the vector's width."""
    if vector.element.width < LANES:
        value = builder.trunc(value, vector.element)
    nothing = ir.Constant(vector, ir.Undefined)
    one = builder.insert_element(nothing, value, ir.Constant(ir.IntType(32), 0))
    return builder.shuffle_vector(
        one, nothing, ir.Constant(ir.VectorType(ir.IntType(32), LANES), [0] * LANES)
    )


def _comparison(operator: str) -> Any:
    @intrinsic
    def compare(typing: Any, bits: Any, start: Any, select: Any, value: Any) -> Any:
        def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            array = signature.args[0]
            pointer, vector = _lanes(context, builder, array, args[0], args[1])
            some = builder.load(pointer, align=array.dtype.bitwidth // 8)
            some = builder.and_(some, _splat(builder, vector, args[2]))
            found = builder.icmp_unsigned(operator, some, _splat(builder, vector, args[3]))
            return builder.bitcast(found, WORD)

        return types.uint64(bits, types.int64, types.uint64, types.uint64), code

    return compare


@intrinsic
def _clear(typing: Any, bits: Any, start: Any, word: Any) -> Any:
    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        array = signature.args[0]
        pointer, vector = _lanes(context, builder, array, args[0], args[1])
        size = array.dtype.bitwidth // 8
        some = builder.load(pointer, align=size)
        kept = builder.bitcast(args[2], ir.VectorType(ir.IntType(1), LANES))
        cleared = builder.select(kept, some, ir.Constant(vector, [0] * LANES))
        builder.store(cleared, pointer, align=size)
        return context.get_dummy_value()

    return types.void(bits, types.int64, types.uint64), code


@intrinsic
def _ones(typing: Any, word: Any) -> Any:
    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.ctpop(args[0])

    return types.int64(types.uint64), code


@intrinsic
def _zeros_before(typing: Any, word: Any) -> Any:
    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.cttz(args[0], ir.Constant(ir.IntType(1), 1))

    return types.int64(types.uint64), code


# By name; a plain function where the processor has nothing better.
INTRINSICS: dict[str, Any] = {
    "at_least": _comparison(">="),
    "equal": _comparison("=="),
    "clear": _clear,
    "ones": _ones,
    "zeros_before": _zeros_before,
    **CODING,
}
