"""Which checkpoint a command works on: an argument, standard input, or the one in the folder."""

from __future__ import annotations

import contextlib
import os
import select
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from glob import escape, glob

from elsa_cli.errors import ElsaError, InputError, MissingFile, OutputError, UsageError
from elsa_cli.ui import Screen, listed

__all__ = ["Input", "open_input", "open_optional"]

STDIN = 0
PATTERN = "*.elsa.safetensors"
LONGEST_PATH = 1 << 16  # bytes
PATIENCE = 2.0  # seconds of silence after which a line says what the command waits for
NAME = "standard input"
LEAVE = "name a checkpoint to leave standard input alone"


@dataclass(frozen=True)
class Input:
    """A checkpoint to read.

    Attributes:
        path: Where to open it.
        named: Whether the path is a name that the user knows; bytes from standard input have none.
    """

    path: str
    named: bool = True


@contextlib.contextmanager
def open_input(
    argument: str | None, screen: Screen, *, search: bool, patience: float = PATIENCE
) -> Iterator[Input]:
    """Find the checkpoint; bytes from standard input are spooled to disk while it is used.

    Standard input is not touched, nor its position moved, if a path is given.

    Args:
        argument: The path given, `-` for standard input, or None.
        screen: Shows where the checkpoint was found if the user did not name one.
        search: Whether to look for the only nested checkpoint of the current folder.
        patience: Seconds of silence after which the screen says what the command waits for.

    Raises:
        UsageError: There is none, or more than one, or standard input is no checkpoint.
        InputError: It does not exist.
    """
    if argument is not None and argument != "-":
        yield Input(_existing(argument))
    elif argument == "-" or _is_offered():
        instead = "add < /dev/null to take the one in the folder" if search else None
        source = _StandardInput(screen, patience, asked=argument == "-", instead=instead)
        with source.open() as piped:
            yield piped
    elif search:
        path = _only_nested()
        screen.note(f"using {path}, the only {PATTERN} here")
        yield Input(path)
    else:
        raise UsageError("no checkpoint is given", hint="name a safetensors file")


@contextlib.contextmanager
def open_optional(argument: str | None, screen: Screen) -> Iterator[Input | None]:
    """Find the checkpoint that is named; None, and standard input untouched, if none is.

    Args:
        argument: The path given, `-` for standard input, or None.
        screen: Shows what the command waits for.

    Raises:
        UsageError: Standard input is meant, and is no checkpoint.
        InputError: The checkpoint does not exist.
    """
    if argument is None:
        yield None
    else:
        with open_input(argument, screen, search=False) as found:
            yield found


def _existing(path: str, origin: str | None = None) -> str:
    """Return a path, which must be that of a file.

    Args:
        path: The path.
        origin: Where it came from, for the error, if the user did not type it.
    """
    if os.path.isdir(path):
        raise InputError("is a folder", file=path, hint=origin or "name the safetensors file in it")
    if not os.path.exists(path):
        raise MissingFile("does not exist", file=path, hint=origin)
    return path


def _is_offered() -> bool:
    """Tell whether standard input may be meant although no checkpoint is named.

    A pipe may. A file may, but only at its start: elsewhere, another program is reading it, as a
    shell reads its script, and a loop its list.
    """
    try:
        status = os.fstat(STDIN)
        if stat.S_ISREG(status.st_mode):
            return status.st_size > 0 and os.lseek(STDIN, 0, os.SEEK_CUR) == 0
        return stat.S_ISFIFO(status.st_mode)
    except OSError:
        return False


class _StandardInput:
    """Standard input: a line with a path, or the bytes of a safetensors file.

    Only as much is read as tells which of them it is. If it is neither, a file is left at the
    position it had; a pipe cannot take bytes back, so the error says how many were read.

    Args:
        screen: Shows what the command waits for.
        patience: Seconds of silence before that.
        asked: Whether the user named it, as `-`.
        instead: How to have a checkpoint without it, if there is a way.
    """

    def __init__(
        self, screen: Screen, patience: float, *, asked: bool, instead: str | None
    ) -> None:
        if asked and os.isatty(STDIN):
            raise UsageError("standard input is a terminal", hint="name a safetensors file")
        self._screen = screen
        self._patience: float | None = patience
        self._asked = asked
        self._instead = instead
        self._taken = 0
        self._start: int | None = None
        with contextlib.suppress(OSError):  # a pipe has no position
            self._start = os.lseek(STDIN, 0, os.SEEK_CUR)

    @contextlib.contextmanager
    def open(self) -> Iterator[Input]:
        """Give the checkpoint."""
        path = None
        try:
            head = self._first(8)
            # The eighth byte is 0 in every legal safetensors file, and never in a path.
            if len(head) < 8 or head[7]:
                path = _existing(self._line(head), self._origin())
        except ElsaError:
            if self._start is not None:
                os.lseek(STDIN, self._start, os.SEEK_SET)
            raise
        if path is not None:
            yield Input(path)
            return
        with self._spooled(head) as path:
            try:
                yield Input(path, named=False)
            except ElsaError as error:
                if error.file != path:
                    raise
                raise error.renamed(NAME) from error

    def _read(self, size: int) -> bytes:
        """Return up to `size` bytes, none at the end; say so if they take long to come."""
        try:
            if self._patience is not None and not select.select([STDIN], [], [], self._patience)[0]:
                self._patience = None
                self._screen.note(
                    "waiting for standard input: a path or a safetensors file; "
                    "name a file to read that instead"
                )
            got = os.read(STDIN, size)
        except OSError as error:
            raise InputError(f"cannot be read: {error.strerror}", file=NAME) from error
        self._taken += len(got)
        return got

    def _first(self, size: int) -> bytes:
        """Return the first bytes, fewer if there are no more.

        Raises:
            UsageError: There are none.
        """
        head = b""
        while len(head) < size and (got := self._read(size - len(head))):
            head += got
        if head:
            return head
        if self._asked:
            raise UsageError(
                "standard input is empty", hint="pipe a path or a safetensors file into it"
            )
        # Not the checkpoint of the folder: where a command before the pipe failed, that is old.
        raise UsageError(
            "standard input is an empty pipe: nothing was written into it",
            hint="name a checkpoint" + (f", or {self._instead}" if self._instead else ""),
        )

    def _line(self, head: bytes) -> str:
        """Read the rest of a line, and to the end of what may only be blank lines.

        Raises:
            UsageError: It is no path, or there are more lines.
        """
        first, newline, rest = head.partition(b"\n")
        line = bytearray(first)
        while not newline and len(line) < LONGEST_PATH and (got := self._read(1)):
            if got == b"\0":  # not text
                line += got
                break
            if got == b"\n":
                newline = got
            else:
                line += got
        while newline and not rest.strip() and (rest := self._read(1)):
            pass
        if b"\0" in line or not line.strip() or len(line) >= LONGEST_PATH:
            raise self._neither("")
        path = os.fsdecode(bytes(line.rstrip(b"\r")))
        if rest.strip():
            raise self._neither(f": it has more lines, the first is {path!r}")
        return path

    def _neither(self, reason: str) -> UsageError:
        if self._start is None:
            reason += f" ({self._taken:,} bytes were read from it)"
        return UsageError(
            f"standard input is neither a safetensors file nor one path{reason}",
            hint="pipe in one line, as `elsa sparsify` prints it, or the bytes of a file"
            + ("" if self._asked else f"; or {LEAVE}"),
        )

    def _origin(self) -> str:
        return "standard input gave this name" + ("" if self._asked else f"; {LEAVE}")

    @contextlib.contextmanager
    def _spooled(self, head: bytes) -> Iterator[str]:
        """Copy the bytes to a nameless file on disk; give a path by which it can be opened."""
        import tempfile  # not at the top: --help should not wait for it

        with tempfile.TemporaryFile() as file:
            try:
                file.write(head)
                while got := self._read(1 << 20):
                    file.write(got)
                file.flush()
            except OSError as error:
                raise OutputError(
                    f"cannot be spooled to {tempfile.gettempdir()}: {error.strerror}",
                    file=NAME,
                    hint="set TMPDIR to a folder with more room",
                ) from error
            yield f"/dev/fd/{file.fileno()}"


def _only_nested() -> str:
    """Return the only nested checkpoint of the current folder."""
    found = sorted(os.path.basename(p) for p in glob(os.path.join(escape(os.curdir), PATTERN)))
    if len(found) == 1:
        return found[0]
    if not found:
        raise UsageError(
            f"no checkpoint is given, and there is no {PATTERN} in this folder",
            hint="name one, or pipe one in",
        )
    raise UsageError(
        f"no checkpoint is given, and this folder has {len(found)}: {listed(found, 10)}",
        hint="name one of them",
    )
