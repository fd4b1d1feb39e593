"""Output files: complete or absent, never half written.

Bytes go to a file without a name in the output's folder, which vanishes with the process, even
under SIGKILL. It gets its name, or replaces what has it, only once it is complete and synced.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from typing import IO

from elsa_cli.core.closing import Closing
from elsa_cli.errors import DiskFull, OutputError, OutputExists, Param, UsageError, Words
from elsa_cli.storage.copying import COPY_BYTES
from elsa_cli.storage.placing import NewFile
from elsa_cli.storage.source import ByteSource, Extent
from elsa_cli.storage.system import (
    FULL,
    advise_written,
    copy_some,
    free_bytes,
    lengthen,
    read_some,
    write_some,
)

__all__ = ["STDOUT", "OutputFile", "Policy"]

STDOUT = "-"
STDOUT_NAMES = ("/dev/stdout", "/dev/fd/1", "/proc/self/fd/1")


class Policy:
    """What may be overwritten.

    Args:
        inputs: Files that are being read.
        clobber: Whether an existing output may be replaced.
        force: Whether an output may replace one of the inputs.
    """

    def __init__(
        self,
        inputs: Sequence[str | os.PathLike[str]] = (),
        *,
        clobber: bool = True,
        force: bool = False,
    ) -> None:
        """Keep the choices."""
        self.inputs = [os.fspath(i) for i in inputs]
        self.clobber = clobber
        self.force = force

    def check(self, path: str) -> None:
        """Raise unless `path` may be written.

        Raises:
            OutputExists: It exists and may not be replaced.
            UsageError: It is one of the inputs.
            OutputError: It is a folder, or its folder does not exist.
        """
        if path == STDOUT:
            return
        if os.path.isdir(path):
            raise OutputError(
                "is a folder", file=path, hint=Words("name a file with {}", Param("output"))
            )
        folder = os.path.dirname(os.path.realpath(path))
        if not os.path.isdir(folder):
            raise OutputError("its folder does not exist", file=path, hint=f"mkdir -p {folder}")
        if not os.path.exists(path):
            return
        if not self.clobber and os.path.isfile(path):
            raise OutputExists(
                "exists already", file=path, hint=Words("leave out {}", Param("clobber", False))
            )
        if not self.force and any(os.path.samefile(path, i) for i in self.inputs):
            raise UsageError(
                "the output is also an input",
                file=path,
                hint=Words("choose another {}, or add {}", Param("output"), Param("force", True)),
            )


class OutputFile(Closing):
    """One output, written at any offset from any thread; `commit` puts it in place.

    Used as a context manager: leaving without `commit` discards it, and an existing file of that
    name stays as it was. Devices and pipes are never replaced: they get the bytes at `commit`.

    Args:
        path: Where it goes; `-` is standard output.
        policy: What may be overwritten.
    """

    def __init__(self, path: str | os.PathLike[str], policy: Policy | None = None) -> None:
        """Open a nameless file.

        Raises:
            OutputError: It cannot be created, or the policy forbids it.
        """
        self.path = os.fspath(path)
        if self.path in STDOUT_NAMES:
            self.path = STDOUT
        policy = policy or Policy()
        policy.check(self.path)
        self._stream = self.path == STDOUT
        self._target = self.path if self._stream else os.path.realpath(self.path)
        self._clobber = policy.clobber
        replaced: os.stat_result | None = None
        if not self._stream and os.path.exists(self._target):
            replaced = os.stat(self._target)
            if not stat.S_ISREG(replaced.st_mode):
                self._stream, replaced = True, None
        self._folder = tempfile.gettempdir() if self._stream else os.path.dirname(self._target)
        # File systems let one writer at a time into a file and have the others spin; waiting here
        # costs nothing.
        self._writing = threading.RLock()
        self._filled: dict[int, int] = {}  # bytes written, by block, of blocks that are not full
        with self.reporting():
            place = os.path.join(self._folder, "stdout") if self._stream else self._target
            self._file = NewFile(place, replaced, temporary=self._stream)

    @property
    def fd(self) -> int:
        """The descriptor of what is written."""
        return self._file.fd

    @property
    def source(self) -> ByteSource:
        """What has been written so far, as a byte source."""
        return _Written(self)

    def reserve(self, size: int) -> None:
        """Raise DiskFull if the file system is known to have no room for `size` bytes."""
        free = free_bytes(self.fd)
        if free is not None and size > free:
            raise DiskFull(
                f"needs {size:,} bytes, {free:,} are free in {self._folder}", file=self.path
            )

    def write_at(self, offset: int, data: memoryview | bytes) -> None:
        """Write `data` (bytes) at `offset`."""
        view = memoryview(data)
        with self.reporting(), self._writing:
            while len(view):
                done = write_some(self.fd, view, offset)
                self._written(offset, done)
                view, offset = view[done:], offset + done

    def _written(self, offset: int, size: int) -> None:
        """Let the disk begin with each block that is full, so that the last sync is short."""
        while size:
            block, at = divmod(offset, COPY_BYTES)
            part = min(size, COPY_BYTES - at)
            filled = self._filled.pop(block, 0) + part
            if filled < COPY_BYTES:
                self._filled[block] = filled
            else:
                advise_written(self.fd, offset - at, COPY_BYTES)
            offset, size = offset + part, size - part

    def resize(self, size: int) -> None:
        """Make the file `size` bytes long, no less than is written; the rest reads as zero."""
        with self.reporting():
            lengthen(self.fd, size)

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fill `buffer` with bytes that were written from `offset`."""
        with self.reporting():
            done = 0
            while done < len(buffer):
                got = read_some(self.fd, buffer[done:], offset + done)
                if not got:
                    raise OutputError("ended while it was read back", file=self.path)
                done += got

    def copy_from(self, extent: Extent, offset: int) -> None:
        """Copy bytes of a source to `offset`, inside the kernel where the source is a file."""
        source, begin, size = extent
        if source.fd is None:
            buffer = memoryview(bytearray(min(size, COPY_BYTES)))
            for done in range(0, size, COPY_BYTES):
                some = buffer[: min(COPY_BYTES, size - done)]
                source.read_into(begin + done, some)
                self.write_at(offset + done, some)
            return
        while size:
            with self.reporting(), self._writing:
                done = copy_some(source.fd, self.fd, min(size, COPY_BYTES), begin, offset)
                self._written(offset, done)
            if not done:
                raise OutputError(f"{source.name} ended while it was copied", file=self.path)
            begin, offset, size = begin + done, offset + done, size - done

    def stream(self) -> IO[bytes]:
        """Return a file object that writes the file from its beginning; close it to commit.

        Its errors are those of the system; `reporting` puts them into words.
        """
        return open(self.fd, "wb", closefd=False)

    def commit(self) -> None:
        """Put the complete file in place, or send it to its stream."""
        if self._stream:
            try:
                self._send()
            except BrokenPipeError:
                raise
            except OSError as error:
                name = "standard output" if self.path == STDOUT else self.path
                raise OutputError(f"cannot be written: {error.strerror}", file=name) from error
        else:
            with self.reporting():
                placed = self._file.place(clobber=self._clobber)
            if not placed:
                raise OutputExists(
                    "exists by now",
                    file=self.path,
                    hint=Words("leave out {}", Param("clobber", False)),
                )

    def _send(self) -> None:
        with contextlib.ExitStack() as stack:
            if self.path == STDOUT:
                if sys.stdout is None:
                    raise OutputError(
                        "standard output is closed",
                        hint=Words("name a file with {}", Param("output")),
                    )
                sys.stdout.flush()
                sink = sys.stdout.fileno()
            else:
                sink = os.open(self._target, os.O_WRONLY | os.O_CLOEXEC)
                stack.callback(os.close, sink)
            os.lseek(self.fd, 0, os.SEEK_SET)
            with (
                open(self.fd, "rb", closefd=False) as spool,
                open(sink, "wb", closefd=False) as out,
            ):
                shutil.copyfileobj(spool, out, 1 << 20)

    @contextlib.contextmanager
    def reporting(self) -> Iterator[None]:
        """Turn an error of the system into one line of ours."""
        try:
            yield
        except BrokenPipeError:
            raise
        except OSError as error:
            if error.errno in FULL:
                raise DiskFull(
                    f"no space is left in {self._folder} ({error.strerror})", file=self.path
                ) from error
            raise OutputError(f"cannot be written: {error.strerror}", file=self.path) from error

    def close(self) -> None:
        """Discard what was not committed."""
        self._file.close()


class _Written(ByteSource):
    """What has been written to an output; the output closes its own file."""

    def __init__(self, out: OutputFile) -> None:
        self._out = out
        self.name = out.path
        self.size = os.fstat(out.fd).st_size

    @property
    def fd(self) -> int | None:
        return self._out.fd

    def read_into(self, offset: int, buffer: memoryview) -> None:
        self._out.read_into(offset, buffer)

    def close(self) -> None:
        """Leave the file open: it is the output's."""
