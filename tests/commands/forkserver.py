"""The command line in processes of their own that need not import torch again.

A server imports torch and the package once, and forks for every command line: a real process with
real streams, signals and exit code. `python -m tests.commands.forkserver` is the server;
`Server` starts it and talks to it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.refusing import install

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Done:
    """How a process ended: its exit code (negative: the signal), and what it printed."""

    code: int
    out: str
    err: str


class Server:
    """Runs command lines in forks of a process that has torch already.

    Args:
        scratch: A folder for what they print.
    """

    def __init__(self, scratch: Path) -> None:
        """Start it."""
        self._scratch = scratch
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.commands.forkserver"],
            cwd=ROOT,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def run(
        self,
        *arguments: str | Path,
        cwd: Path,
        env: Mapping[str, str] | None = None,
        refuse: tuple[str, int] | None = None,
    ) -> Done:
        """Run `elsa` with some arguments; `refuse` is a system call that fails, and its errno."""
        request: dict[str, Any] = {
            "arguments": [str(argument) for argument in arguments],
            "cwd": str(cwd),
            "env": dict(env or {}),
            "refuse": refuse,
            "out": str(self._scratch / "out"),
            "err": str(self._scratch / "err"),
        }
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        answer = json.loads(self._process.stdout.readline())
        return Done(
            answer["code"],
            Path(request["out"]).read_text(),
            Path(request["err"]).read_text(),
        )

    def close(self) -> None:
        """End it."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(10)
        assert self._process.stdout is not None
        self._process.stdout.close()


def _child(request: dict[str, Any]) -> None:
    """Become the command line."""
    for fd, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(request[name], os.O_WRONLY | os.O_CREAT | os.O_TRUNC), fd)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.chdir(request["cwd"])
    os.environ.update(request["env"])
    sys.argv = ["elsa", *request["arguments"]]
    code: Any = 1
    if request["refuse"]:
        install(*request["refuse"])
    try:
        from elsa_cli.cli import main

        main()
    except SystemExit as end:
        code = end.code or 0
    except BaseException as error:  # what an uncaught exception does to a program
        sys.excepthook(type(error), error, error.__traceback__)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _serve() -> None:
    import torch
    import torch._dynamo  # what the first step of an optimizer imports

    import elsa_cli.operations.evaluate
    import elsa_cli.operations.freeze_train  # noqa: F401

    torch.set_num_threads(1)
    talk = os.fdopen(os.dup(1), "w")
    for line in sys.stdin:
        request = json.loads(line)
        child = os.fork()
        if not child:
            talk.close()
            sys.stdin.close()
            _child(request)
        _, status = os.waitpid(child, 0)
        answer = {"code": os.waitstatus_to_exitcode(status)}
        talk.write(json.dumps(answer) + "\n")
        talk.flush()


if __name__ == "__main__":
    _serve()
