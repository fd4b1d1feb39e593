"""The command line in processes of their own that need not import everything again.

A server, forking.py, imports numpy and the package once, torch too if that is wanted, and forks for
every command line: a real process with real streams, signals and exit code. `Server` starts it and
talks to it.
"""

from __future__ import annotations

import contextlib
import functools
import os
import select
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from tests.commands import forkclient
from tests.commands.forkclient import ask, number
from tests.refusing import WITHOUT

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Done:
    """How a process ended: its exit code (negative: the signal), and what it printed."""

    code: int
    out: str
    err: str


def _read(fd: int) -> bytes:
    with os.fdopen(fd, "rb") as file:
        return file.read()


def _write(fd: int, data: bytes) -> None:
    with contextlib.suppress(BrokenPipeError), os.fdopen(fd, "wb") as file:
        file.write(data)


class Running:
    """A process that a server has forked.

    Attributes:
        pid: Its number.
    """

    def __init__(
        self, words: list[str], asking: Any, out: int, err: int, feed: tuple[int, Any] | None
    ) -> None:
        """Read what it prints, and feed it."""
        self._words = words
        self._asking = asking
        self._pool = ThreadPoolExecutor(3)
        self._printed, self._said = (self._pool.submit(_read, fd) for fd in (out, err))
        if feed is not None:
            self._pool.submit(_write, *feed)
        self.pid = number(asking)

    def wait(self, seconds: float) -> bool:
        """Wait for its end for a while; tell whether it has ended."""
        return bool(select.select([self._asking], [], [], seconds)[0])

    def finish(self) -> subprocess.CompletedProcess[bytes]:
        """Wait for its end."""
        code = number(self._asking)
        self._asking.close()
        self._pool.shutdown()
        return subprocess.CompletedProcess(
            self._words, code, self._printed.result(), self._said.result()
        )


class Server:
    """Runs command lines in forks of a process that has imported the package.

    Args:
        torch: Whether it imports torch too; else a run finds it as any process does.
        env: Variables added to those of this process when it starts.
    """

    def __init__(self, *, torch: bool, env: Mapping[str, str] | None = None) -> None:
        """Start it; what it is asked before it is ready waits."""
        import socket

        self._folder = tempfile.TemporaryDirectory(prefix="elsa")  # a socket's name is short
        self._address = os.path.join(self._folder.name, "socket")
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(self._address)
            listener.listen(64)
            self._process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "tests.commands.forking"),
                    *(str(listener.fileno()), "torch" if torch else "light"),
                ],
                cwd=ROOT,
                env={**os.environ, "OMP_NUM_THREADS": "1", **(env or {})},
                stdin=subprocess.PIPE,  # its end ends the server
                stdout=subprocess.DEVNULL,
                pass_fds=[listener.fileno()],
            )

    @property
    def command(self) -> list[str]:
        """What a shell starts in place of `python -m elsa_cli`."""
        return [sys.executable, "-I", "-S", forkclient.__file__, self._address]

    @functools.cached_property
    def bin(self) -> Path:
        """A folder with a script `elsa`, for a shell's path."""
        folder = Path(self._folder.name, "bin")
        folder.mkdir()
        script = folder / "elsa"
        script.write_text(f'#!/bin/sh\nexec {self.shell} "$@"\n')
        script.chmod(0o755)
        return folder

    @property
    def shell(self) -> str:
        """The same as text."""
        return shlex.join(self.command)

    def start(
        self,
        *arguments: str | os.PathLike[str],
        cwd: str | os.PathLike[str] | None = None,
        env: Mapping[str, str] | None = None,
        stdin: bytes | int | IO[bytes] | None = None,
        refuse: tuple[str, int] | None = None,
    ) -> Running:
        """Start `elsa` with some arguments.

        Args:
            arguments: What follows the word `elsa`.
            cwd: Where it runs.
            env: Variables added to those of this process.
            stdin: Bytes, an open file or its descriptor; by default /dev/null.
            refuse: A system call that fails, and its errno.
        """
        words = [os.fspath(argument) for argument in arguments]
        whole = dict(os.environb)
        whole.update({os.fsencode(k): os.fsencode(v) for k, v in (env or {}).items()})
        feed = None
        if isinstance(stdin, bytes):
            given, feed = os.pipe()
        elif stdin is None:
            given = os.open(os.devnull, os.O_RDONLY)
        else:
            given = os.dup(stdin if isinstance(stdin, int) else stdin.fileno())
        (out, out_end), (err, err_end) = os.pipe(), os.pipe()
        streams = (given, out_end, err_end)
        try:
            folder = os.fsencode(os.getcwd() if cwd is None else cwd)
            asking = ask(self._address, words, folder, whole, streams, refuse)
        finally:
            for fd in streams:
                os.close(fd)
        return Running(words, asking, out, err, (feed, stdin) if feed is not None else None)

    def call(
        self,
        *arguments: str | os.PathLike[str],
        cwd: str | os.PathLike[str] | None = None,
        env: Mapping[str, str] | None = None,
        stdin: bytes | int | IO[bytes] | None = None,
        refuse: tuple[str, int] | None = None,
    ) -> subprocess.CompletedProcess[bytes]:
        """Run `elsa` with some arguments, which are those of `start`, to its end."""
        return self.start(*arguments, cwd=cwd, env=env, stdin=stdin, refuse=refuse).finish()

    def run(
        self,
        *arguments: str | Path,
        cwd: Path,
        env: Mapping[str, str] | None = None,
        refuse: tuple[str, int] | None = None,
    ) -> Done:
        """Run `elsa` with some arguments; `refuse` is a system call that fails, and its errno."""
        done = self.call(*arguments, cwd=cwd, env=env, refuse=refuse)
        return Done(done.returncode, done.stdout.decode(), done.stderr.decode())

    def close(self) -> None:
        """End it."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(10)
        self._folder.cleanup()


_started: list[Server] = []


@functools.cache
def shared(kind: str) -> Server:
    """Return the server of a kind that all tests of this process share.

    `light` has what needs no torch, `torch` has everything, and `without` is a light one on a
    Python that lacks the newer system calls.
    """
    server = Server(torch=kind == "torch", env=WITHOUT if kind == "without" else None)
    _started.append(server)
    return server


def close_shared() -> None:
    """End the servers that are shared."""
    while _started:
        _started.pop().close()
    shared.cache_clear()
