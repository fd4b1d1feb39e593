"""Both forms of a family of kernels, for tests that compare them."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from elsa_cli.core.kernels import compiles

__all__ = ["both", "packed"]


def both(family: str) -> tuple[Any, ...]:
    """Return numpy's form and the compiled one."""
    if not compiles():
        pytest.skip("numba cannot compile here")
    found: tuple[ModuleType, ...] = tuple(
        import_module(f"elsa_cli.core.kernels.{family}_{kind}") for kind in ("numpy", "compiled")
    )
    return found


def packed(bits: Any) -> Any:
    """Pack bits with numpy: bit i of byte j is element 8j + i."""
    return np.packbits(np.asarray(bits, np.bool_), bitorder="little")
