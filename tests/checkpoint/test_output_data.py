"""What is written to an output, before it is put in place."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from elsa_cli.checkpoint.output import COPY_BYTES, OutputFile, Policy, copy_steps
from elsa_cli.errors import DiskFull, ElsaError, OutputError

DATA = bytes(range(256)) * 5


def copy(source: Path, target: Path, size: int) -> None:
    with source.open("rb") as file, OutputFile(target) as out:
        out.copy_from(file.fileno(), 0, 0, size)
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
    real = os.copy_file_range

    def call(src: int, dst: int, count: int, at: int, to: int) -> int:
        if isinstance(number, int):
            raise OSError(number, os.strerror(number))
        return real(src, dst, min(count, 700_000), at, to)

    if number is not None:
        monkeypatch.setattr(os, "copy_file_range", call)
    with source.open("rb") as file, OutputFile(tmp_path / "out") as out:
        out.write_at(0, b"head")
        out.copy_from(file.fileno(), 5, 4, len(data) - 5)
        out.copy_from(file.fileno(), 0, 0, 2)
        out.copy_from(file.fileno(), 0, 0, 0)
        out.commit()
    assert (tmp_path / "out").read_bytes() == data[:2] + b"ad" + data[5:]


def test_a_copy_of_more_than_there_is_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "in").write_bytes(DATA)
    with pytest.raises(OutputError, match="ended"):
        copy(tmp_path / "in", tmp_path / "out", len(DATA) + 1)
    assert listed(tmp_path) == ["in"]


def test_a_full_disk_while_copying(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    (tmp_path / "in").write_bytes(DATA)
    monkeypatch.setattr(os, "copy_file_range", full)
    with pytest.raises(DiskFull):
        copy(tmp_path / "in", tmp_path / "out", 5)
    assert listed(tmp_path) == ["in"]


def test_copy_steps_join_neighbours_and_split_what_is_long() -> None:
    assert list(copy_steps([])) == []
    assert list(copy_steps([(0, 8, 4), (4, 12, 6), (10, 19, 1), (12, 20, 1)])) == [
        (0, 8, 10),
        (10, 19, 1),
        (12, 20, 1),
    ]
    assert list(
        copy_steps([(1, 2, 0), (1, 2, COPY_BYTES), (1 + COPY_BYTES, 2 + COPY_BYTES, 5)])
    ) == [
        (1, 2, COPY_BYTES),
        (1 + COPY_BYTES, 2 + COPY_BYTES, 5),
    ]


def test_an_input_that_ends_while_it_is_copied(tmp_path: Path) -> None:
    (tmp_path / "in").write_bytes(b"abc")
    source = os.open(tmp_path / "in", os.O_RDONLY)
    try:
        with (
            OutputFile(tmp_path / "out") as out,
            pytest.raises(OutputError, match="an input ended while it was copied"),
        ):
            out.copy_from(source, 0, 0, 10)
    finally:
        os.close(source)
    assert os.listdir(tmp_path) == ["in"]


@pytest.mark.parametrize("clobber", [True, False])
def test_a_file_system_without_hard_links(
    clobber: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has no nameless files either; only a rename could replace a file unasked."""
    whole = os.open

    def refuse(*args: Any, **kwargs: Any) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    def named(path: str, flags: int, *rest: Any) -> int:
        if flags & os.O_TMPFILE == os.O_TMPFILE:
            refuse()
        return whole(path, flags, *rest)

    monkeypatch.setattr(os, "open", named)
    monkeypatch.setattr(os, "link", refuse)
    with OutputFile(tmp_path / "out", Policy(clobber=clobber)) as out:
        out.write_at(0, b"new")
        if clobber:
            out.commit()
        else:
            with pytest.raises(OutputError, match="Operation not permitted"):
                out.commit()
    assert os.listdir(tmp_path) == (["out"] if clobber else [])
    assert not clobber or (tmp_path / "out").read_bytes() == b"new"
