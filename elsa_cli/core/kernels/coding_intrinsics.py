"""The operations of `coding_words.py` for numba. Imported only to compile.

Some are one or two instructions where the processor has them (BMI2, AVX-512 with VBMI2); elsewhere
they are the plain functions.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core.registry import cpu_target
from numba.extending import intrinsic

from elsa_cli.core.kernels import coding_words

__all__ = ["CODING"]

BYTE, WORD = ir.IntType(8), ir.IntType(64)
REGISTER = 512  # bits


def _place(context: Any, builder: Any, kind: Any, array: Any, index: Any) -> Any:
    """Return where byte `index` of an array is, as the place of 64 bits."""
    data = context.make_array(kind)(context, builder, array).data
    place = builder.gep(builder.bitcast(data, BYTE.as_pointer()), [index], source_etype=BYTE)
    return builder.bitcast(place, WORD.as_pointer())


def _call(builder: Any, name: str, result: Any, args: Any) -> Any:
    """Call a function of LLVM."""
    function = builder.module.globals.get(name)
    if function is None:
        kind = ir.FunctionType(result, [arg.type for arg in args])
        function = ir.Function(builder.module, kind, name)
    return builder.call(function, args)


@intrinsic
def _load64(typing: Any, data: Any, at: Any) -> Any:
    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        place = _place(context, builder, signature.args[0], args[0], args[1])
        return builder.load(place, align=1, typ=WORD)

    return types.uint64(data, types.int64), code


@intrinsic
def _store64(typing: Any, data: Any, at: Any, word: Any) -> Any:
    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        place = _place(context, builder, signature.args[0], args[0], args[1])
        builder.store(args[2], place, align=1)
        return context.get_dummy_value()

    return types.void(data, types.int64, types.uint64), code


def _moving(instruction: str) -> Any:
    @intrinsic
    def move(typing: Any, word: Any, mask: Any) -> Any:
        def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            return _call(builder, f"llvm.x86.bmi.{instruction}.64", WORD, args)

        return types.uint64(types.uint64, types.uint64), code

    return move


def _registers(builder: Any, array: Any, word: Any) -> Any:
    """Yield for each register that 64 weights fill: begin, type, mask, its type, number of ones."""
    width = array.dtype.bitwidth
    lanes = REGISTER // width
    flags = ir.VectorType(ir.IntType(1), lanes)
    for begin in range(0, 64, lanes):
        part = builder.lshr(word, WORD(begin))
        part = builder.trunc(part, ir.IntType(lanes)) if lanes < 64 else part
        number = builder.ctpop(part)
        number = builder.zext(number, WORD) if lanes < 64 else number
        yield WORD(begin), ir.VectorType(ir.IntType(width), lanes), part, flags, number


def _element(context: Any, builder: Any, kind: Any, array: Any, index: Any) -> Any:
    return builder.gep(context.make_array(kind)(context, builder, array).data, [index])


@intrinsic
def _take(typing: Any, values: Any, first: Any, word: Any, out: Any, at: Any) -> Any:
    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        kind = signature.args[0]
        source = _element(context, builder, kind, args[0], args[1])
        target = _element(context, builder, signature.args[3], args[3], args[4])
        for begin, vector, part, flags, number in _registers(builder, kind, args[2]):
            place = builder.bitcast(builder.gep(source, [begin]), vector.as_pointer())
            loaded = builder.load(place, align=1, typ=vector)
            name = f"llvm.x86.avx512.mask.compress.v{vector.count}i{vector.element.width}"
            given = [loaded, ir.Constant(vector, None), builder.bitcast(part, flags)]
            dense = _call(builder, name, vector, given)
            builder.store(dense, builder.bitcast(target, vector.as_pointer()), align=1)
            target = builder.gep(target, [number])
        return context.get_dummy_value()

    return types.void(values, types.int64, types.uint64, out, types.int64), code


@intrinsic
def _put(typing: Any, values: Any, at: Any, word: Any, out: Any, first: Any) -> Any:
    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        kind = signature.args[0]
        source = _element(context, builder, kind, args[0], args[1])
        target = _element(context, builder, signature.args[3], args[3], args[4])
        for begin, vector, part, flags, number in _registers(builder, kind, args[2]):
            place = builder.bitcast(builder.gep(target, [begin]), vector.as_pointer())
            there = builder.load(place, align=1, typ=vector)
            dense = builder.load(builder.bitcast(source, vector.as_pointer()), align=1, typ=vector)
            name = f"llvm.x86.avx512.mask.expand.v{vector.count}i{vector.element.width}"
            wide = _call(builder, name, vector, [dense, there, builder.bitcast(part, flags)])
            builder.store(wide, place, align=1)
            source = builder.gep(source, [number])
        return context.get_dummy_value()

    return types.void(values, types.int64, types.uint64, out, types.int64), code


_features = cpu_target.target_context.codegen().magic_tuple()[2].split(",")
_bmi2, _vbmi2 = "+bmi2" in _features, "+avx512vbmi2" in _features

CODING = {
    "load64": _load64,
    "store64": _store64,
    "extract": _moving("pext") if _bmi2 else coding_words.extract_by_shifts,
    "spread": _moving("pdep") if _bmi2 else coding_words.spread_by_shifts,
    "take": _take if _vbmi2 else coding_words.take_by_loop,
    "put": _put if _vbmi2 else coding_words.put_by_loop,
}
