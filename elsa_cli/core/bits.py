"""Bitmasks: one bit a weight, 1 = kept, little bit order, each tensor beginning on a byte."""

from __future__ import annotations

import base64
import zlib
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from elsa_cli.core.dtypes import Bits
from elsa_cli.core.kernels.masking import masking
from elsa_cli.core.work import Scratch

__all__ = [
    "Bools",
    "Bytes",
    "Deflater",
    "decode_text",
    "encode_text",
    "is_coded_text",
    "mask_buffers",
    "mask_bytes",
    "pack_bits",
    "popcount",
    "unpack_bits",
    "zero_unkept",
]

Bools = NDArray[np.bool_]
Bytes = NDArray[np.uint8]

ROOM = 9  # zlib's memLevel, the largest
HELD = (1 << ROOM + 5) - 1  # bytes; from here on a coder needs it


FEW_BYTES = 1 << 12


def mask_bytes(numel: int) -> int:
    """Return the bytes of the mask of `numel` weights."""
    return -(-numel // 8)


def mask_buffers(scratch: Scratch, count: int, numel: int) -> Bytes:
    """Return a thread's buffer for masks of `numel` weights, (count, ceil(numel / 8)), not set."""
    size = mask_bytes(numel)
    masks: Bytes = scratch.array("masks", count * size, np.uint8).reshape(count, size)
    return masks


def pack_bits(mask: Bools) -> Bytes:
    """Pack booleans: bit i of byte j is element 8j + i; spare bits are 0."""
    return np.packbits(mask, bitorder="little")


def unpack_bits(packed: Bytes, numel: int) -> Bools:
    """Return the first `numel` bits as booleans."""
    return np.unpackbits(packed, count=numel, bitorder="little").view(np.bool_)


def popcount(packed: Bytes) -> int:
    """Return how many bits are set."""
    if packed.size <= FEW_BYTES:  # any kernel takes longer
        return int.from_bytes(packed.tobytes(), "little").bit_count()
    return masking(packed.size).popcount(packed)


def zero_unkept(bits: Bits, packed: Bytes, scratch: Scratch) -> None:
    """Set to +0.0, in place, every weight of `bits` whose bit in `packed` is 0."""
    # A quarter: there is that much less to gain than where weights are compared.
    masking(bits.nbytes // 4).zero_unkept(bits, packed, scratch)


class Deflater:
    """Raw deflate with Huffman codes only: within 2 % of the entropy on independent bits.

    A coder with room for 2 ** (m + 6) codes ends a block when they are full. One that has more
    room than it needs gives the same bytes as one with a little, but its memory takes longer to
    clear than a small mask to code. So the first bytes are held until it is known how many come.
    """

    def __init__(self, sink: Callable[[bytes], object]) -> None:
        """Send what is coded to `sink`."""
        self._coder: zlib._Compress | None = None
        self._held = bytearray()
        self._sink = sink

    def write(self, data: Bytes | bytes) -> None:
        """Code some more bytes."""
        view = data if isinstance(data, bytes) else data.data
        if self._coder is None:
            if len(self._held) + len(view) < HELD:
                self._held += view
                return
            self._begin(ROOM)
        assert self._coder is not None
        self._sink(self._coder.compress(view))

    def _begin(self, room: int) -> None:
        self._coder = zlib.compressobj(9, zlib.DEFLATED, -15, room, zlib.Z_HUFFMAN_ONLY)
        self._sink(self._coder.compress(self._held))
        self._held.clear()

    def close(self) -> None:
        """Code what is left and end the stream."""
        if self._coder is None:
            size = len(self._held)
            self._begin(next(m for m in range(1, ROOM + 1) if size < (1 << m + 6) - 1))
        assert self._coder is not None
        self._sink(self._coder.flush())


def encode_text(raw: bytes | bytearray) -> str:
    """Return base64 of the deflated bytes, for a header."""
    parts: list[bytes] = []
    coder = Deflater(parts.append)
    coder.write(np.frombuffer(raw, np.uint8))
    coder.close()
    return base64.b64encode(b"".join(parts)).decode("ascii")


def is_coded_text(text: str) -> bool:
    """Tell whether a text is base64 of deflated bytes, however many."""
    try:
        rest, coder = base64.b64decode(text, validate=True), zlib.decompressobj(-15)
        while rest:  # a little at a time, since it may be made to inflate without end
            coder.decompress(rest, 1 << 20)
            rest = coder.unconsumed_tail
        coder.flush()
    except (ValueError, zlib.error):
        return False
    return coder.eof and not coder.unused_data


def decode_text(text: str, size: int) -> bytes:
    """Undo `encode_text`.

    Raises:
        ValueError: It is not base64 of deflated bytes, or not of `size` bytes.
    """
    try:
        coder = zlib.decompressobj(-15)
        raw = coder.decompress(base64.b64decode(text, validate=True), size + 1)
    except zlib.error as error:
        raise ValueError(str(error)) from error
    if len(raw) != size or not coder.eof or coder.unused_data:
        raise ValueError(f"it does not hold {size:,} bytes")
    return raw
