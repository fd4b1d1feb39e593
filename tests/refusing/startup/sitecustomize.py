"""Imported by Python as it starts: makes it one of a system that lacks the newer calls."""

import os

for name in (
    "copy_file_range",
    "O_TMPFILE",
    "posix_fadvise",
    "POSIX_FADV_DONTNEED",
    "preadv",
    "sched_getaffinity",
):
    if hasattr(os, name):
        delattr(os, name)
