"""Systems that refuse or lack calls: the same bytes, or one line and the old file."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest

from tests.commands.forkserver import Server, shared
from tests.commands.shell import ELSA, names, one_line, sh
from tests.helpers import Tensor, elsa, write_safetensors
from tests.refusing import CALLS, ROOT, WITHOUT, supported

LINES = {
    "sparsify": "sparsify {in}/model --levels 0.5,0.9",
    "sparsify into tensors": "sparsify {in}/model --levels 0.5,0.9 --masks tensors",
    "extract": "extract {in}/nested --level 0.9",
    "extract from packed": "extract {in}/packed --level 0.9",
    "pack": "pack {in}/nested",
    "unpack": "pack --unpack {in}/packed",
    "bundle": "pack {in}/model {in}/sparse",
}
ERRNOS = ["EPERM", "EIO", "EBADF", "ETXTBSY", "EINVAL", "ENOSYS", "EOPNOTSUPP", "EXDEV"]
# Where an errno is what a disk says that fails, it stays an error.
REAL = {"fsync": {"EIO", "EBADF", "ETXTBSY", "EXDEV"}, "pwrite": {"EIO"}, "ftruncate": {"EIO"}}
REAL["pread and preadv"] = {"EIO"}
OUTPUTS = ["new", "existing", "link", "no-clobber"]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Inputs, and for every line what it writes where nothing is refused."""
    folder = tmp_path_factory.mktemp("made")
    rng = np.random.default_rng(0)
    tensors: list[Tensor] = []
    for name in ("a", "b"):
        data = rng.standard_normal((200, 300)).astype("<f4").tobytes()
        tensors.append((f"{name}.weight", "F32", (200, 300), data))
    tensors.append(("c.bias", "F32", (300,), rng.standard_normal(300).astype("<f4").tobytes()))
    write_safetensors(folder / "model", tensors)
    for line in (
        "sparsify model --levels 0.5,0.9 -o nested",
        "pack nested -o packed",
        "extract nested --level 0.9 -o sparse",
    ):
        done = elsa(*line.split(), cwd=folder)
        assert done.returncode == 0, done.stderr
    for name in LINES:
        done = elsa(*words(name, folder), "-o", folder / name, cwd=folder)
        assert done.returncode == 0, done.stderr
    return folder


def words(line: str, made: Path) -> list[str]:
    return LINES[line].replace("{in}", str(made)).split()


def run(
    start: Sequence[str], arguments: Sequence[str], env: Mapping[str, str], cwd: Path
) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [*start, *arguments],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT), **env},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
        timeout=120,
    )


def check(
    line: str,
    output: str,
    made: Path,
    folder: Path,
    server: Server,
    *,
    fails: bool = False,
    refuse: tuple[str, int] | None = None,
) -> None:
    """Run a line with some kind of output; look at the output and at what is left beside it."""

    def run_line() -> tuple[int, bytes, bytes]:
        done = server.call(*arguments, cwd=folder, refuse=refuse)
        return done.returncode, done.stdout, done.stderr

    out = folder / "out"
    arguments = [*words(line, made), "-o", "out"]
    old: bytes | None = None
    target = out
    if output == "link":
        (folder / "real").mkdir()
        target = folder / "real" / "file"
        out.symlink_to("real/file")
    if output in ("existing", "link"):
        old = b"old"
        target.write_bytes(old)
        target.chmod(0o604)
    if output == "no-clobber":
        arguments.append("--no-clobber")
    code, printed, said = run_line()
    if fails:
        assert (code, printed) == (1, b""), said
        one_line(said)
        assert (target.read_bytes() if target.exists() else None) == old
    else:
        assert (code, printed) == (0, b"out\n"), said
        assert target.read_bytes() == (made / line).read_bytes()
        if output == "no-clobber":  # and now it is there
            code, _, said = run_line()
            assert code == 1
            assert "exists already" in one_line(said)
    left = {"real", "out"} if output == "link" else {"out"} if target.exists() else set()
    assert set(names(folder)) == left
    if output == "link":
        assert out.is_symlink()
        assert names(folder / "real") == ["file"]


needs_filters = pytest.mark.skipif(not supported(), reason="filters are written for x86-64 Linux")


@needs_filters
@pytest.mark.parametrize("number", ERRNOS)
@pytest.mark.parametrize("call", CALLS)
def test_a_call_that_is_refused(call: str, number: str, made: Path, tmp_path: Path) -> None:
    # Every command and every kind of output comes up with every call, if not with every errno.
    turn = ERRNOS.index(number) + 3 * list(CALLS).index(call)
    line = list(LINES)[turn % len(LINES)]
    output = OUTPUTS[turn % len(OUTPUTS)]
    asked = call != "ftruncate" or line in ("pack", "bundle")
    refuse = (call, getattr(errno, number))
    fails = asked and number in REAL.get(call, set())
    check(line, output, made, tmp_path, shared("light"), fails=fails, refuse=refuse)


@needs_filters
@pytest.mark.parametrize("output", OUTPUTS)
@pytest.mark.parametrize("line", ["extract", "bundle"])
def test_a_container_that_refuses_to_link(
    line: str, output: str, made: Path, tmp_path: Path
) -> None:
    refuse = ("link and linkat", errno.EPERM)
    check(line, output, made, tmp_path, shared("light"), refuse=refuse)


@pytest.mark.parametrize("output", OUTPUTS)
@pytest.mark.parametrize("line", LINES)
def test_a_system_that_lacks_the_newer_calls(
    line: str, output: str, made: Path, tmp_path: Path
) -> None:
    check(line, output, made, tmp_path, shared("without"))


def test_the_newer_calls_are_really_gone(tmp_path: Path) -> None:
    line = "import os; print(hasattr(os, 'preadv') or hasattr(os, 'copy_file_range'))"
    assert run([sys.executable, "-c", line], [], WITHOUT, tmp_path).stdout == b"False\n"


@needs_filters
def test_the_filter_really_refuses(tmp_path: Path) -> None:
    script = (
        "import errno, os, tests.refusing as r\n"
        "fd = os.open('x', os.O_RDWR | os.O_CREAT)\n"
        "r.install('O_TMPFILE', errno.ETXTBSY); r.install('fsync', errno.EBADF)\n"
        "for call in (lambda: os.open('.', os.O_TMPFILE | os.O_RDWR), lambda: os.fsync(fd)):\n"
        "    try: call()\n"
        "    except OSError as error: print(errno.errorcode[error.errno])\n"
        "os.close(os.open('.', os.O_RDONLY | os.O_DIRECTORY))\n"
    )
    done = run([sys.executable, "-c", script], [], {}, tmp_path)
    assert done.stdout.split() == [b"ETXTBSY", b"EBADF"], done.stderr


@pytest.mark.parametrize("target", ["new", "there"])
def test_without_proc(target: str, made: Path, tmp_path: Path) -> None:
    """In a mount namespace of its own, in which nothing is mounted there."""
    (tmp_path / "there").write_bytes(b"old")
    script = f"mount -t tmpfs none /proc || exit 99; elsa {' '.join(words('extract', made))}"
    line = f"unshare -m sh -c {repr_sh(f'{script} -o {target}')}"
    done = sh(line, tmp_path)
    if done.returncode == 99 or "unshare" in done.stderr:
        pytest.skip(f"/proc cannot be hidden here: {done.stderr}")
    assert (done.returncode, done.stdout) == (0, f"{target}\n"), done.stderr
    assert (tmp_path / target).read_bytes() == (made / "extract").read_bytes()
    assert set(names(tmp_path)) == {"there", target}


def repr_sh(script: str) -> str:
    """Quote a script in which the word `elsa` stands for the command."""
    import shlex

    return shlex.quote(f'elsa() {{ {ELSA} "$@"; }}\n{script}')
