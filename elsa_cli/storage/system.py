"""System calls that may be missing or refused, each with a way round that gives the same bytes.

An old kernel, a container's filter, a network file system or another Unix lacks some of them. A
call is tried, and where it is refused something older does its work; a disk that really fails is
still an error, from the call or from what stands in for it. docs/checkpoints.md has the list.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import threading

__all__ = [
    "FULL",
    "advise_written",
    "copy_some",
    "free_bytes",
    "lengthen",
    "link_nameless",
    "links_nameless",
    "read_some",
    "sync",
    "take_over",
    "write_some",
]

# What a disk says that is full, or that fails; nothing stands in for such a call.
FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
FAILURES = {*FULL, errno.EIO, errno.EROFS}
# What a file or a kernel says that cannot be synced at all.
NO_SYNC = {errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EPERM}
COPY_BYTES = 1 << 20  # bytes copied at a time where the kernel does not copy
# Names a file that has no name; unlike a descriptor, linkat takes it without privileges.
NAMELESS = "/proc/self/fd/{}"

_seeking = threading.Lock()  # a file has one position, whichever thread moves it


def read_some(fd: int, buffer: memoryview, offset: int) -> int:
    """Read bytes at `offset` into `buffer`; return how many, 0 at the end of the file."""
    # Reading again does no harm, so any error is left to the simplest call to repeat.
    with contextlib.suppress(OSError, AttributeError):
        return os.preadv(fd, [buffer], offset)
    try:
        data = os.pread(fd, len(buffer), offset)
    except OSError as error:
        if error.errno in FAILURES:
            raise
        with _seeking:
            os.lseek(fd, offset, os.SEEK_SET)
            data = os.read(fd, len(buffer))
    buffer[: len(data)] = data
    return len(data)


def write_some(fd: int, data: memoryview, offset: int) -> int:
    """Write bytes at `offset`; return how many."""
    try:
        return os.pwrite(fd, data, offset)
    except OSError as error:
        if error.errno in FAILURES:
            raise
    with _seeking:
        os.lseek(fd, offset, os.SEEK_SET)
        return os.write(fd, data)


def copy_some(source: int, target: int, size: int, at: int, to: int) -> int:
    """Copy bytes from `at` in one file to `to` in another, inside the kernel where it does that.

    Returns:
        How many bytes, at most `size`; 0 if the source has ended.
    """
    try:
        done = os.copy_file_range(source, target, size, at, to)
    except AttributeError:
        done = 0
    except OSError as error:
        if error.errno in FULL:
            raise
        done = 0  # reading and writing comes next, and says what is really wrong
    if done:
        return done
    buffer = memoryview(bytearray(min(size, COPY_BYTES)))
    got = read_some(source, buffer, at)
    while done < got:
        done += write_some(target, buffer[done:got], to + done)
    return got


def lengthen(fd: int, size: int) -> None:
    """Make a file `size` bytes long; what is not written reads as zero."""
    try:
        os.ftruncate(fd, size)
    except OSError as error:
        if error.errno in FAILURES:
            raise
        if os.fstat(fd).st_size < size:
            write_some(fd, memoryview(b"\0"), size - 1)


def advise_written(fd: int, offset: int, size: int) -> None:
    """Let the disk begin with bytes that are complete, so that the last sync is short."""
    # Advises that they are not needed: they are dirty, so they are not dropped, but on Linux they
    # are sent on their way.
    with contextlib.suppress(OSError, AttributeError):
        os.posix_fadvise(fd, offset, size, os.POSIX_FADV_DONTNEED)


def sync(fd: int) -> None:
    """Wait until a file is on its disk, where that can be waited for."""
    try:
        os.fsync(fd)
    except OSError as error:
        if error.errno not in NO_SYNC:
            raise


def free_bytes(fd: int) -> int | None:
    """Return the room that this process has on the file system of a file; None if it is unknown."""
    try:
        room = os.fstatvfs(fd)
    except (OSError, AttributeError):
        return None
    free = room.f_frsize * (room.f_bavail if os.geteuid() else room.f_bfree)
    return free if free or room.f_blocks else None  # some count nothing at all


def take_over(fd: int, replaced: os.stat_result) -> None:
    """Give a file the owner and permissions of the one it replaces, as far as is allowed.

    Args:
        fd: The file; it was created with at most these permissions.
        replaced: The state of the other one.
    """
    # First the owner, since a change of it takes bits off the mode.
    with contextlib.suppress(OSError):
        os.fchown(fd, replaced.st_uid, replaced.st_gid)
    with contextlib.suppress(OSError):
        os.fchmod(fd, stat.S_IMODE(replaced.st_mode))


def links_nameless(fd: int, folder: str) -> bool:
    """Tell whether `link_nameless` is going to be answered; nothing is created to find out."""
    try:
        at = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        # The folder itself cannot be a new name: where the call works at all, it says so.
        link_nameless(fd, at, os.curdir)
    except FileExistsError:
        return True
    except (OSError, AttributeError, NotImplementedError):
        return False
    finally:
        os.close(at)
    return False


def link_nameless(fd: int, folder: int, name: str) -> None:
    """Give a file that has no name one in the open folder.

    Raises:
        FileExistsError: The name is taken.
        OSError: It cannot be done here.
    """
    # The folder's descriptor is what makes Python call linkat, which follows /proc's link.
    os.link(NAMELESS.format(fd), name, dst_dir_fd=folder, follow_symlinks=True)
