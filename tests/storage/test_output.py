from __future__ import annotations

import errno
import os
import stat
import threading
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from elsa_cli.errors import DiskFull, ElsaError, OutputError, OutputExists, UsageError
from elsa_cli.storage.local import LocalFile
from elsa_cli.storage.output import OutputFile, Policy
from elsa_cli.storage.source import Extent

DATA = bytes(range(256)) * 5


@pytest.fixture(params=["nameless", "hidden sibling"])
def kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """File systems with and without files that have no name."""
    if not hasattr(os, "O_TMPFILE"):
        if request.param == "nameless":
            pytest.skip("there are no nameless files here")
        return str(request.param)
    if request.param == "hidden sibling":
        real = os.open

        def without(path: Any, flags: int, *rest: Any, **options: Any) -> int:
            if flags & os.O_TMPFILE == os.O_TMPFILE:
                raise OSError(errno.EOPNOTSUPP, "Operation not supported")
            return real(path, flags, *rest, **options)

        monkeypatch.setattr(os, "open", without)
    return str(request.param)


@pytest.fixture
def umask() -> Iterator[None]:
    before = os.umask(0o027)
    yield
    os.umask(before)


def write(path: Path, data: bytes = DATA, policy: Policy | None = None) -> None:
    with OutputFile(path, policy) as out:
        out.resize(3)
        out.write_at(3, data[3:])
        out.write_at(0, data[:3])
        out.commit()


def listed(folder: Path) -> list[str]:
    return sorted(os.listdir(folder))


def test_a_new_file_appears_complete_at_commit(tmp_path: Path, kind: str, umask: None) -> None:
    path = tmp_path / "out"
    with OutputFile(path) as out:
        out.write_at(0, DATA)
        assert not path.exists()
        assert len(listed(tmp_path)) == (kind == "hidden sibling")
        out.commit()
        assert path.read_bytes() == DATA
    assert listed(tmp_path) == ["out"]
    assert path.read_bytes() == DATA
    assert stat.S_IMODE(path.stat().st_mode) == 0o640  # 0666 less the umask, not 0600


@pytest.mark.parametrize("mode", [0o600, 0o604, 0o664])
def test_an_existing_file_is_replaced_and_keeps_its_mode(
    tmp_path: Path, kind: str, umask: None, mode: int
) -> None:
    path = tmp_path / "out"
    path.write_bytes(b"old")
    path.chmod(mode)
    inode = path.stat().st_ino
    with path.open("rb") as reader:
        write(path)
        assert reader.read() == b"old"  # who reads it goes on reading the old one
    assert path.read_bytes() == DATA
    assert path.stat().st_ino != inode
    assert stat.S_IMODE(path.stat().st_mode) == mode
    assert listed(tmp_path) == ["out"]


@pytest.mark.parametrize("error", [None, RuntimeError, KeyboardInterrupt])
def test_what_is_not_committed_leaves_nothing_behind(
    tmp_path: Path, kind: str, error: type[BaseException] | None
) -> None:
    old = tmp_path / "old"
    old.write_bytes(b"old")
    for path in (old, tmp_path / "new"):
        with pytest.raises(error) if error else nullcontext(), OutputFile(path) as out:
            out.write_at(0, DATA)
            if error:
                raise error
    assert listed(tmp_path) == ["old"]
    assert old.read_bytes() == b"old"


def test_descriptors_are_closed(tmp_path: Path, kind: str) -> None:
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        write(tmp_path / "out")
        with OutputFile(tmp_path / "out"):
            pass
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_link_is_followed(tmp_path: Path, kind: str) -> None:
    target = tmp_path / "elsewhere" / "target"
    target.parent.mkdir()
    link = tmp_path / "link"
    link.symlink_to("elsewhere/target")
    for old in (False, True):
        write(link, DATA if old else b"first")
        assert link.is_symlink()
        assert os.readlink(link) == "elsewhere/target"
        assert target.read_bytes() == (DATA if old else b"first")
    assert listed(tmp_path) == ["elsewhere", "link"]
    assert listed(target.parent) == ["target"]


def test_a_device_is_written_and_not_replaced(kind: str) -> None:
    before = os.stat("/dev/null")
    write(Path("/dev/null"), policy=Policy(clobber=False))
    after = os.stat("/dev/null")
    assert stat.S_ISCHR(after.st_mode)
    assert (after.st_ino, after.st_mode) == (before.st_ino, before.st_mode)


def test_a_pipe_gets_the_bytes(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    got: list[bytes] = []
    reader = threading.Thread(target=lambda: got.append(path.read_bytes()))
    reader.start()
    data = DATA * 1000  # more than a pipe holds
    write(path, data)
    reader.join()
    assert got == [data]
    assert stat.S_ISFIFO(path.stat().st_mode)
    assert listed(tmp_path) == ["pipe"]


def test_a_dash_is_standard_output(
    kind: str, tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes], monkeypatch: Any
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    write(Path("-"))
    assert capfdbinary.readouterr().out == DATA
    assert listed(tmp_path) == []
    assert not os.path.exists("-")


def test_no_clobber(tmp_path: Path) -> None:
    path = tmp_path / "out"
    write(path, policy=Policy(clobber=False))
    with pytest.raises(OutputExists, match="exists already") as caught:
        OutputFile(path, Policy(clobber=False))
    assert str(path) in str(caught.value)
    assert path.read_bytes() == DATA
    link = tmp_path / "link"
    link.symlink_to("out")
    with pytest.raises(OutputExists):
        OutputFile(link, Policy(clobber=False))


def test_no_clobber_holds_to_the_end(tmp_path: Path, kind: str) -> None:
    """A file that appears while the output is written is not replaced either."""
    path = tmp_path / "out"
    with OutputFile(path, Policy(clobber=False)) as out:
        out.write_at(0, DATA)
        path.write_bytes(b"theirs")
        with pytest.raises(OutputExists):
            out.commit()
    assert path.read_bytes() == b"theirs"
    assert listed(tmp_path) == ["out"]


def test_a_file_that_appears_meanwhile_is_replaced_by_default(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "out"
    with OutputFile(path) as out:
        out.write_at(0, DATA)
        path.write_bytes(b"theirs")
        out.commit()
    assert path.read_bytes() == DATA
    assert listed(tmp_path) == ["out"]


def test_an_input_is_refused_without_force(tmp_path: Path) -> None:
    path, link, hard = tmp_path / "in", tmp_path / "link", tmp_path / "hard"
    path.write_bytes(b"input")
    link.symlink_to(path)
    os.link(path, hard)
    for name in (path, link, hard, tmp_path / "." / "in"):
        with pytest.raises(UsageError, match="also an input"):
            OutputFile(name, Policy([path]))
    assert path.read_bytes() == b"input"
    with LocalFile(path) as source, OutputFile(path, Policy([path], force=True)) as out:
        out.copy_from(Extent(source, 0, 5), 0)
        out.commit()
    assert path.read_bytes() == b"input"


def test_places_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="its folder does not exist; mkdir -p"):
        OutputFile(tmp_path / "no" / "out")
    with pytest.raises(OutputError, match="is a folder"):
        OutputFile(tmp_path)
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OutputError):
        OutputFile(tmp_path / "file" / "out")
    assert listed(tmp_path) == ["file"]


def test_a_target_that_becomes_a_folder_is_an_error_without_remains(
    tmp_path: Path, kind: str
) -> None:
    with OutputFile(tmp_path / "out") as out:
        out.write_at(0, DATA)
        (tmp_path / "out").mkdir()
        with pytest.raises(OutputError, match="cannot be written"):
            out.commit()
    assert listed(tmp_path) == ["out"]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
@pytest.mark.parametrize("call", ["pwrite", "ftruncate", "fsync"])
def test_a_full_disk_leaves_the_old_file(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch, call: str, number: int
) -> None:
    def full(*_: object) -> int:
        raise OSError(number, os.strerror(number))

    path = tmp_path / "out"
    path.write_bytes(b"old")
    monkeypatch.setattr(os, call, full)
    with pytest.raises(DiskFull, match="no space") as caught:
        write(path)
    assert str(path) in str(caught.value)
    assert path.read_bytes() == b"old"
    assert listed(tmp_path) == ["out"]


def test_other_errors_of_the_system_are_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> int:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "pwrite", broken)
    with pytest.raises(OutputError, match="Input/output error"), OutputFile(tmp_path / "a") as out:
        out.write_at(0, b"a")
    assert not isinstance(ElsaError("x"), OSError)
