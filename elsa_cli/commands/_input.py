"""Which checkpoint a command works on: an argument, standard input, or the one in the folder."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from glob import escape, glob

from elsa_cli.errors import ElsaError, InputError, OutputError, UsageError
from elsa_cli.ui import Screen

__all__ = ["Input", "open_input", "open_optional"]

STDIN = 0
PATTERN = "*.elsa.safetensors"
LONGEST_PATH = 1 << 16  # bytes
NAME = "standard input"


@dataclass(frozen=True)
class Input:
    """A checkpoint to read.

    Attributes:
        path: Where to open it.
        named: Whether the path is a name of its own; bytes from standard input have none.
    """

    path: str
    named: bool = True


@contextlib.contextmanager
def open_input(argument: str | None, screen: Screen, *, search: bool) -> Iterator[Input]:
    """Find the checkpoint; bytes from standard input are spooled to disk while it is used.

    Args:
        argument: The path given, `-` for standard input, or None.
        screen: Told where the checkpoint was found, if nobody named it.
        search: Whether to look for the only nested checkpoint of the current folder.

    Raises:
        UsageError: There is none, or more than one.
        InputError: It does not exist.
    """
    with open_optional(argument) as found:
        if found is not None:
            yield found
        elif search:
            path = _only_nested()
            screen.note(f"using {path}, the only {PATTERN} here")
            yield Input(path)
        else:
            raise UsageError("no checkpoint is given", hint="name a safetensors file")


@contextlib.contextmanager
def open_optional(argument: str | None) -> Iterator[Input | None]:
    """Find the checkpoint that is named or piped in; None if there is none.

    Args:
        argument: The path given, `-` for standard input, or None.

    Raises:
        UsageError: Standard input is meant, and empty.
        InputError: The checkpoint does not exist.
    """
    if argument is not None and argument != "-":
        yield Input(_existing(argument))
        return
    head = _first_bytes(explicit=argument == "-")
    if len(head) == 8 and head[7] == 0:
        with _spool(head) as path:
            try:
                yield Input(path, named=False)
            except ElsaError as error:
                if error.file != path:
                    raise
                raise error.renamed(NAME) from error
    elif head:
        yield Input(_existing(_path_line(head)))
    elif argument == "-":
        raise UsageError(
            "standard input is empty", hint="pipe a path or a safetensors file into it"
        )
    else:
        yield None


def _existing(path: str) -> str:
    if os.path.isdir(path):
        raise InputError("is a folder", file=path, hint="name the safetensors file in it")
    if not os.path.exists(path):
        raise InputError("does not exist", file=path)
    return path


def _first_bytes(*, explicit: bool) -> bytes:
    """Return the first 8 bytes of standard input, or fewer if it ends or a line does."""
    try:
        kind = os.fstat(STDIN).st_mode
    except OSError:
        return b""
    if explicit and os.isatty(STDIN):
        raise UsageError("standard input is a terminal", hint="name a safetensors file")
    if not explicit and not (stat.S_ISFIFO(kind) or stat.S_ISREG(kind)):
        return b""
    head = b""
    try:
        while len(head) < 8 and b"\n" not in head:
            got = os.read(STDIN, 8 - len(head))
            if not got:
                break
            head += got
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror}", file=NAME) from error
    return head


def _path_line(head: bytes) -> str:
    """Read the rest of a line that holds a path."""
    text = head
    while len(text) < LONGEST_PATH and (got := os.read(STDIN, LONGEST_PATH)):
        text += got
    lines = text.split(b"\n")
    while lines and not lines[-1].strip():
        lines.pop()
    if len(lines) != 1 or b"\0" in lines[0] or len(text) >= LONGEST_PATH:
        raise UsageError(
            "standard input is neither a safetensors file nor one path",
            hint="pipe in one line, as `elsa sparsify` prints it, or the bytes of a file",
        )
    return os.fsdecode(lines[0].rstrip(b"\r"))


@contextlib.contextmanager
def _spool(head: bytes) -> Iterator[str]:
    """Copy standard input to a nameless file on disk; give a path by which it can be opened."""
    import tempfile  # not at the top: --help should not wait for it

    with tempfile.TemporaryFile() as file:
        try:
            file.write(head)
            while got := os.read(STDIN, 1 << 20):
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
        f"no checkpoint is given, and this folder has {len(found)}: {', '.join(found)}",
        hint="name one of them",
    )
