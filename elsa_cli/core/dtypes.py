"""The dtypes of safetensors 0.8: sizes, order in a file, and the bit layout of floats."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["DTYPES", "Bits", "DType", "FloatBits"]

UNSIGNED = {size: np.dtype(f"<u{size}") for size in (1, 2, 4, 8)}

# An array of raw bits: uint8, uint16, uint32 or uint64, one element a weight.
Bits = NDArray[np.unsignedinteger[Any]]


@dataclass(frozen=True)
class FloatBits:
    """How to order a float dtype by its raw bits.

    Attributes:
        magnitude: Mask of all bits but the sign.
        nonfinite: The lowest magnitude that is infinite or NaN.
        nan: The one NaN of the dtypes without negative zero, which looks like one; else None.
    """

    magnitude: int
    nonfinite: int
    nan: int | None = None


@dataclass(frozen=True)
class DType:
    """One dtype of the safetensors format.

    Attributes:
        name: As spelled in a header.
        bits: Bits an element.
        order: Position in the format's own list; files are written in descending order.
        float_bits: How its values are ordered, or None if its weights cannot be pruned.
    """

    name: str
    bits: int
    order: int
    float_bits: FloatBits | None = None

    @property
    def itemsize(self) -> int:
        """Bytes an element; only for dtypes of whole bytes."""
        return self.bits // 8

    @property
    def unsigned(self) -> np.dtype[Any]:
        """The little-endian unsigned integer dtype of the same width."""
        return UNSIGNED[self.itemsize]

    def magnitudes(self, bits: Bits, out: Bits | None = None) -> Bits:
        """Return `bits` without their signs: unsigned integers that order as |w| does, NaN last."""
        layout = self.float_bits
        assert layout is not None
        if layout.nan is None:
            return np.bitwise_and(bits, bits.dtype.type(layout.magnitude), out=out)
        nan = bits == layout.nan  # first, since `out` may be `bits`
        found: Bits = np.bitwise_and(bits, bits.dtype.type(layout.magnitude), out=out)
        found[nan] = layout.nan
        return found


# In the order of the library's own enumeration; FNUZ and FN floats have no infinity. F8_E8M0 has
# no zero, F4 and F6 share bytes, complex numbers have no order: these are kept, never pruned.
DTYPES: dict[str, DType] = {
    name: DType(name, bits, order, float_bits)
    for order, (name, bits, float_bits) in enumerate(
        [
            ("BOOL", 8, None),
            ("F4", 4, None),
            ("F6_E2M3", 6, None),
            ("F6_E3M2", 6, None),
            ("U8", 8, None),
            ("I8", 8, None),
            ("F8_E5M2", 8, FloatBits(0x7F, 0x7C)),
            ("F8_E4M3", 8, FloatBits(0x7F, 0x7F)),
            ("F8_E8M0", 8, None),
            ("F8_E4M3FNUZ", 8, FloatBits(0x7F, 0x80, nan=0x80)),
            ("F8_E5M2FNUZ", 8, FloatBits(0x7F, 0x80, nan=0x80)),
            ("I16", 16, None),
            ("U16", 16, None),
            ("F16", 16, FloatBits(0x7FFF, 0x7C00)),
            ("BF16", 16, FloatBits(0x7FFF, 0x7F80)),
            ("I32", 32, None),
            ("U32", 32, None),
            ("F32", 32, FloatBits(0x7FFF_FFFF, 0x7F80_0000)),
            ("C64", 64, None),
            ("F64", 64, FloatBits(0x7FFF_FFFF_FFFF_FFFF, 0x7FF0_0000_0000_0000)),
            ("I64", 64, None),
            ("U64", 64, None),
        ]
    )
}
