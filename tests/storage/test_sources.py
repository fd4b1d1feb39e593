"""What every byte source does: the contract of `elsa_cli/storage/source.py`."""

from __future__ import annotations

import itertools
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from elsa_cli.core.dtypes import DTYPES
from elsa_cli.errors import InputError, TruncatedFile
from elsa_cli.storage.container import Container
from elsa_cli.storage.header import TensorSpec
from elsa_cli.storage.local import LocalFile
from elsa_cli.storage.memory import MemoryBytes
from elsa_cli.storage.output import OutputFile
from elsa_cli.storage.source import ByteSource, Extent

DATA = os.urandom(100_003)


def local(folder: Path, data: bytes) -> ByteSource:
    (folder / "file").write_bytes(data)
    return LocalFile(folder / "file")


def memory(folder: Path, data: bytes) -> ByteSource:
    cuts = [0, 0, 7, 4096, 4097, len(data)]
    cuts = sorted(min(cut, len(data)) for cut in cuts)
    view = memoryview(data)
    return MemoryBytes("memory", [view[a:b] for a, b in itertools.pairwise(cuts)])


def written(folder: Path, data: bytes) -> ByteSource:
    out = OutputFile(folder / "out")
    out.write_at(0, data)
    return out.source


KINDS: list[Callable[[Path, bytes], ByteSource]] = [local, memory, written]


@pytest.fixture(params=KINDS, ids=lambda kind: kind.__name__)
def source(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[ByteSource]:
    with request.param(tmp_path, DATA) as opened:
        yield opened


def read(source: ByteSource, offset: int, size: int) -> bytes:
    buffer = bytearray(size)
    source.read_into(offset, memoryview(buffer))
    return bytes(buffer)


def test_size_and_name(source: ByteSource) -> None:
    assert source.size == len(DATA)
    assert source.name


@pytest.mark.parametrize("offset", [0, 1, 6, 7, 8, 4095, 4096, 50_000, len(DATA) - 1, len(DATA)])
@pytest.mark.parametrize("size", [0, 1, 2, 4090, len(DATA)])
def test_any_range(source: ByteSource, offset: int, size: int) -> None:
    size = min(size, len(DATA) - offset)
    assert read(source, offset, size) == DATA[offset : offset + size]


@pytest.mark.parametrize(
    ("offset", "size"), [(0, len(DATA) + 1), (len(DATA), 1), (len(DATA) + 9, 1)]
)
def test_nothing_past_the_end(source: ByteSource, offset: int, size: int) -> None:
    if source.name.endswith("out"):
        pytest.skip("an output that is read back past its end is an error of the output")
    with pytest.raises(TruncatedFile, match="ends at byte"):
        read(source, offset, size)


def test_the_descriptor_gives_the_same_bytes(source: ByteSource) -> None:
    if source.fd is not None:
        assert os.pread(source.fd, len(DATA), 0) == DATA


def test_many_threads(source: ByteSource) -> None:
    wrong: list[int] = []

    def work(first: int) -> None:
        for offset in range(first, len(DATA) - 1000, 7919):
            if read(source, offset, 1000) != DATA[offset : offset + 1000]:
                wrong.append(offset)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_an_output_takes_its_bytes(source: ByteSource, tmp_path: Path) -> None:
    with OutputFile(tmp_path / "copy") as out:
        out.copy_from(Extent(source, 5, 60_000), 11)
        out.commit()
    assert (tmp_path / "copy").read_bytes() == bytes(11) + DATA[5:60_005]


def test_closing_twice(source: ByteSource) -> None:
    source.close()
    source.close()


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_nothing_at_all(kind: Callable[[Path, bytes], ByteSource], tmp_path: Path) -> None:
    with kind(tmp_path, b"") as opened:
        assert opened.size == 0
        assert read(opened, 0, 0) == b""


def test_a_file_that_is_not_there_or_is_none(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="No such file"):
        LocalFile(tmp_path / "nothing")
    with pytest.raises(InputError, match="is a folder"):
        LocalFile(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InputError, match="is not a regular file"):
        LocalFile(tmp_path / "pipe")


def test_tensors_in_memory_are_a_container() -> None:
    tensors = {
        TensorSpec("b", DTYPES["BF16"], (3, 1)): memoryview(b"abcdef"),
        TensorSpec("a", DTYPES["F32"], ()): memoryview(b"0123"),
        TensorSpec("none", DTYPES["F64"], (0, 4)): memoryview(b""),
    }
    with Container(MemoryBytes.of_tensors("here", tensors, {"x": "é"})) as opened:
        assert opened.path == "here"
        assert opened.metadata == {"format": "pt", "x": "é"}
        assert {t.spec: opened.read(t) for t in opened.tensors} == {
            spec: bytes(view) for spec, view in tensors.items()
        }
