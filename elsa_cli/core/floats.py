"""Raw bits of small floats as wider floats: exact, so that order and ties stay."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from elsa_cli.core.dtypes import Bits, DType

__all__ = ["to_float", "widen"]


def widen(keys: Bits, dtype: DType, common: DType) -> Bits:
    """Return float bits without sign as bits of F32 or F64.

    Args:
        keys: Magnitudes of `dtype`, as `DType.magnitudes` gives them.
        dtype: What they are.
        common: F32 or F64, at least as wide.
    """
    wide = keys
    with np.errstate(invalid="ignore"):  # signalling NaNs become quiet ones, and stay the largest
        if dtype.name == "BF16":
            wide = keys.astype(np.uint32) << np.uint32(16)
        elif dtype.itemsize == 1:
            wide = _FLOAT8[dtype.name].take(keys)
        elif dtype.name == "F16":
            wide = keys.view(np.float16).astype(np.float32).view(np.uint32)
        if common.name == "F64" and dtype.name != "F64":
            wide = wide.view(np.float32).astype(np.float64).view(np.uint64)
    return wide


def to_float(bits: Bits, dtype: DType) -> NDArray[np.float64]:
    """Return the values of raw bits as float64, in the same shape.

    Args:
        bits: Of a float dtype of whole bytes, or of F8_E8M0, which holds powers of two.
        dtype: What they are.
    """
    with np.errstate(invalid="ignore"):
        if dtype.name in ("F64", "F32", "F16"):
            return bits.view(f"<f{dtype.itemsize}").astype(np.float64)
        if dtype.name == "BF16":
            return (bits.astype(np.uint32) << np.uint32(16)).view(np.float32).astype(np.float64)
        if dtype.name == "F8_E8M0":
            powers = np.exp2(bits.astype(np.float64) - 127)
            return np.where(bits == 255, np.nan, powers)
        assert dtype.float_bits is not None
        magnitudes = dtype.magnitudes(bits)
        values = _FLOAT8[dtype.name].take(magnitudes).view(np.float32).astype(np.float64)
        negative = (bits > dtype.float_bits.magnitude) & (magnitudes != dtype.float_bits.nan)
        return np.where(negative, -values, values)


def _float8_table(exponent_bits: int, bias: int, nonfinite: int, *, infinity: bool) -> Bits:
    """Return the float32 bits of the magnitudes 0 … 128 of an 8-bit float.

    Those from `nonfinite` on are NaN, but for the first one where there is `infinity`.
    """
    key = np.arange(129)
    mantissa_bits = 7 - exponent_bits
    mantissa = key & ((1 << mantissa_bits) - 1)
    exponent = key >> mantissa_bits
    fraction = np.where(exponent > 0, 1 + mantissa / (1 << mantissa_bits), 0.0)
    fraction = np.where(exponent > 0, fraction, mantissa / (1 << mantissa_bits))
    values = fraction * 2.0 ** (np.maximum(exponent, 1) - bias)
    bits: Bits = values.astype(np.float32).view(np.uint32)
    bits[nonfinite:] = 0x7FC0_0000 + np.arange(key.size - nonfinite)
    if infinity:
        bits[nonfinite] = 0x7F80_0000
    return bits


_FLOAT8: dict[str, Bits] = {
    "F8_E5M2": _float8_table(5, 15, 0x7C, infinity=True),
    "F8_E4M3": _float8_table(4, 7, 0x7F, infinity=False),
    "F8_E4M3FNUZ": _float8_table(4, 8, 0x80, infinity=False),
    "F8_E5M2FNUZ": _float8_table(5, 16, 0x80, infinity=False),
}
