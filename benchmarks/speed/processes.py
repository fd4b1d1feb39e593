"""Timing whole processes side by side.

The kernel counts what a process inherits from the one that starts it as its own peak memory. So
this process stays small: it imports nothing beyond the standard library while it measures, and
what it cannot avoid is reported as the floor.
"""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

__all__ = ["Command", "Failed", "Run", "floor", "rounds", "run_once"]


class Failed(Exception):
    """A command that is measured did not end well."""


@dataclass(frozen=True)
class Command:
    """A process to time.

    Attributes:
        argv: Its arguments.
        outputs: Files it writes; removed before every run.
        keep: Whether the outputs of the last run stay.
    """

    argv: Sequence[str]
    outputs: Sequence[Path] = ()
    keep: bool = False


@dataclass(frozen=True)
class Run:
    """One run.

    Attributes:
        seconds: Wall time.
        user: User CPU seconds of the process and of the children it waited for.
        system: System CPU seconds of the same.
        peak: Largest resident set, bytes.
        read: Bytes it asked to read; None where the system does not tell.
        written: Bytes of its outputs.
        stdout: Its standard output.
    """

    seconds: float
    user: float
    system: float
    peak: int
    read: int | None
    written: int
    stdout: str = field(repr=False)


def floor() -> int:
    """Return the smallest peak that can be told apart: the memory this process ever had, bytes."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(found[1]) * 1024 if found else 0


def run_once(command: Command) -> Run:
    """Run a command once, on a file system that has nothing left to write back.

    Raises:
        Failed: It exits with another status than 0.
    """
    _remove(command)
    os.sync()
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        begin = time.perf_counter()
        process = subprocess.Popen(command.argv, stdin=subprocess.DEVNULL, stdout=out, stderr=err)
        try:
            os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # ended, but not yet gone
        except BaseException:
            process.kill()
            process.wait()
            raise
        seconds = time.perf_counter() - begin
        read = _bytes_read(process.pid)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        out.seek(0)
        err.seek(0)
        if process.returncode:
            said = err.read().strip().splitlines()
            raise Failed(
                f"{' '.join(command.argv)} ended with {process.returncode}"
                + (f": {said[-1]}" if said else "")
            )
        return Run(
            seconds=seconds,
            user=usage.ru_utime,
            system=usage.ru_stime,
            peak=usage.ru_maxrss * 1024,
            read=read,
            written=sum(path.stat().st_size for path in command.outputs),
            stdout=out.read(),
        )


def rounds(commands: Sequence[Command], runs: int, warm: bool = True) -> list[list[Run]]:
    """Run all commands in turn, `runs` times; return for each command its runs.

    Every other round goes backwards, so that none always follows the same one.

    Args:
        commands: What to run.
        runs: How many rounds are counted.
        warm: Whether a round before them is not, so that files are in the page cache.
    """
    done: list[list[Run]] = [[] for _ in commands]
    for number in range(-1 if warm else 0, runs):
        order = range(len(commands)) if number % 2 == 0 else reversed(range(len(commands)))
        for which in order:
            run = run_once(commands[which])
            if number >= 0:
                done[which].append(run)
            if number < runs - 1 or not commands[which].keep:
                _remove(commands[which])
    return done


def _remove(command: Command) -> None:
    for path in command.outputs:
        path.unlink(missing_ok=True)


def _bytes_read(pid: int) -> int | None:
    """Return the bytes that an ended process and its threads asked to read."""
    with contextlib.suppress(OSError):
        found = re.search(r"rchar: (\d+)", Path(f"/proc/{pid}/io").read_text())
        return int(found[1]) if found else None
    return None
