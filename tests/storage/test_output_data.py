"""What is written to an output, before it is put in place."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from elsa_cli.errors import DiskFull, ElsaError, OutputError, OutputExists
from elsa_cli.storage.copying import COPY_BYTES, copy_steps
from elsa_cli.storage.local import LocalFile
from elsa_cli.storage.memory import MemoryBytes
from elsa_cli.storage.output import OutputFile, Policy
from elsa_cli.storage.source import ByteSource, Extent

DATA = bytes(range(256)) * 5


def needs(call: str) -> pytest.MarkDecorator:
    """Skip a test where Python lacks a call."""
    return pytest.mark.skipif(not hasattr(os, call), reason=f"os.{call} is not there")


def copy(source: Path, target: Path, size: int) -> None:
    with LocalFile(source) as file, OutputFile(target) as out:
        out.copy_from(Extent(file, 0, size), 0)
        out.commit()


def listed(folder: Path) -> list[str]:
    return sorted(os.listdir(folder))


@pytest.mark.parametrize(("root", "free"), [(True, 3000 * 512), (False, 2000 * 512)])
def test_reserve(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, root: bool, free: int) -> None:
    room = SimpleNamespace(f_frsize=512, f_bsize=4096, f_bfree=3000, f_bavail=2000)
    monkeypatch.setattr(os, "fstatvfs", lambda fd: room)
    monkeypatch.setattr(os, "geteuid", lambda: 0 if root else 1000)
    with OutputFile(tmp_path / "out") as out:
        out.reserve(free)
        with pytest.raises(DiskFull, match=f"needs {free + 1:,} bytes, {free:,} are free"):
            out.reserve(free + 1)
    assert listed(tmp_path) == []


def test_resize_and_read_back(tmp_path: Path) -> None:
    with OutputFile(tmp_path / "out") as out:
        out.resize(100)
        out.write_at(90, b"abc")
        buffer = bytearray(8)
        out.read_into(88, memoryview(buffer))
        assert bytes(buffer) == b"\0\0abc\0\0\0"
        out.commit()
    assert (tmp_path / "out").read_bytes() == bytes(90) + b"abc" + bytes(7)


@needs("preadv")
def test_reading_back_past_the_end_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, calls = os.preadv, iter(range(100))

    def counted(fd: int, buffers: list[Any], at: int) -> int:
        next(calls)  # a loop that waits for the missing bytes runs out of numbers
        return real(fd, buffers, at)

    monkeypatch.setattr(os, "preadv", counted)
    with OutputFile(tmp_path / "out") as out:
        out.write_at(0, b"abc")
        with pytest.raises(ElsaError):
            out.read_into(0, memoryview(bytearray(4)))


@pytest.mark.parametrize("number", [None, errno.EXDEV, errno.ENOSYS, errno.EOPNOTSUPP, "short"])
def test_copies_are_the_same_with_and_without_the_kernels_help(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int | str | None
) -> None:
    source = tmp_path / "in"
    data = os.urandom(3_000_001)
    source.write_bytes(data)
    if number is not None and not hasattr(os, "copy_file_range"):
        pytest.skip("os.copy_file_range is not there")
    real = getattr(os, "copy_file_range", None)

    def call(src: int, dst: int, count: int, at: int, to: int) -> int:
        if isinstance(number, int):
            raise OSError(number, os.strerror(number))
        assert real is not None
        return int(real(src, dst, min(count, 700_000), at, to))

    if number is not None:
        monkeypatch.setattr(os, "copy_file_range", call)
    with LocalFile(source) as file, OutputFile(tmp_path / "out") as out:
        out.write_at(0, b"head")
        out.copy_from(Extent(file, 5, len(data) - 5), 4)
        out.copy_from(Extent(file, 0, 2), 0)
        out.copy_from(Extent(file, 0, 0), 0)
        out.commit()
    assert (tmp_path / "out").read_bytes() == data[:2] + b"ad" + data[5:]


def test_a_copy_of_more_than_there_is_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "in").write_bytes(DATA)
    with pytest.raises(OutputError, match="ended"):
        copy(tmp_path / "in", tmp_path / "out", len(DATA) + 1)
    assert listed(tmp_path) == ["in"]


@needs("copy_file_range")
def test_a_full_disk_while_copying(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    (tmp_path / "in").write_bytes(DATA)
    monkeypatch.setattr(os, "copy_file_range", full)
    with pytest.raises(DiskFull):
        copy(tmp_path / "in", tmp_path / "out", 5)
    assert listed(tmp_path) == ["in"]


def test_copy_steps_join_neighbours_and_split_what_is_long() -> None:
    one, two = MemoryBytes("one", []), MemoryBytes("two", [])

    def steps(*moves: tuple[ByteSource, int, int, int]) -> list[tuple[ByteSource, int, int, int]]:
        given = ((Extent(source, at, size), target) for source, at, target, size in moves)
        return [(source, at, to, size) for (source, at, size), to in copy_steps(given)]

    assert steps() == []
    assert steps((one, 0, 8, 4), (one, 4, 12, 6), (one, 10, 19, 1), (one, 12, 20, 1)) == [
        (one, 0, 8, 10),
        (one, 10, 19, 1),
        (one, 12, 20, 1),
    ]
    assert steps((one, 0, 8, 4), (two, 4, 12, 6)) == [(one, 0, 8, 4), (two, 4, 12, 6)]
    size = COPY_BYTES
    assert steps((one, 1, 2, 0), (one, 1, 2, size), (one, 1 + size, 2 + size, 5)) == [
        (one, 1, 2, size),
        (one, 1 + size, 2 + size, 5),
    ]


def test_an_input_that_ends_while_it_is_copied(tmp_path: Path) -> None:
    (tmp_path / "in").write_bytes(b"abc")
    with (
        LocalFile(tmp_path / "in") as source,
        OutputFile(tmp_path / "out") as out,
        pytest.raises(OutputError, match="in ended while it was copied"),
    ):
        out.copy_from(Extent(source, 0, 10), 0)
    assert os.listdir(tmp_path) == ["in"]


def test_a_source_without_a_descriptor_is_copied_through_memory(tmp_path: Path) -> None:
    data = os.urandom(COPY_BYTES + 12_345)
    source = MemoryBytes("memory", [memoryview(data)[:777], memoryview(data)[777:]])
    with OutputFile(tmp_path / "out") as out:
        out.copy_from(Extent(source, 5, len(data) - 5), 3)
        out.commit()
    assert (tmp_path / "out").read_bytes() == bytes(3) + data[5:]


@pytest.mark.parametrize("clobber", [True, False])
@pytest.mark.parametrize("there", [True, False])
def test_a_file_system_without_hard_links(
    clobber: bool, there: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has no nameless files either; nobody's file is replaced unasked all the same."""
    whole = os.open

    def refuse(*args: Any, **kwargs: Any) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    def named(path: str, flags: int, *rest: Any) -> int:
        if hasattr(os, "O_TMPFILE") and flags & os.O_TMPFILE == os.O_TMPFILE:
            refuse()
        return whole(path, flags, *rest)

    monkeypatch.setattr(os, "open", named)
    monkeypatch.setattr(os, "link", refuse)
    with OutputFile(tmp_path / "out", Policy(clobber=clobber)) as out:
        out.write_at(0, b"new")
        if there:
            (tmp_path / "out").write_bytes(b"theirs")
        if clobber or not there:
            out.commit()
        else:
            with pytest.raises(OutputExists):
                out.commit()
    assert os.listdir(tmp_path) == ["out"]
    assert (tmp_path / "out").read_bytes() == (b"new" if clobber or not there else b"theirs")


def test_a_rename_that_fails_frees_the_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without hard links, --no-clobber takes the name before it renames."""

    def refuse(*args: Any, **kwargs: Any) -> None:
        raise OSError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(os, "link", refuse)
    monkeypatch.setattr(os, "replace", refuse)
    with OutputFile(tmp_path / "out", Policy(clobber=False)) as out:
        out.write_at(0, b"new")
        with pytest.raises(OutputError, match="Permission denied"):
            out.commit()
    assert os.listdir(tmp_path) == []


@needs("O_TMPFILE")
@pytest.mark.parametrize("there", [True, False])
@pytest.mark.parametrize("clobber", [True, False])
def test_a_link_that_is_refused_in_the_end_only(
    clobber: bool, there: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was written to a file without a name is copied, rather than lost."""
    path, data = tmp_path / "out", os.urandom(3_000_000)
    if there and clobber:
        path.write_bytes(b"old")
        path.chmod(0o604)
    real = os.link

    def link(source: str, target: str, **options: Any) -> None:
        if source.startswith("/proc/") and target != ".":
            raise OSError(errno.EACCES, os.strerror(errno.EACCES))
        real(source, target, **options)

    monkeypatch.setattr(os, "link", link)
    with OutputFile(path, Policy(clobber=clobber)) as out:
        out.write_at(0, data)
        assert os.listdir(tmp_path) == (["out"] if path.exists() else [])
        if there and not clobber:
            path.write_bytes(b"theirs")
            with pytest.raises(OutputExists):
                out.commit()
            data = b"theirs"
        else:
            out.commit()
    assert os.listdir(tmp_path) == ["out"]
    assert path.read_bytes() == data
    assert not (there and clobber) or path.stat().st_mode & 0o777 == 0o604


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM])
def test_where_nothing_can_be_synced(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(fd: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", refuse)
    with OutputFile(tmp_path / "out") as out:
        out.write_at(0, DATA)
        out.commit()
    assert (tmp_path / "out").read_bytes() == DATA


@pytest.mark.parametrize("call", ["fsync", "pwrite", "ftruncate"])
@pytest.mark.parametrize("number", [errno.EIO, errno.EROFS])
def test_a_disk_that_fails_is_an_error(
    call: str, number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> None:
        raise OSError(number, os.strerror(number))

    (tmp_path / "out").write_bytes(b"old")
    monkeypatch.setattr(os, call, broken)

    def write() -> None:
        with OutputFile(tmp_path / "out") as out:
            out.resize(len(DATA))
            out.write_at(0, DATA)
            out.commit()

    with pytest.raises(OutputError, match=os.strerror(number)):
        write()
    assert os.listdir(tmp_path) == ["out"]
    assert (tmp_path / "out").read_bytes() == b"old"


def test_a_file_system_that_counts_no_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nothing = SimpleNamespace(f_frsize=4096, f_blocks=0, f_bfree=0, f_bavail=0)
    monkeypatch.setattr(os, "fstatvfs", lambda fd: nothing)
    with OutputFile(tmp_path / "out") as out:
        out.reserve(1 << 60)
    monkeypatch.setattr(
        os, "fstatvfs", lambda fd: SimpleNamespace(**{**vars(nothing), "f_blocks": 9})
    )
    with OutputFile(tmp_path / "out") as out, pytest.raises(DiskFull):
        out.reserve(1)


def test_a_private_file_is_private_all_the_while(tmp_path: Path) -> None:
    """Even where permissions cannot be changed, a new file is never more open than the old."""
    (tmp_path / "out").write_bytes(b"old")
    (tmp_path / "out").chmod(0o600)
    with OutputFile(tmp_path / "out") as out:
        assert os.fstat(out.fd).st_mode & 0o777 == 0o600
