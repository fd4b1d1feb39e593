"""Files of other kinds: the error says what each is, and what to do."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import pickle
import struct
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from elsa_cli.errors import MalformedFile, OtherFormat
from elsa_cli.storage.container import Container
from elsa_cli.storage.kinds import KINDS, foreign_kind
from tests.commands.shell import names, one_line
from tests.helpers import elsa, write_raw, write_safetensors


def zipped(*members: str) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for member in members:
            archive.writestr(member, b"x" * 100)
    return file.getvalue()


def tarred() -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        info = tarfile.TarInfo("model.safetensors")
        info.size = 100
        archive.addfile(info, io.BytesIO(bytes(100)))
    return file.getvalue()


def saved(*, legacy: bool) -> bytes:
    import torch

    file = io.BytesIO()
    torch.save({"w": torch.ones(3)}, file, _use_new_zipfile_serialization=not legacy)
    return file.getvalue()


def npy(save: Callable[..., None]) -> bytes:
    file = io.BytesIO()
    save(file, np.ones(3))
    return file.getvalue()


INDEX = {
    "metadata": {"total_size": 8},
    "weight_map": {
        "w": "model-00001-of-00002.safetensors",
        "v": "model-00002-of-00002.safetensors",
    },
}
LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 548105171\n"
FOLDED = {"metadata": {"note": "x" * 9000}, "weight_map": {}}

# What it is, the words that say so, and what to do.
CASES: dict[str, tuple[bytes | Callable[[], bytes], str, str]] = {
    "lfs": (LFS, "is a Git LFS pointer, not the weights", "fetch them with `git lfs pull`"),
    "old lfs": (
        b"version http://git-media.io/v/2\noid x\n",
        "is a Git LFS pointer",
        "git lfs pull",
    ),
    "annex": (b"/annex/objects/SHA256E-s1--0.safetensors\n", "is a git-annex", "git annex get"),
    "html": (b"<!DOCTYPE html><html><body>Sign in</body></html>", "is a web page", "fetch"),
    "html too": (b"\xef\xbb\xbf\n <HTML lang=en>", "is a web page (HTML)", "fetch the file again"),
    "html noted": (b"<!-- 404 --><!doctype HTML>", "is a web page (HTML)", "fetch"),
    "xml": (b'<?xml version="1.0"?><Error><Code>AccessDenied</Code>', "is XML", "fetch the file"),
    "torch": (lambda: saved(legacy=False), "is a zip archive of torch.save", "convert it with"),
    "torch 1.6": (zipped("archive/data.pkl"), "is a zip archive of torch.save", "torch.load"),
    "torch legacy": (lambda: saved(legacy=True), "is a legacy pickle of torch.save", "torch.load"),
    "pickle": (pickle.dumps({"w": [1.0]}, 4), "is a Python pickle", "torch.load"),
    "pickle 2": (pickle.dumps({"w": [1.0]}, 2), "is a Python pickle", "torch.load"),
    "zip": (zipped("model.safetensors"), "is a zip archive", "safetensors"),
    "zip empty": (zipped(), "is a zip archive", "safetensors"),
    "npz": (lambda: npy(np.savez), "is a NumPy archive (.npz)", "save the weights as safetensors"),
    "npy": (lambda: npy(np.save), "is a NumPy array (.npy)", "save the weights as safetensors"),
    "gzip": (gzip.compress(bytes(99)), "is compressed with gzip", "unpack it"),
    "gzip timeless": (gzip.compress(bytes(99), mtime=0), "is compressed with gzip", "unpack it"),
    "zstd": (b"\x28\xb5\x2f\xfd" + bytes(99), "is compressed with zstd", "unpack it"),
    "xz": (lzma.compress(bytes(99)), "is compressed with xz", "unpack it"),
    "bzip2": (bz2.compress(bytes(99)), "is compressed with bzip2", "unpack it"),
    "lz4": (b"\x04\x22\x4d\x18" + bytes(99), "is compressed with lz4", "unpack it"),
    "7z": (b"7z\xbc\xaf\x27\x1c" + bytes(99), "is a 7z archive", "unpack it"),
    "rar": (b"Rar!\x1a\x07\1\0" + bytes(99), "is a RAR archive", "unpack it"),
    "tar": (tarred(), "is a tar archive", "unpack it"),
    "gguf": (b"GGUF" + struct.pack("<IQQ", 3, 1, 1), "is a GGUF file", "it was converted from"),
    "ggml": (b"tjgg" + bytes(99), "is a GGML file", "it was converted from"),
    "hdf5": (b"\x89HDF\r\n\x1a\n" + bytes(99), "is an HDF5 file (.h5)", "save the weights"),
    "onnx": (b"\x08\x08\x12\x07pytorch\x1a\x052.1.0:\x99\x01", "is an ONNX model", "exported from"),
    "onnx bare": (b"\x08\x09:\x99\x01\x0a\x10" + bytes(99), "is an ONNX model", "exported from"),
    "tflite": (b"\x1c\0\0\0TFL3" + bytes(99), "is a TFLite model", "it was converted from"),
    "parquet": (b"PAR1" + bytes(99), "is a Parquet file", "name the safetensors file"),
    "pdf": (b"%PDF-1.7\n", "is a PDF document", "name the safetensors file"),
    "index": (
        json.dumps(INDEX).encode(),
        "is the index of a checkpoint in shards",
        "its shards lie",
    ),
    "index indented": (
        json.dumps(INDEX, indent=2).encode(),
        "is the index of",
        "its shards lie in",
    ),
    "index late": (json.dumps(FOLDED).encode(), "is the index of", "name one of them"),
    "config": (b'{\n  "model_type": "bert"\n}\n', "is JSON, such as a config", "name the safet"),
    "json": (b"{}", "is JSON, such as a config", "name the safetensors file"),
    "list": (b"[1, 2, 3, 4, 5]", "is JSON, such as a config", "name the safetensors file"),
    "empty": (b"", "is empty", "fetch or save it again"),
}


def content(case: str) -> bytes:
    made = CASES[case][0]
    return made if isinstance(made, bytes) else made()


@pytest.mark.parametrize("case", CASES)
def test_a_file_that_is_named(case: str, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "model").write_bytes(content(case))
    done = elsa("sparsify", "in/model", "--levels", "0.5", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (1, b"")
    message = one_line(done.stderr)
    _, what, advice = CASES[case]
    assert message.startswith("Error: in/model: ")
    assert what in message
    assert advice in message.partition("; ")[2]
    assert ("lie in in:" in message) == ("index" in case)
    assert names(tmp_path / "in") == ["model"]


def test_every_kind_has_a_case() -> None:
    found = {foreign_kind(content(case)) for case in CASES if case != "empty"}
    assert found == set(KINDS)


@pytest.mark.parametrize("command", ["extract --level 0.5", "pack", "verify", "inspect"])
def test_every_command_names_it(command: str, tmp_path: Path) -> None:
    (tmp_path / "model").write_bytes(LFS)
    verb, *options = command.split()
    done = elsa(verb, "model", *options, cwd=tmp_path)
    assert done.returncode == 1
    assert "is a Git LFS pointer, not the weights" in one_line(done.stderr)


# Of these the eighth byte is 0, as in a safetensors file, so standard input is spooled.
@pytest.mark.parametrize("case", ["gzip timeless", "torch 1.6", "zip"])
def test_bytes_on_standard_input(case: str, tmp_path: Path) -> None:
    raw = bytearray(content(case))
    if case != "gzip timeless":
        raw[6:8] = bytes(2)  # the flags of a zip entry
    assert raw[7] == 0
    done = elsa("sparsify", "-", "--levels", "0.5", "-o", "x", stdin=bytes(raw), cwd=tmp_path)
    assert done.returncode == 1
    assert one_line(done.stderr).startswith(f"Error: standard input: {CASES[case][1]}")
    assert names(tmp_path) == []


def test_the_first_eight_bytes_tell_most_kinds() -> None:
    for case in ("hdf5", "gguf", "gzip", "zstd", "xz", "npy", "zip", "config", "parquet", "pdf"):
        assert foreign_kind(content(case)[:8]) is not None, case
    assert foreign_kind(b"") is None
    assert foreign_kind(b"model.sa") is None


def test_what_is_safetensors_is_never_taken_for_another_kind(tmp_path: Path) -> None:
    """A length of header may look like the first bytes of gzip or zip; the brace decides."""
    for start in (b"\x1f\x8b\x08\0\0\0\0\0", b"PK\x03\x04\0\0\0\0"):
        (length,) = struct.unpack("<Q", start)
        head = start + b"\n {" + b" " * 100
        assert foreign_kind(head) is None
        assert foreign_kind(start + b"\0\xff" + bytes(100)) is not None
        if length < 1_000_000:
            path = write_raw(tmp_path / "m", b"{}".ljust(length))
            Container(path).close()
    path = write_safetensors(tmp_path / "m", [("w", "U8", (1,), b"a")])
    assert foreign_kind(path.read_bytes()) is None
    # A damaged safetensors file is none of another kind.
    for header in (b'{"weight_map": 1}', b'{"w":{}}', b"{"):
        with pytest.raises(MalformedFile) as caught:
            Container(write_raw(tmp_path / "m", header, bytes(8)))
        assert caught.type is not OtherFormat
