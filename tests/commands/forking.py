"""A process that imports the package once, and becomes the command line in every fork.

`python -m tests.commands.forking DESCRIPTOR KIND`: forkserver.py starts it, and forkclient.py says
what is asked on the socket of that descriptor.
"""

from __future__ import annotations

import array
import contextlib
import gc
import marshal
import os
import select
import signal
import socket
import sys
import tempfile
import threading
from importlib import import_module
from pathlib import Path
from typing import Any

from elsa_cli.errors import ElsaError
from tests.commands.forkclient import NUMBER
from tests.refusing import install

ROOT = Path(__file__).resolve().parents[2]


def _become(asking: Any) -> None:
    """Make this fork the process that somebody asks for, but for its start."""
    rights = array.array("i")
    head, extra, _, _ = asking.recvmsg(NUMBER, socket.CMSG_SPACE(3 * rights.itemsize))
    rights.frombytes(extra[0][2])
    payload = asking.recv(int.from_bytes(head, sys.byteorder), socket.MSG_WAITALL)
    asking.close()
    arguments, cwd, env, refuse = marshal.loads(payload)
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for fd, given in enumerate(rights):
        os.dup2(given, fd)
        os.close(given)
    os.chdir(cwd)
    os.environ.clear()
    os.environb.update(env)
    tempfile.tempdir = None
    sys.path[0] = os.getcwd()
    sys.argv = ["elsa", *arguments]
    if refuse:
        install(*refuse)


def _import(kind: str) -> None:
    """Import what command lines are going to need."""
    import rich.console
    import rich.progress
    import rich.table  # noqa: F401

    if kind == "torch":
        import torch
        import torch._dynamo  # what the first step of an optimizer imports

        torch.set_num_threads(1)
        with contextlib.suppress(ImportError):
            import matplotlib

            matplotlib.use("agg")
            import matplotlib.pyplot
    else:
        sys.modules["torch"] = None  # type: ignore[assignment]  # what needs it is left out
    for file in sorted((ROOT / "elsa_cli").rglob("[!_]*.py")):
        with contextlib.suppress(*(() if kind == "torch" else (ImportError, ElsaError))):
            import_module(".".join(file.relative_to(ROOT).with_suffix("").parts))
    if kind != "torch":
        del sys.modules["torch"]


def _serve(listening: int) -> bool:
    """Fork for whoever asks, until standard input ends; true in a fork."""
    gc.collect()
    gc.freeze()
    listener = socket.socket(fileno=listening)
    listener.setblocking(False)
    wake, woken = os.pipe()
    os.set_blocking(woken, False)
    signal.set_wakeup_fd(woken)
    signal.signal(signal.SIGCHLD, lambda *_: None)  # so that it wakes the loop
    running: dict[int, socket.socket] = {}
    while True:
        ready, _, _ = select.select([listener.fileno(), wake, 0], [], [])
        if wake in ready:
            os.read(wake, 1 << 10)
            while running:
                child, status = os.waitpid(-1, os.WNOHANG)
                if not child:
                    break
                code = os.waitstatus_to_exitcode(status)
                with running.pop(child) as asking, contextlib.suppress(OSError):
                    asking.sendall(code.to_bytes(NUMBER, sys.byteorder, signed=True))
        if 0 in ready:
            return False
        if listener.fileno() in ready:
            asking, _ = listener.accept()
            child = os.fork()
            if not child:
                for ours in (listener, *running.values()):
                    ours.close()
                os.close(wake)
                _become(asking)
                os.close(woken)
                return True
            running[child] = asking
            with contextlib.suppress(OSError):
                asking.sendall(child.to_bytes(NUMBER, sys.byteorder))


def _end(code: Any) -> None:
    """End this process as Python does, but for taking apart all that the server has imported."""
    if code is not None and not isinstance(code, int):
        print(code, file=sys.stderr)
        code = 1
    threading._shutdown()  # type: ignore[attr-defined]  # waits for threads
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code or 0)


if __name__ == "__main__":
    _import(sys.argv[2])
    if _serve(int(sys.argv[1])):
        from elsa_cli.cli import main

        try:
            main()
        except SystemExit as end:
            _end(end.code)
        except BaseException as error:  # what an uncaught exception does to a program
            sys.excepthook(type(error), error, error.__traceback__)
            _end(1)
        _end(0)
