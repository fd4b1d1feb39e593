"""Hot loops on raw bits, each in two forms that give the same bits: numpy, and compiled by numba.

A family of kernels is three files: `FAMILY.py` says what the kernels do (a `Protocol`) and picks
the form; `FAMILY_numpy.py` and `FAMILY_compiled.py` hold them, under the same names and with the
same parameters. Only the `_compiled` files import numba, and they are imported only where much is
to be done: importing numba and loading compiled code takes longer than small files do.
"""

from __future__ import annotations

import functools
import importlib
import os
from types import ModuleType

from elsa_cli.errors import UsageError

__all__ = ["ENOUGH", "VARIABLE", "form"]

# Bytes of weights for which loading compiled code pays for itself.
ENOUGH = 1 << 26

# Set to `numpy` or `compiled`, it decides; unset or empty, the size does.
VARIABLE = "ELSA_KERNELS"

_announced = 0


def form(family: str, nbytes: int) -> ModuleType:
    """Return the module with one form of a family of kernels.

    What is to be done adds up over the life of a process: a caller that sees a piece at a time
    gets numpy's form at first, and the compiled one once ENOUGH bytes have come by.

    Args:
        family: Its name, such as `selecting`.
        nbytes: Bytes of weights that the kernels are about to see.

    Raises:
        UsageError: The variable ELSA_KERNELS asks for what is not there.
    """
    return _module(f"{__name__}.{family}_{_kind(nbytes)}")


_module = functools.cache(importlib.import_module)  # called for every piece, it should cost nothing


def _kind(nbytes: int) -> str:
    global _announced
    asked = os.environ.get(VARIABLE, "")
    if asked not in ("", "numpy", "compiled"):
        raise UsageError(
            f"{VARIABLE} is {asked!r}", hint="set it to numpy or compiled, or unset it"
        )
    if asked == "numpy":
        return "numpy"
    if asked == "compiled":
        if not compiles():
            raise UsageError(
                f"{VARIABLE} is 'compiled', but numba cannot compile here",
                hint="install numba, or unset the variable",
            )
        return "compiled"
    _announced += nbytes  # threads may lose some of it to each other, which matters little
    return "compiled" if _announced >= ENOUGH and compiles() else "numpy"


@functools.cache
def compiles() -> bool:
    """Tell whether numba is there and makes code that this machine runs."""
    try:
        compiling = importlib.import_module(f"{__name__}.compiling")
        return bool(compiling.works())
    except Exception:  # whatever it is: numba is one of two ways
        return False
