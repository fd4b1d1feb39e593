"""One safetensors file: its header read and checked, its bytes read in pieces.

The layout is `u64 little-endian N`, N bytes of JSON, data. The stock library validates and reads
files, but maps them whole and writes only from memory; this module reads pieces into buffers that
the caller owns, so memory does not grow with the file.
"""

from __future__ import annotations

import functools
import os
import struct
from collections.abc import Mapping

from elsa_cli.core.closing import Closing
from elsa_cli.errors import (
    HeaderNotJson,
    HeaderTooLong,
    OtherFormat,
    TrailingBytes,
    TruncatedFile,
)
from elsa_cli.storage.header import (
    MAX_HEADER,
    TensorInfo,
    TensorSpec,
    check_tiling,
    encode_header,
    lay_out,
    parse_header,
)
from elsa_cli.storage.kinds import HEAD, foreign_kind
from elsa_cli.storage.local import LocalFile
from elsa_cli.storage.source import ByteSource, Extent

__all__ = ["MAX_HEADER", "Container", "TensorInfo", "TensorSpec", "encode_header", "lay_out"]


class Container(Closing):
    """An open safetensors file, wherever its bytes are.

    Attributes:
        source: The bytes.
        path: The name of the source: for a file, its path as given.
        tensors: In the order of their data.
        metadata: The `__metadata__` of the header, empty if there is none.
        header_bytes: Where the data begins, bytes from the start of the file.
        data_bytes: How many bytes of data the header promises.
        available: How many bytes of data the file has; less only in a cut packed checkpoint.
    """

    def __init__(self, source: str | os.PathLike[str] | ByteSource) -> None:
        """Open and check a file.

        Args:
            source: A path, or bytes that are open already; they are closed with the container.

        Raises:
            MalformedFile: See the kinds in `elsa_cli.errors`.
            InputError: It cannot be opened. `require_whole` checks that no data is missing.
        """
        self.source = source if isinstance(source, ByteSource) else LocalFile(source)
        self.path = self.source.name
        try:
            size = self.source.size
            try:
                self.header_bytes, header = _read_header(self.source)
                self.metadata, self.tensors = parse_header(self.path, header)
            except (TruncatedFile, HeaderTooLong, HeaderNotJson) as error:
                other = self._other_format(size)
                if other is None:
                    raise
                raise other from error
            self.data_bytes = check_tiling(self.path, self.tensors)
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

    def _other_format(self, size: int) -> OtherFormat | None:
        """Return the error that names what the file is, if it is of a known other kind."""
        head = bytearray(min(size, HEAD))
        self.source.read_into(0, memoryview(head))
        kind = foreign_kind(bytes(head))
        if kind is None:
            return None
        folder = os.path.dirname(self.path) or "the same folder"
        advice = kind.advice.format(folder=folder)
        return OtherFormat(f"is {kind.name}", file=self.path, hint=advice)

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

    @property
    def size(self) -> int:
        """Bytes of the whole file."""
        return self.source.size

    @functools.cached_property
    def named(self) -> Mapping[str, TensorInfo]:
        """The tensors by name."""
        return {t.name: t for t in self.tensors}

    def extent(self, tensor: TensorSpec) -> Extent:
        """Return where the bytes of a tensor of this file are."""
        begin = self.named[tensor.name].begin
        return Extent(self.source, self.header_bytes + begin, tensor.nbytes)

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fill `buffer` (bytes) from `offset`, in bytes from the start of the data."""
        self.source.read_into(self.header_bytes + offset, buffer)

    def read_part(self, tensor: TensorSpec, offset: int, buffer: memoryview) -> None:
        """Fill `buffer` (bytes) with the bytes of a tensor of this file, from an offset in it."""
        self.read_into(self.named[tensor.name].begin + offset, buffer)

    def read(self, tensor: TensorSpec) -> bytes:
        """Return all bytes of a small tensor of this file."""
        data = bytearray(tensor.nbytes)
        self.read_part(tensor, 0, memoryview(data))
        return bytes(data)

    def close(self) -> None:
        """Close the source; closing twice is harmless."""
        self.source.close()


def _read_header(source: ByteSource) -> tuple[int, bytes]:
    """Return where the data begins and the bytes of the JSON."""
    path, size = source.name, source.size
    if not size:
        raise TruncatedFile(
            "is empty, too short for a safetensors file", file=path, hint="fetch or save it again"
        )
    if size < 8:
        raise TruncatedFile(f"{size} bytes is too short for a safetensors file", file=path)
    head = bytearray(8)
    source.read_into(0, memoryview(head))
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
    source.read_into(8, memoryview(text))
    return 8 + length, bytes(text)
