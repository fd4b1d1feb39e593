"""Where compiled code is kept from one run to the next, and how a damaged copy is noticed.

One file a kernel and signature. Its name holds a digest of all that the code depends on: the
sources, the versions, the processor. So a file is never out of date, and there is no index that
two processes could spoil for each other. It begins with a digest of the rest: whatever is not whole
is as good as absent, and the kernel is compiled again. What cannot be written is not kept.

    popcount-1f3a5b7c-0123456789abcdef-0123456789abcdef0123456789abcdef.bin
    kernel   package  sources          signature, versions, processor

The package is the folder that it lies in: several may share a folder for caches. When a file is
kept, those of older sources of the same package go. A process that still runs these has them
loaded, or compiles again.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

__all__ = ["HERE", "folders", "keep", "kept", "name_of"]

HERE = Path(__file__).parent
DIGEST = 32  # bytes
NAME = re.compile(r"\w+-([0-9a-f]{8})-([0-9a-f]{16})-[0-9a-f]{32}\.bin")


def name_of(kernel: str, sources: bytes, rest: str) -> str:
    """Return the name that code is kept under.

    Args:
        kernel: The function's name.
        sources: All of them.
        rest: What else the code depends on.
    """
    package = _digest(os.fsencode(HERE))[:8]
    return f"{kernel}-{package}-{_digest(sources)[:16]}-{_digest(rest.encode())[:32]}.bin"


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def kept(name: str) -> Iterator[bytes]:
    """Yield what is kept under a name and whole, from each folder that has it."""
    for folder in folders(make=False):
        try:
            data = (folder / name).read_bytes()
        except OSError:
            continue
        if hashlib.sha256(data[DIGEST:]).digest() == data[:DIGEST]:
            yield data[DIGEST:]


def keep(name: str, content: bytes) -> None:
    """Keep some bytes under a name in the first folder that takes them, if there is one."""
    for folder in folders(make=True):
        try:
            _write(folder, name, hashlib.sha256(content).digest() + content)
        except OSError:
            continue
        with contextlib.suppress(OSError):
            _remove_older(folder, name)
        return


def _remove_older(folder: Path, name: str) -> None:
    """Remove what was kept of other sources of the same package.

    Raises:
        OSError: Something cannot be removed.
    """
    ours = NAME.fullmatch(name)
    assert ours is not None
    for file in folder.iterdir():
        found = NAME.fullmatch(file.name)
        if found is not None and found[1] == ours[1] and found[2] != ours[2]:
            file.unlink(missing_ok=True)


def _write(folder: Path, name: str, content: bytes) -> None:
    """Write a file whole, or not at all.

    Raises:
        OSError: It cannot be written.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=folder, prefix=".")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        os.replace(temporary, folder / name)
    except OSError:
        os.unlink(temporary)
        raise


def folders(*, make: bool) -> Iterator[Path]:
    """Yield where compiled code may be, best first.

    Beside the package, whose code is run anyway; in the user's folder for caches; in a folder for
    temporary files, if it belongs to the user alone: nothing that others may write is run.

    Args:
        make: Make a folder that is not there, once it is its turn.
    """
    yield HERE / "__pycache__"
    caches = os.environ.get("XDG_CACHE_HOME", "")
    if not os.path.isabs(caches):  # as the XDG base directory specification says
        caches = os.path.join(os.path.expanduser("~"), ".cache")
    if os.path.isabs(caches) and _is_private(Path(caches) / "elsa", make):
        yield Path(caches) / "elsa"
    try:
        private = Path(tempfile.gettempdir()) / f"elsa-kernels-{os.getuid()}"
    except OSError:  # there is no folder for temporary files
        return
    if _is_private(private, make):
        yield private


def _is_private(folder: Path, make: bool) -> bool:
    """Tell whether a folder is there, or made, that the user alone can write."""
    try:
        if make:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = folder.lstat()
    except OSError:
        return False
    mine = stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid()
    return mine and stat.S_IMODE(found.st_mode) & 0o022 == 0
