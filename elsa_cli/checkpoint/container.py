"""One safetensors file: its header read and checked, its bytes read in pieces.

The layout is `u64 little-endian N`, N bytes of JSON, data. The stock library validates and reads
files, but maps them whole and writes only from memory; this module reads with `pread` into
buffers that the caller owns, so memory does not grow with the file.
"""

from __future__ import annotations

import json
import math
import os
import stat
import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from elsa_cli.checkpoint.closing import Closing
from elsa_cli.checkpoint.dtypes import DTYPES, DType
from elsa_cli.errors import (
    DuplicateName,
    HeaderNotJson,
    HeaderTooLong,
    HoleInData,
    InputError,
    OffsetOutOfRange,
    OverlappingTensors,
    ShapeMismatch,
    TrailingBytes,
    TruncatedFile,
    UnknownDtype,
)

__all__ = ["MAX_HEADER", "Container", "TensorInfo", "encode_header", "lay_out"]

MAX_HEADER = 100_000_000  # bytes; the limit of the stock library


@dataclass(frozen=True)
class TensorInfo:
    """One tensor of a file; offsets in bytes from the start of the data."""

    name: str
    dtype: DType
    shape: tuple[int, ...]
    begin: int
    end: int

    @property
    def numel(self) -> int:
        """Number of elements; 1 for a 0-d tensor."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Number of bytes."""
        return self.end - self.begin


def lay_out(
    tensors: Iterable[tuple[str, DType, tuple[int, ...]]], start: int = 0
) -> tuple[TensorInfo, ...]:
    """Place tensors one after the other, in the stock library's order: dtype descending, name.

    Args:
        tensors: Name, dtype and shape of each.
        start: Offset of the first, bytes from the start of the data.
    """
    placed = []
    for name, dtype, shape in sorted(tensors, key=lambda t: (-t[1].order, t[0])):
        end = start + math.prod(shape) * dtype.bits // 8
        placed.append(TensorInfo(name, dtype, shape, start, end))
        start = end
    return tuple(placed)


def encode_header(
    tensors: Sequence[TensorInfo], metadata: Mapping[str, str], length: int | None = None
) -> bytes:
    """Return the first bytes of a file: length field, JSON, padding with spaces to 8 bytes.

    Metadata keys are sorted and `"format": "pt"` is added if there is none, since loaders refuse
    files without it.

    Args:
        tensors: In the order of their offsets.
        metadata: The `__metadata__` of the file.
        length: Total bytes wanted, at least what is needed; by default just that.

    Raises:
        HeaderTooLong: The JSON exceeds 100,000,000 bytes.
    """
    fields: dict[str, Any] = {"__metadata__": dict(sorted({"format": "pt", **metadata}.items()))}
    for t in tensors:
        fields[t.name] = {
            "dtype": t.dtype.name,
            "shape": list(t.shape),
            "data_offsets": [t.begin, t.end],
        }
    text = json.dumps(fields, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
    needed = 8 + len(text) + -len(text) % 8
    total = needed if length is None else length
    assert total >= needed
    assert total % 8 == 0
    if total - 8 > MAX_HEADER:
        raise HeaderTooLong(f"the header would take {total - 8:,} bytes, over {MAX_HEADER:,}")
    return struct.pack("<Q", total - 8) + text.ljust(total - 8)


class Container(Closing):
    """An open safetensors file.

    Attributes:
        path: As given.
        tensors: In the order of their data.
        metadata: The `__metadata__` of the header, empty if there is none.
        header_bytes: Where the data begins, bytes from the start of the file.
        data_bytes: How many bytes of data the header promises.
        available: How many bytes of data the file has; less only in a cut packed checkpoint.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Open and check a file.

        Raises:
            MalformedFile: See the kinds in `elsa_cli.errors`.
            InputError: It cannot be opened. `require_whole` checks that no data is missing.
        """
        self.path = os.fspath(path)
        try:
            kind = os.stat(self.path).st_mode
            if stat.S_ISDIR(kind):
                raise InputError(
                    "is a folder", file=self.path, hint="name the safetensors file in it"
                )
            if not stat.S_ISREG(kind):  # opening a pipe would wait for its writer
                raise InputError(
                    "is not a regular file", file=self.path, hint="pipe it in, and name it -"
                )
            self.fd = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise InputError(f"cannot be read: {error.strerror}", file=self.path) from error
        try:
            size = os.fstat(self.fd).st_size
            self.header_bytes, header = _read_header(self, size)
            self.metadata, self.tensors = _parse_header(self.path, header)
            self.data_bytes = _check_tiling(self.path, self.tensors)
            self.available = min(size - self.header_bytes, self.data_bytes)
            surplus = size - self.header_bytes - self.data_bytes
            if surplus > 0:
                raise TrailingBytes(
                    f"{surplus:,} bytes after the last tensor",
                    file=self.path,
                    hint="the file is damaged; fetch or save it again",
                )
        except BaseException:
            self.close()
            raise

    def require_whole(self) -> None:
        """Raise TruncatedFile if data that the header promises is missing."""
        if self.available < self.data_bytes:
            last = next(t for t in self.tensors if t.end > self.available)
            raise TruncatedFile(
                f"the file ends {self.data_bytes - self.available:,} bytes early",
                file=self.path,
                tensor=last.name,
                hint="the file is damaged; fetch or save it again",
            )

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fill `buffer` (bytes) from `offset`, in bytes from the start of the data."""
        self._pread(self.header_bytes + offset, buffer)

    def _pread(self, offset: int, buffer: memoryview) -> None:
        done = 0
        while done < len(buffer):
            try:
                got = os.preadv(self.fd, [buffer[done:]], offset + done)
            except OSError as error:
                raise InputError(f"cannot be read: {error.strerror}", file=self.path) from error
            if not got:
                raise TruncatedFile(
                    f"ends at byte {offset + done:,}, {len(buffer) - done:,} bytes early",
                    file=self.path,
                    hint="the file is damaged; fetch or save it again",
                )
            done += got

    def read(self, tensor: TensorInfo) -> bytes:
        """Return all bytes of a small tensor."""
        data = bytearray(tensor.nbytes)
        self.read_into(tensor.begin, memoryview(data))
        return bytes(data)

    def close(self) -> None:
        """Close the file; closing twice is harmless."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


def _read_header(container: Container, size: int) -> tuple[int, bytes]:
    """Return where the data begins and the bytes of the JSON."""
    path = container.path
    if size < 8:
        raise TruncatedFile(f"{size} bytes is too short for a safetensors file", file=path)
    head = bytearray(8)
    container._pread(0, memoryview(head))
    (length,) = struct.unpack("<Q", head)
    if length > MAX_HEADER:
        raise HeaderTooLong(
            f"a header of {length:,} bytes, over {MAX_HEADER:,}",
            file=path,
            hint="is it a safetensors file?",
        )
    if 8 + length > size:
        raise TruncatedFile(
            f"the header needs {8 + length:,} bytes, the file has {size:,}", file=path
        )
    text = bytearray(length)
    container._pread(8, memoryview(text))
    return 8 + length, bytes(text)


def _parse_header(path: str, text: bytes) -> tuple[dict[str, str], tuple[TensorInfo, ...]]:
    """Return the metadata and the tensors in the order of their offsets."""

    def pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
        fields = dict(items)
        for key, value in items:  # lone surrogates, which JSON can spell and no file can hold
            key.encode()
            if isinstance(value, str):
                value.encode()
        if len(fields) < len(items):
            seen: set[str] = set()
            twice = next(name for name, _ in items if name in seen or seen.add(name))  # type: ignore[func-returns-value]
            raise DuplicateName("the name stands twice in the header", file=path, tensor=twice)
        return fields

    try:
        if not text.startswith(b"{"):
            raise ValueError("it does not begin with {")
        header = json.loads(text.decode(), object_pairs_hook=pairs)
    except (ValueError, RecursionError) as error:
        reason = str(error).split("\n")[0]
        raise HeaderNotJson(
            f"the header is not JSON: {reason}", file=path, hint="is it a safetensors file?"
        ) from error
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise HeaderNotJson("__metadata__ is not a map of strings to strings", file=path)
    tensors = [_parse_tensor(path, name, fields) for name, fields in header.items()]
    return metadata, tuple(sorted(tensors, key=lambda t: (t.begin, t.end)))


def _parse_tensor(path: str, name: str, fields: Any) -> TensorInfo:
    """Check one entry of a header."""

    def whole(value: Any, length: int | None = None) -> bool:
        return (
            isinstance(value, list)
            and all(type(v) is int for v in value)
            and length in (None, len(value))
        )

    if (
        not isinstance(fields, dict)
        or fields.keys() != {"dtype", "shape", "data_offsets"}
        or not isinstance(fields["dtype"], str)
        or not whole(fields["shape"])
        or not whole(fields["data_offsets"], 2)
    ):
        raise HeaderNotJson(
            "the header entry is not dtype, shape and two data_offsets", file=path, tensor=name
        )
    dtype = DTYPES.get(fields["dtype"])
    if dtype is None:
        raise UnknownDtype(f"unknown dtype {fields['dtype']!r}", file=path, tensor=name)
    begin, end = fields["data_offsets"]
    if not 0 <= begin <= end < 1 << 63:
        raise OffsetOutOfRange(f"data_offsets [{begin}, {end}]", file=path, tensor=name)
    shape = tuple(fields["shape"])
    bits = math.prod(shape) * dtype.bits
    if min(shape, default=0) < 0 or bits % 8 or bits // 8 != end - begin:
        raise ShapeMismatch(
            f"{dtype.name} of shape {list(shape)} does not fill {end - begin:,} bytes",
            file=path,
            tensor=name,
        )
    return TensorInfo(name, dtype, shape, begin, end)


def _check_tiling(path: str, tensors: Sequence[TensorInfo]) -> int:
    """Check that tensors follow one another without gap or overlap; return where they end."""
    at = 0
    for t in tensors:
        if t.begin > at:
            raise HoleInData(
                f"{t.begin - at:,} bytes before it belong to no tensor", file=path, tensor=t.name
            )
        if t.begin < at:
            raise OverlappingTensors(
                f"it begins {at - t.begin:,} bytes inside another tensor", file=path, tensor=t.name
            )
        at = t.end
    return at
