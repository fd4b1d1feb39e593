"""Where compiled code is kept from one run to the next, and how a damaged copy is noticed.

One file a kernel and signature. Its name holds a digest of all that the code depends on: the
sources, the versions, the processor. So a file is never out of date, and there is no index that
two processes could spoil for each other. It begins with a digest of the rest: whatever is not whole
is as good as absent, and the kernel is compiled again. What cannot be written is not kept.
"""

from __future__ import annotations

import hashlib
import os
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

__all__ = ["folders", "keep", "kept"]

HERE = Path(__file__).parent
DIGEST = 32  # bytes


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
        return


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
