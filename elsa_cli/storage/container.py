"""One safetensors file: its header read and checked, its bytes read in pieces.

The layout is `u64 little-endian N`, N bytes of JSON, data. The stock library validates and reads
files, but maps them whole and writes only from memory; this module reads pieces into buffers that
the caller owns, so memory does not grow with the file.
"""

from __future__ import annotations

import os
import stat
import struct

from elsa_cli.core.closing import Closing
from elsa_cli.errors import (
    HeaderNotJson,
    HeaderTooLong,
    InputError,
    OtherFormat,
    TrailingBytes,
    TruncatedFile,
)
from elsa_cli.storage.header import (
    MAX_HEADER,
    TensorInfo,
    check_tiling,
    encode_header,
    lay_out,
    parse_header,
)
from elsa_cli.storage.kinds import HEAD, foreign_kind
from elsa_cli.storage.system import read_some

__all__ = ["MAX_HEADER", "Container", "TensorInfo", "encode_header", "lay_out"]


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
            try:
                self.header_bytes, header = _read_header(self, size)
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
        self._pread(0, memoryview(head))
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

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fill `buffer` (bytes) from `offset`, in bytes from the start of the data."""
        self._pread(self.header_bytes + offset, buffer)

    def _pread(self, offset: int, buffer: memoryview) -> None:
        done = 0
        while done < len(buffer):
            try:
                got = read_some(self.fd, buffer[done:], offset + done)
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
    if not size:
        raise TruncatedFile(
            "is empty, too short for a safetensors file", file=path, hint="fetch or save it again"
        )
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
