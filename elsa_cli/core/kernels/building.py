"""From a function in plain Python to machine code, by way of numba. Imported only to compile.

numba is asked for optimised LLVM code without any of its wrappers, which need Python and numba
itself; what is left is a function of pointers and integers, which any process can load.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from types import FunctionType
from typing import Any

import numba
import numpy as np
from numba import types

from elsa_cli.core.kernels.intrinsics import INTRINSICS

__all__ = ["build"]

OPTIONS: dict[str, Any] = {
    "nogil": True,
    "boundscheck": False,
    "error_model": "numpy",
    "_nrt": False,  # arrays belong to the caller: nothing is counted or freed
    "no_cpython_wrapper": True,
    "no_cfunc_wrapper": True,
}
RETURNS = {types.none: "none", types.int64: "int", types.uint64: "int", types.boolean: "bool"}


def build(function: Callable[..., Any], kinds: Sequence[str]) -> tuple[str, str, str]:
    """Return (LLVM code, name of the function in it, what it returns).

    Args:
        function: Plain Python: loops over arrays and integers, no exception, no allocation.
        kinds: Of its arguments: `i` and `u` for integers of 64 bits, `u2 1` for an array of
            uint16 with one dimension.

    Raises:
        ValueError: It returns something else than an integer, or calls what is not there.
    """
    signature = tuple(_type_of(kind) for kind in kinds)
    dispatcher = numba.njit(**OPTIONS)(_with_helpers(function))
    dispatcher.compile(signature)
    result = dispatcher.overloads[signature]
    code = dispatcher.inspect_llvm(signature)
    returns = RETURNS.get(result.signature.return_type)
    if returns is None:
        raise ValueError(f"{function.__name__} returns {result.signature.return_type}")
    # A symbol that is not found ends the process, so that none may be needed.
    needed = [n for n in re.findall(r"^declare .*?@([\w.$]+)\(", code, re.M) if n[:5] != "llvm."]
    if needed:
        raise ValueError(f"{function.__name__} needs {needed[0]}")
    return code, result.fndesc.mangled_name, returns


def _type_of(kind: str) -> Any:
    if kind in ("i", "u"):
        return types.int64 if kind == "i" else types.uint64
    dtype, dimensions = kind.split()
    return types.Array(numba.from_dtype(np.dtype(dtype)), int(dimensions), "C")


def _with_helpers(function: Callable[..., Any]) -> Any:
    """Return a copy of a function that sees numba's form of the helpers it names."""
    assert isinstance(function, FunctionType)
    names = dict(function.__globals__)
    for name in function.__code__.co_names:
        marks = getattr(names.get(name), "__dict__", {})
        found = INTRINSICS[marks["vectored"]] if "vectored" in marks else marks.get("inlined")
        if isinstance(found, FunctionType):
            found = numba.njit(**OPTIONS, forceinline=True)(_with_helpers(found))
        if found is not None:
            names[name] = found
    return FunctionType(
        function.__code__, names, function.__name__, function.__defaults__, function.__closure__
    )
