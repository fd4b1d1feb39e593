"""A file on a local file system as a byte source."""

from __future__ import annotations

import os
import stat

from elsa_cli.errors import InputError, TruncatedFile
from elsa_cli.storage.source import ByteSource
from elsa_cli.storage.system import read_some

__all__ = ["LocalFile"]


class LocalFile(ByteSource):
    """An open regular file.

    Args:
        path: The file.

    Raises:
        InputError: It cannot be opened, or is not a regular file.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.name = os.fspath(path)
        try:
            kind = os.stat(self.name).st_mode
            if stat.S_ISDIR(kind):
                raise InputError(
                    "is a folder", file=self.name, hint="name the safetensors file in it"
                )
            if not stat.S_ISREG(kind):  # opening a pipe would wait for its writer
                raise InputError(
                    "is not a regular file", file=self.name, hint="pipe it in, and name it -"
                )
            self._fd = os.open(self.name, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise InputError(f"cannot be read: {error.strerror}", file=self.name) from error
        self.size = os.fstat(self._fd).st_size

    @property
    def fd(self) -> int | None:
        """The descriptor, while the file is open."""
        return self._fd if self._fd >= 0 else None

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fill `buffer` with the bytes from `offset`; see `ByteSource`."""
        done = 0
        while done < len(buffer):
            try:
                got = read_some(self._fd, buffer[done:], offset + done)
            except OSError as error:
                raise InputError(f"cannot be read: {error.strerror}", file=self.name) from error
            if not got:
                raise TruncatedFile(
                    f"ends at byte {offset + done:,}, {len(buffer) - done:,} bytes early",
                    file=self.name,
                    hint="the file is damaged; fetch or save it again",
                )
            done += got

    def close(self) -> None:
        """Close the file; closing twice is harmless."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
