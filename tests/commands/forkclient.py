"""Asking a fork server for one run of the command line.

`python -I -S forkclient.py ADDRESS ARGUMENT...` is `elsa ARGUMENT...` with the streams, folder and
environment of this process: a shell can use it in place of the command, and it starts in 15 ms,
because it imports nothing that is written in Python.
"""

from __future__ import annotations

import _socket
import marshal
import posix
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

NUMBER = 4  # bytes of a length, an exit code, a file descriptor, as this machine has them


def ask(
    address: str,
    arguments: Sequence[str],
    cwd: bytes,
    env: Mapping[bytes, bytes],
    streams: Sequence[int],
    refuse: tuple[str, int] | None = None,
) -> _socket.socket:
    """Start a run; the first `number` that comes back is its process, the second how it ended.

    Args:
        address: The socket of a server.
        arguments: What follows the word `elsa`.
        cwd: The folder it runs in.
        env: Its whole environment.
        streams: File descriptors of its standard input, output and error.
        refuse: A system call that fails, and its errno.
    """
    payload = marshal.dumps((list(arguments), cwd, dict(env), refuse))
    asking = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
    asking.connect(address)
    rights = b"".join(fd.to_bytes(NUMBER, sys.byteorder) for fd in streams)
    asking.sendmsg(
        [len(payload).to_bytes(NUMBER, sys.byteorder)],
        [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, rights)],
    )
    asking.sendall(payload)
    return asking


def number(asking: _socket.socket) -> int:
    """Wait for the number of the process, or for its exit code; negative: the signal's number."""
    told = asking.recv(NUMBER, _socket.MSG_WAITALL)
    assert len(told) == NUMBER, "the server has ended"
    return int.from_bytes(told, sys.byteorder, signed=True)


def _main() -> int:
    asking = ask(sys.argv[1], sys.argv[2:], posix.getcwdb(), posix.environ, (0, 1, 2))
    for fd in (0, 1, 2):
        posix.close(fd)  # they are those of the run now
    number(asking)
    code = number(asking)
    if code < 0:
        posix.kill(posix.getpid(), -code)
    return code


if __name__ == "__main__":
    posix._exit(_main())
