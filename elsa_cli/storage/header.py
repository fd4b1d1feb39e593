"""The header of a safetensors file: laid out, encoded, read and checked.

What the stock library accepts is accepted, however odd; where this module is stricter, and why,
is in docs/checkpoints.md.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from elsa_cli.core.dtypes import DTYPES, DType
from elsa_cli.errors import (
    DuplicateName,
    HeaderNotJson,
    HeaderTooLong,
    HoleInData,
    OffsetOutOfRange,
    OverlappingTensors,
    ShapeMismatch,
    UnknownDtype,
)

__all__ = [
    "MAX_HEADER",
    "TensorInfo",
    "TensorSpec",
    "check_tiling",
    "encode_header",
    "lay_out",
    "parse_header",
]

MAX_HEADER = 100_000_000  # bytes; the limit of the stock library
LARGEST = (1 << 64) - 1  # a dimension
FIELDS = ("dtype", "shape", "data_offsets")


@dataclass(frozen=True)
class TensorSpec:
    """What a tensor is, wherever its bytes are."""

    name: str
    dtype: DType
    shape: tuple[int, ...]

    @property
    def numel(self) -> int:
        """Number of elements; 1 for a 0-d tensor."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Number of bytes."""
        return self.numel * self.dtype.bits // 8


@dataclass(frozen=True)
class TensorInfo(TensorSpec):
    """One tensor of a file; offsets in bytes from the start of the data."""

    begin: int
    end: int

    @property
    def nbytes(self) -> int:
        """Number of bytes."""
        return self.end - self.begin

    @property
    def spec(self) -> TensorSpec:
        """What the tensor is, without where it lies."""
        return TensorSpec(self.name, self.dtype, self.shape)


def lay_out(tensors: Iterable[TensorSpec], start: int = 0) -> tuple[TensorInfo, ...]:
    """Place tensors one after the other, in the stock library's order: dtype descending, name.

    Args:
        tensors: Any number of them.
        start: Offset of the first, bytes from the start of the data.
    """
    placed = []
    for t in sorted(tensors, key=lambda t: (-t.dtype.order, t.name)):
        end = start + t.numel * t.dtype.bits // 8
        placed.append(TensorInfo(t.name, t.dtype, t.shape, start, end))
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


class _Object(dict[str, Any]):
    """A JSON object that remembers which of its names, if any, stands twice."""

    twice: str | None = None


def _object(items: list[tuple[str, Any]]) -> _Object:
    fields = _Object(items)
    for key, value in items:  # lone surrogates, which JSON can spell and no file can hold
        key.encode()
        if isinstance(value, str):
            value.encode()
    if len(fields) < len(items):
        seen: set[str] = set()
        for name, _ in items:
            if name in seen:
                fields.twice = name
                break
            seen.add(name)
    return fields


def _number(text: str) -> NoReturn:
    raise ValueError(f"{text} is not a number")


def _whole(text: str) -> int | float:
    """Read a whole number; -0 is none to the library, nor is what 64 bits cannot hold."""
    return _float(text) if text == "-0" or len(text) > 20 else int(text)


def _float(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise ValueError("a number is out of range")
    return value


def _refuse_twice(path: str, fields: _Object, tensor: str | None = None) -> None:
    if fields.twice is not None:
        where = fields.twice if tensor is None else tensor
        what = "the name" if tensor is None else f"{fields.twice!r}"
        raise DuplicateName(f"{what} stands twice in the header", file=path, tensor=where)


def parse_header(path: str, text: bytes) -> tuple[dict[str, str], tuple[TensorInfo, ...]]:
    """Return the metadata and the tensors in the order of their offsets.

    Args:
        path: The file, for messages.
        text: The bytes of the JSON.

    Raises:
        MalformedFile: See the kinds in `elsa_cli.errors`.
    """
    try:
        header = json.loads(
            text.decode(),
            object_pairs_hook=_object,
            parse_constant=_number,
            parse_float=_float,
            parse_int=_whole,
        )
        if not isinstance(header, _Object):
            raise ValueError("it does not begin with {")
    except (ValueError, RecursionError) as error:
        reason = str(error).split("\n")[0]
        raise HeaderNotJson(
            f"the header is not JSON: {reason}", file=path, hint="is it a safetensors file?"
        ) from error
    _refuse_twice(path, header)
    metadata = header.pop("__metadata__", None)
    if metadata is None:
        metadata = _Object()
    if not isinstance(metadata, _Object) or not all(isinstance(v, str) for v in metadata.values()):
        raise HeaderNotJson("__metadata__ is not a map of strings to strings", file=path)
    _refuse_twice(path, metadata)
    tensors = [_parse_tensor(path, name, fields) for name, fields in header.items()]
    return dict(metadata), tuple(sorted(tensors, key=lambda t: (t.begin, t.end)))


def _parse_tensor(path: str, name: str, fields: Any) -> TensorInfo:
    """Check one entry of a header; other fields than the three are ignored."""
    if isinstance(fields, _Object):
        if fields.twice in FIELDS:
            _refuse_twice(path, fields, name)
        fields = [fields.get(field) for field in FIELDS]
    # The library takes a list of the three as well, and a dtype that stands as {"F32": null}.
    dtype: Any = None
    shape: Any = None
    offsets: Any = None
    if isinstance(fields, list) and len(fields) == 3:
        dtype, shape, offsets = fields
    if isinstance(dtype, _Object) and list(dtype.values()) == [None] and dtype.twice is None:
        (dtype,) = dtype

    def whole(value: Any, length: int | None = None) -> bool:
        return (
            isinstance(value, list)
            and all(type(v) is int for v in value)
            and length in (None, len(value))
        )

    if not isinstance(dtype, str) or not whole(shape) or not whole(offsets, 2):
        raise HeaderNotJson(
            "the header entry is not dtype, shape and two data_offsets", file=path, tensor=name
        )
    known = DTYPES.get(dtype)
    if known is None:
        raise UnknownDtype(f"unknown dtype {dtype!r}", file=path, tensor=name)
    begin, end = offsets
    if not 0 <= begin <= end < 1 << 63:
        raise OffsetOutOfRange(f"data_offsets [{begin}, {end}]", file=path, tensor=name)
    bits = math.prod(shape) * known.bits
    if not all(0 <= v <= LARGEST for v in shape) or bits % 8 or bits // 8 != end - begin:
        raise ShapeMismatch(
            f"{known.name} of shape {shape} does not fill {end - begin:,} bytes",
            file=path,
            tensor=name,
        )
    return TensorInfo(name, known, tuple(shape), begin, end)


def check_tiling(path: str, tensors: Sequence[TensorInfo]) -> int:
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
