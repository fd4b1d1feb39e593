"""Compiling one kernel: the only file, beside the cache, that knows how numba is called."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import numba
import numpy as np
from numba.core.dispatcher import Dispatcher

from elsa_cli.core.kernels.caching import KernelCache

__all__ = ["kernel", "works"]

Function = TypeVar("Function", bound=Callable[..., Any])


def kernel(function: Function) -> Function:
    """Compile a function for each set of dtypes that it is called with, and keep the code.

    It runs without the interpreter's lock, so that threads run side by side. Whole numbers alone:
    nothing here depends on how floats are rounded.
    """
    found = numba.njit(nogil=True)(function)
    if isinstance(found, Dispatcher):  # it is not where NUMBA_DISABLE_JIT is set
        found._cache = KernelCache(function)
    compiled: Function = found
    return compiled


@kernel
def _probe(values: Any) -> Any:
    found = values[0]
    for i in range(1, values.size):
        found ^= values[i]
    return found


def works() -> bool:
    """Tell whether a small kernel can be compiled and gives what it should."""
    return isinstance(_probe, Dispatcher) and int(_probe(np.array([5, 9], np.uint8))) == 12
