"""Systems that lack calls, or refuse them: processes in which they do.

`install(call, number)` puts a process under a seccomp filter, as a container runtime has one;
`WITHOUT` is the environment of a Python that never had the newer calls.
"""

from __future__ import annotations

import ctypes
import os
import platform
import struct
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
# A `sitecustomize` that deletes attributes of `os` before anything is imported.
FOLDER = Path(__file__).parent / "startup"
WITHOUT = {
    "PYTHONPATH": os.pathsep.join([str(FOLDER), str(ROOT), os.environ.get("PYTHONPATH", "")])
}

# Numbers on x86-64. Python's preadv asks for preadv2.
CALLS = {
    "copy_file_range": [326],
    "linkat": [265],
    "link and linkat": [86, 265],
    "fsync": [74],
    "posix_fadvise": [221],
    "fchown": [93],
    "fchmod": [91],
    "fstatvfs": [138],
    "preadv": [295, 327],
    "pwrite": [18],
    "pread and preadv": [17, 295, 327],
    "ftruncate": [77],
    "sched_getaffinity": [204],
    "O_TMPFILE": [257],
}
OPENAT = 257
TMPFILE = 0o20000000  # the bit of O_TMPFILE that no other flag has


def supported() -> bool:
    """Tell whether filters can be installed here."""
    return sys.platform == "linux" and platform.machine() == "x86_64"


def _program(call: str, number: int) -> bytes:
    """Return the filter: instructions of classic BPF."""

    def step(code: int, yes: int, no: int, value: int) -> bytes:
        return struct.pack("=HBBI", code, yes, no, value)

    refuse = step(0x06, 0, 0, 0x00050000 | number)
    allow = step(0x06, 0, 0, 0x7FFF0000)
    program = step(0x20, 0, 0, 0)  # load the number of the call
    for at in CALLS[call]:
        if at == OPENAT:
            program += step(0x15, 0, 3, at) + step(0x20, 0, 0, 32)  # its flags
            program += step(0x45, 0, 1, TMPFILE) + refuse
        else:
            program += step(0x15, 0, 1, at) + refuse
    return program + allow


def install(call: str, number: int) -> None:
    """Make a call fail with an errno in this process, from now on."""
    program = _program(call, number)
    buffer = ctypes.create_string_buffer(program, len(program))

    class Filter(ctypes.Structure):
        _fields_ = (("length", ctypes.c_ushort), ("steps", ctypes.c_void_p))

    libc = ctypes.CDLL(None, use_errno=True)
    held = Filter(len(program) // 8, ctypes.cast(buffer, ctypes.c_void_p))
    if libc.prctl(38, 1, 0, 0, 0) or libc.prctl(22, 2, ctypes.byref(held), 0, 0):
        raise OSError(ctypes.get_errno(), "a filter cannot be installed")
