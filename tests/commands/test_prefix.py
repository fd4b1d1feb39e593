"""Extract from a packed file reads no byte past the level's prefix, by the system's own account."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers import elsa

STRACE = ["strace", "-f", "-y", "-e", "trace=/^(p?readv?2?|pread64|copy_file_range|mmap|sendfile)$"]

# Where each call has the offset; only data can precede it, so it is sought from the end.
OFFSET = {
    "copy_file_range": r"copy_file_range\(\d+<[^>]*>, \[(\d+)",
    "pread64": r", (\d+)\) += \d+$",
    "preadv": r", (\d+)\) += \d+$",
    "preadv2": r", (\d+), \w+\) += \d+$",
}


def reads_of(trace: str, path: Path) -> list[tuple[int, int]]:
    """Return offset and size of everything read from a file; a call that is not known fails."""
    found = []
    for line in trace.splitlines():
        if f"<{path}>" not in line:
            continue
        call = re.search(r"(\w+)\(", line)
        size = re.search(r"= (\d+)$", line)
        assert call, line
        assert size, line
        at = re.search(OFFSET[call[1]], line)
        assert at, line
        found.append((int(at[1]), int(size[1])))
    return found


@pytest.mark.skipif(shutil.which("strace") is None, reason="there is no strace here")
@pytest.mark.parametrize("level", ["0.9", "0.7", "0.5", "dense"])
def test_reads_end_at_the_prefix(level: str, packed: Path) -> None:
    report = json.loads(elsa("inspect", packed, "--json").stdout)
    prefix = next(info["prefix"] for info in report["levels"] if info["level"] == level)
    trace = packed.parent / "trace"
    # One thread: a call that another thread interrupts is split over two lines.
    line = ["extract", str(packed), "--level", level, "-o", "x", "-q", "--threads", "1"]
    done = subprocess.run(
        [*STRACE, "-o", trace, sys.executable, "-m", "elsa_cli", *line],
        cwd=packed.parent,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
    )
    if b"ptrace" in done.stderr or b"invalid" in done.stderr:
        pytest.skip(f"strace does not work here: {done.stderr.decode()}")
    assert done.returncode == 0, done.stderr
    reads = reads_of(trace.read_text(), packed.resolve())
    assert reads
    # All of the level is read, but for the padding at its end.
    assert prefix - 8 < max(at + size for at, size in reads) <= prefix
