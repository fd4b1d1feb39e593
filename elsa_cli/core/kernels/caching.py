"""Where compiled code is kept from one run to the next, and how a damaged copy is noticed.

One file a kernel and signature. Its name is a digest of all that the code depends on: the sources,
the versions, the processor. So a file is never out of date, and there is no index that two
processes could spoil for each other. It begins with a digest of the rest: whatever is not whole is
as good as absent, and the kernel is compiled anew. What cannot be written is not kept.
"""

from __future__ import annotations

import functools
import hashlib
import os
import pickle
import stat
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import llvmlite
import numba
from numba.core.caching import CompileResultCacheImpl, _Cache

__all__ = ["KernelCache", "folders"]

FOLDER = "elsa-kernels"
HERE = Path(__file__).parent
DIGEST = 32  # bytes


class KernelCache(_Cache):  # type: ignore[misc]
    """What numba asks for the code of one kernel.

    Args:
        function: The kernel in Python.
    """

    def __init__(self, function: Any) -> None:
        """Find no file yet: numba's own checks are for its own files."""
        self._function = function
        self._implementation: Any = CompileResultCacheImpl.__new__(CompileResultCacheImpl)

    @property
    def cache_path(self) -> str:
        """The first folder, for those who ask where code is kept."""
        return str(next(folders(), ""))

    def enable(self) -> None:
        """Do nothing: the cache is always on."""

    def disable(self) -> None:
        """Do nothing: the cache is always on."""

    def flush(self) -> None:
        """Do nothing: files are never out of date."""

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        """Return the code of a signature, or None if there is none that is whole."""
        try:
            target_context.refresh()
            name = self._name(sig, target_context.codegen())
        except Exception:
            return None
        for folder in folders():
            try:
                data = (folder / name).read_bytes()
                if hashlib.sha256(data[DIGEST:]).digest() == data[:DIGEST]:
                    payload = pickle.loads(data[DIGEST:])
                    return self._implementation.rebuild(target_context, payload)
            except Exception:  # no cache is a reason to fail
                continue
        return None

    def save_overload(self, sig: Any, data: Any) -> None:
        """Keep the code of a signature in the first folder that takes it."""
        try:
            name = self._name(sig, data.codegen)
            payload = pickle.dumps(self._implementation.reduce(data), protocol=5)
        except Exception:
            return
        content = hashlib.sha256(payload).digest() + payload
        for folder in folders():
            try:
                _write(folder, name, content)
            except OSError:
                continue
            return

    def _name(self, sig: Any, codegen: Any) -> str:
        function = self._function
        key = (function.__qualname__, str(sig), codegen.magic_tuple(), _surroundings())
        return f"{function.__name__}-{hashlib.sha256(repr(key).encode()).hexdigest()[:32]}.bin"


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


def folders() -> Iterator[Path]:
    """Yield where compiled code may be, best first: code that others could write is not run.

    Beside the package; in the user's folder for caches; in a folder for temporary files that
    belongs to the user alone.
    """
    yield HERE / "__pycache__"
    caches = os.environ.get("XDG_CACHE_HOME", "")
    if not os.path.isabs(caches):  # as the XDG base directory specification says
        caches = os.path.join(os.path.expanduser("~"), ".cache")
    if os.path.isabs(caches):
        yield Path(caches) / "elsa"
    private = Path(tempfile.gettempdir()) / f"{FOLDER}-{os.getuid()}"
    if _is_private(private):
        yield private


def _is_private(folder: Path) -> bool:
    """Make a folder for the user alone; tell whether it is one."""
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        found = folder.lstat()
    except OSError:
        return False
    mine = stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid()
    return mine and stat.S_IMODE(found.st_mode) & 0o077 == 0


@functools.cache
def _surroundings() -> str:
    """Return a digest of what code depends on beside its signature: sources and versions."""
    found = hashlib.sha256(repr((numba.__version__, llvmlite.__version__, sys.version)).encode())
    for file in sorted(HERE.glob("*.py")):
        found.update(file.read_bytes())
    return found.hexdigest()
