"""A new file that has no name until it is complete, and how it gets one.

Where there are no nameless files, or the kernel would not name one, a hidden sibling serves from
the start.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import stat

from elsa_cli.core.closing import Closing
from elsa_cli.storage.system import copy_some, link_nameless, links_nameless, sync, take_over

__all__ = ["NewFile"]


class NewFile(Closing):
    """An open file, for reading and writing, that vanishes at `close` unless it got its name.

    Args:
        target: The name that it is going to have, as a path.
        replaced: The state of the file that has the name now, or None.
        temporary: Whether it never gets a name, but serves its process alone.

    Attributes:
        fd: Its descriptor.
        folder: Where it is.

    Raises:
        OSError: It cannot be created.
    """

    def __init__(
        self, target: str, replaced: os.stat_result | None = None, *, temporary: bool = False
    ) -> None:
        """Create it."""
        self._target = target
        self._replaced = replaced
        self._hidden: str | None = None
        self.folder = os.path.dirname(target)
        mode = 0o600 if temporary else 0o666
        if replaced is not None:  # never open to more people than what it replaces
            mode = stat.S_IMODE(replaced.st_mode)
        self.fd = self._create(mode, temporary)
        self._open = True

    def _create(self, mode: int, temporary: bool) -> int:
        with contextlib.suppress(OSError, AttributeError):
            fd = os.open(self.folder, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, mode)
            if temporary or links_nameless(fd, self.folder):
                return fd
            os.close(fd)
        return self._create_hidden(mode)

    def _create_hidden(self, mode: int) -> int:
        self._hidden = self._sibling()
        return os.open(self._hidden, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, mode)

    def _sibling(self) -> str:
        name = os.path.basename(self._target)
        return os.path.join(self.folder, f".{name[:200]}.{secrets.token_hex(6)}.tmp")

    def place(self, *, clobber: bool) -> bool:
        """Sync the file and give it its name; False if somebody else has that.

        Args:
            clobber: Whether a file that has the name is replaced.

        Raises:
            OSError: It cannot be synced or named.
        """
        self._finish()
        if self._replaced is not None or not self._name_new(clobber):
            if not clobber:
                return False
            if self._hidden is None:
                self._hide()
            assert self._hidden is not None
            os.replace(self._hidden, self._target)
        self._hidden = None
        with contextlib.suppress(OSError):  # not every folder can be opened and synced
            folder = os.open(self.folder, os.O_RDONLY | os.O_CLOEXEC)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
        return True

    def _finish(self) -> None:
        """Make the file what it is going to be, on disk, but for its name."""
        if self._replaced is not None:
            take_over(self.fd, self._replaced)
        sync(self.fd)

    def _name_new(self, clobber: bool) -> bool:
        """Give the file a free name; False if it is taken by now, or only a rename can give it."""
        if self._hidden is None:
            try:
                self._link(self._target)
            except FileExistsError:
                return False
            except OSError:
                self._hide()
            else:
                return True
        assert self._hidden is not None
        try:
            os.link(self._hidden, self._target)
        except FileExistsError:
            return False
        except (OSError, AttributeError):  # no hard links here
            return not clobber and self._claim()
        os.unlink(self._hidden)
        return True

    def _claim(self) -> bool:
        """Take a free name with an empty file, and replace that: no other file is replaced."""
        assert self._hidden is not None
        try:
            os.close(os.open(self._target, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC))
        except FileExistsError:
            return False
        try:
            os.replace(self._hidden, self._target)
        except BaseException:
            os.unlink(self._target)
            raise
        return True

    def _link(self, path: str) -> None:
        folder = os.open(self.folder, os.O_RDONLY | os.O_CLOEXEC)
        try:
            link_nameless(self.fd, folder, os.path.basename(path))
        finally:
            os.close(folder)

    def _hide(self) -> None:
        """Turn the nameless file into a hidden sibling."""
        self._hidden = self._sibling()
        with contextlib.suppress(OSError):
            self._link(self._hidden)
            return
        # It was promised a name at first and is refused it now: all that is left is a copy.
        nameless, size = self.fd, os.fstat(self.fd).st_size
        copy = self._create_hidden(stat.S_IMODE(os.fstat(nameless).st_mode))
        self.fd = copy
        try:
            at = 0
            while at < size and (done := copy_some(nameless, copy, size - at, at, at)):
                at += done
        finally:
            os.close(nameless)
        self._finish()

    def close(self) -> None:
        """Discard a file that has no name, and close it."""
        if self._hidden:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._hidden)
            self._hidden = None
        if self._open:
            os.close(self.fd)
            self._open = False
