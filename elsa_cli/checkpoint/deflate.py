"""Raw deflate streams: written by a coder of our own, read by whatever inflates fastest.

What is written depends on no library's version, so docs/format.md can state it. It is read by isal
where that is installed, which takes a third of zlib's time, else by zlib.
"""

from __future__ import annotations

import base64
import contextlib
import importlib
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from elsa_cli.core.kernels.coding_deflate import BLOCK, WORK, deflate_bound, deflate_kernels

__all__ = [
    "Deflater",
    "Inflater",
    "decode_text",
    "deflate",
    "deflate_several",
    "encode_text",
    "inflate",
    "is_coded_text",
]

Bytes = NDArray[np.uint8]
Integers = NDArray[np.int64]

HELD = 4 * BLOCK  # bytes that are coded together
# What coding a byte, and making the codes of a stream, is worth in bytes of weights: numpy's form
# takes longer over it than over weights, so the compiled one pays for itself sooner.
BYTE, STREAM = 1 << 5, 1 << 16
SOME = 1 << 20  # bytes inflated at a time where they are not kept

_library: Any = zlib
with contextlib.suppress(ImportError):  # a wheel of it may be missing for a platform
    _library = importlib.import_module("isal.isal_zlib")
_ERRORS = (zlib.error, _library.error)


class Deflater:
    """Codes a stream, a piece at a time; the pieces do not matter for what comes out.

    Args:
        sink: Takes the coded bytes, some at a time.
    """

    def __init__(self, sink: Callable[[bytes], object]) -> None:
        """Begin with no byte."""
        self._sink = sink
        self._held = bytearray()
        self._state: Integers = np.zeros(2, np.int64)

    def write(self, data: Bytes | bytes) -> None:
        """Code some more bytes."""
        self._held += data if isinstance(data, bytes) else data.data
        if len(self._held) > HELD:
            # The last block is marked as such: some bytes have to be left for it.
            self._code((len(self._held) - 1) // BLOCK * BLOCK, last=False)

    def close(self) -> None:
        """Code what is left and end the stream."""
        self._code(len(self._held), last=True)

    def _code(self, size: int, *, last: bool) -> None:
        held, self._held = self._held, self._held[size:]
        data = np.frombuffer(held, np.uint8)[:size]
        ends: Integers = np.array([size], np.int64)
        self._sink(_code(data, ends, last, self._state)[0])


def deflate(data: bytes | bytearray) -> bytes:
    """Return a stream of some bytes."""
    parts: list[bytes] = []
    coder = Deflater(parts.append)
    coder.write(bytes(data))
    coder.close()
    return b"".join(parts)


def deflate_several(data: Bytes, ends: Integers) -> tuple[bytes, Integers]:
    """Return a stream of each of some parts, all in a row, and their sizes in bytes.

    Args:
        data: The parts, one behind the other.
        ends: (n,): where each ends.
    """
    return _code(data, ends, True, np.zeros(2, np.int64))


def _code(data: Bytes, ends: Integers, last: bool, state: Integers) -> tuple[bytes, Integers]:
    """Return what `DeflateKernels.code_streams` makes of some parts."""
    out: Bytes = np.empty(deflate_bound(data.size, ends.size), np.uint8)
    sizes: Integers = np.zeros(ends.size, np.int64)
    kernels = deflate_kernels(BYTE * data.size + STREAM * ends.size)
    total = kernels.code_streams(data, ends, int(last), state, out, sizes, np.empty(WORK, np.int64))
    return out[:total].tobytes(), sizes


class Inflater:
    """Reads a stream, some bytes at a time.

    Args:
        read: Returns up to so many further coded bytes, b"" at the end.
        ahead: Coded bytes to ask for at a time.
    """

    def __init__(self, read: Callable[[int], bytes], ahead: int = 1 << 16) -> None:
        """Begin before the first byte."""
        self._read = read
        self._ahead = ahead
        self._inflater = _library.decompressobj(-15)

    def take(self, size: int) -> bytes:
        """Return up to `size` further bytes, not 0; b"" at the end of the stream, or of the input.

        Raises:
            ValueError: The stream is damaged.
        """
        try:
            while not self._inflater.eof:
                coded = self._inflater.unconsumed_tail or self._read(self._ahead)
                raw: bytes = self._inflater.decompress(coded, size)
                if raw or not coded:
                    return raw
        except _ERRORS as error:
            raise _damaged(error) from error
        return b""

    @property
    def ended(self) -> bool:
        """Whether the end of the stream has come, and nothing is behind it."""
        return self._inflater.eof and not self._inflater.unused_data and not self._read(1)


def inflate(coded: bytes | memoryview, size: int) -> bytes:
    """Return the bytes of a stream.

    Args:
        coded: The stream, and nothing behind it.
        size: How many bytes it may hold.

    Raises:
        ValueError: It is damaged, holds more, or something is behind it.
    """
    inflater = _library.decompressobj(-15)
    try:
        raw: bytes = inflater.decompress(coded, size + 1)
    except _ERRORS as error:
        raise _damaged(error) from error
    if len(raw) > size:
        raise ValueError(f"it holds more than {size:,} bytes")
    if not inflater.eof:
        raise ValueError("its deflate stream has no end")
    if inflater.unused_data:
        raise ValueError("there is something behind its deflate stream")
    return raw


def _damaged(error: Exception) -> ValueError:
    """Return the error that says so, whichever library found it."""
    return ValueError(f"its deflate stream is damaged ({error})")


def encode_text(raw: bytes | bytearray) -> str:
    """Return base64 of the deflated bytes, for a header."""
    return base64.b64encode(deflate(raw)).decode("ascii")


def is_coded_text(text: str) -> bool:
    """Tell whether a text is base64 of deflated bytes, however many."""
    try:
        rest = base64.b64decode(text, validate=True)
        left = [rest]
        inflater = Inflater(lambda _: left.pop() if left else b"", len(rest))
        while inflater.take(
            SOME
        ):  # a little at a time, since it may be made to inflate without end
            pass
    except ValueError:
        return False
    return inflater.ended


def decode_text(text: str, size: int) -> bytes:
    """Undo `encode_text`.

    Raises:
        ValueError: It is not base64 of deflated bytes, or not of `size` bytes.
    """
    raw = inflate(base64.b64decode(text, validate=True), size)
    if len(raw) != size:
        raise ValueError(f"it holds {len(raw):,} bytes instead of {size:,}")
    return raw
