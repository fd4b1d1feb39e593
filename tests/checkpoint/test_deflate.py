"""Deflate streams of our own: any inflate reads them, whatever the pieces; damage is named."""

from __future__ import annotations

import base64
import itertools
import re
import subprocess
import sys
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from elsa_cli.checkpoint.deflate import (
    HELD,
    Deflater,
    Inflater,
    decode_text,
    deflate,
    deflate_several,
    encode_text,
    inflate,
    is_coded_text,
)
from elsa_cli.core.kernels.coding_deflate import BLOCK


def in_pieces(raw: bytes, cuts: Sequence[int]) -> bytes:
    parts: list[bytes] = []
    coder = Deflater(parts.append)
    for a, b in itertools.pairwise(sorted({0, len(raw), *cuts})):
        coder.write(raw[a:b] if a % 2 else np.frombuffer(raw[a:b], np.uint8))
    coder.close()
    return b"".join(parts)


@given(st.binary(max_size=400), st.lists(st.integers(0, 400), max_size=4))
def test_round_trip(raw: bytes, cuts: list[int]) -> None:
    coded = deflate(raw)
    assert zlib.decompress(coded, -15) == raw
    assert inflate(coded, len(raw)) == raw
    assert in_pieces(raw, [cut % (len(raw) + 1) for cut in cuts]) == coded


@pytest.mark.parametrize("size", [BLOCK - 1, BLOCK, BLOCK + 1, HELD, HELD + 1, 2 * HELD + 77])
def test_the_pieces_do_not_matter(size: int) -> None:
    raw = (np.random.default_rng(size).geometric(0.1, size) - 1).astype(np.uint8).tobytes()
    coded = deflate(raw)
    assert zlib.decompress(coded, -15) == raw
    for cuts in ([1], [BLOCK], [size // 2, size // 3], range(0, size, 60_000)):
        assert in_pieces(raw, cuts) == coded


@given(st.lists(st.binary(max_size=70), max_size=8))
def test_several_streams_are_those_of_each(parts: list[bytes]) -> None:
    ends = np.cumsum([len(p) for p in parts], dtype=np.int64)
    coded, sizes = deflate_several(np.frombuffer(bytearray(b"".join(parts)), np.uint8), ends)
    cuts = itertools.pairwise([0, *np.cumsum(sizes).tolist()])
    assert [coded[a:b] for a, b in cuts] == list(map(deflate, parts))


def test_small_streams_are_as_small_as_those_of_zlib() -> None:
    rng = np.random.default_rng(3)
    assert deflate(b"") == b"\x03\x00"
    ours = theirs = 0
    for _ in range(300):
        raw = np.packbits(rng.random(rng.integers(1, 4000)) < rng.random()).tobytes()
        coder = zlib.compressobj(9, zlib.DEFLATED, -15, 9, zlib.Z_HUFFMAN_ONLY)
        ours += len(deflate(raw))
        theirs += len(coder.compress(raw) + coder.flush())
    assert ours <= theirs


def test_the_coder_is_huffman_only() -> None:
    raw = np.random.default_rng(5).bytes(5000) * 2
    assert len(deflate(raw)) > len(raw) * 0.99  # no matches: the second half costs as the first


@given(st.binary(max_size=400))
def test_text_round_trip(raw: bytes) -> None:
    text = encode_text(raw)
    assert text.isascii()
    assert is_coded_text(text)
    assert decode_text(text, len(raw)) == raw
    assert decode_text(encode_text(bytearray(raw)), len(raw)) == raw
    assert zlib.decompress(base64.b64decode(text), -15) == raw


@pytest.mark.parametrize("delta", [-3, -1, 1, 5])
def test_text_of_another_size_is_refused(delta: int) -> None:
    raw = bytes(range(100))
    with pytest.raises(
        ValueError, match=r"holds more than 9\d bytes|holds 100 bytes instead of 10"
    ):
        decode_text(encode_text(raw), len(raw) + delta)


@given(st.data())
def test_damaged_text_is_refused_or_of_the_right_size(data: st.DataObject) -> None:
    raw = np.random.default_rng(4).bytes(90)
    text = encode_text(raw)
    at = data.draw(st.integers(0, len(text) - 1))
    other = data.draw(st.one_of(st.just(""), st.characters()))
    try:
        found = decode_text(text[:at] + other + text[at + 1 :], len(raw))
    except ValueError:
        return
    assert len(found) == len(raw)


@pytest.mark.parametrize("text", ["", "é", "AB=", "A B C D", "AAAA", encode_text(b"abc")[:-4]])
def test_what_is_not_coded_text(text: str) -> None:
    assert not is_coded_text(text)
    with pytest.raises(ValueError):  # noqa: PT011 - any kind of it
        decode_text(text, 3)


def test_text_with_something_behind_it_is_refused() -> None:
    text = base64.b64encode(deflate(b"abc") + b"x").decode()
    assert not is_coded_text(text)
    with pytest.raises(ValueError, match="something behind"):
        decode_text(text, 3)


def test_text_without_an_end_is_refused() -> None:
    with pytest.raises(ValueError, match="has no end"):
        inflate(deflate(bytes(1000))[:-3], 1000)


def test_a_bomb_is_not_unpacked() -> None:
    coded = zlib.compressobj(9, zlib.DEFLATED, -15)
    bomb = b"".join(coded.compress(bytes(1 << 20)) for _ in range(64)) + coded.flush()
    with pytest.raises(ValueError, match="holds more than 10 bytes"):
        decode_text(base64.b64encode(bomb).decode(), 10)


def test_text_that_is_base64_of_no_deflate_stream() -> None:
    with pytest.raises(ValueError, match="deflate stream is damaged"):
        decode_text(base64.b64encode(b"\xff" * 10).decode(), 4)


def reading(coded: bytes, step: int) -> Inflater:
    left = [coded[at : at + step] for at in range(0, len(coded), step)][::-1]
    return Inflater(lambda _: left.pop() if left else b"")


@given(st.binary(max_size=300), st.integers(1, 9), st.integers(1, 50))
def test_inflating_in_pieces(raw: bytes, step: int, size: int) -> None:
    inflater = reading(deflate(raw), step)
    found = []
    while part := inflater.take(size):
        assert len(part) <= size
        found.append(part)
    assert b"".join(found) == raw
    assert inflater.ended
    behind = reading(deflate(raw) + b"x", step)
    while behind.take(size):
        pass
    assert not behind.ended


def test_a_damaged_stream_is_named() -> None:
    with pytest.raises(ValueError, match="deflate stream is damaged"):
        reading(b"\xff" * 20, 20).take(5)
    cut = reading(deflate(bytes(1000))[:-3], 5)
    while cut.take(100):
        pass
    assert not cut.ended


WITHOUT = """
import sys
sys.modules["isal"] = None
from elsa_cli.checkpoint import deflate
assert deflate._library.__name__ == "zlib"
raw = bytes(range(200))
coded = deflate.deflate(raw)
assert deflate.inflate(coded, 200) == raw
found = deflate.Inflater(lambda _: coded).take(300)
assert found == raw
try:
    deflate.inflate(b"\\xff" * 9, 4)
except ValueError as error:
    print(error)
"""


def test_without_isal_zlib_reads() -> None:
    done = subprocess.run([sys.executable, "-c", WITHOUT], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("its deflate stream is damaged (Error -3")


def test_the_examples_of_the_format() -> None:
    page = (Path(__file__).parents[2] / "docs" / "format.md").read_text()
    last = " ".join(page.partition("The stream of no bytes is")[2].split())
    examples = [re.findall(r"0x([0-9a-f]{2})", part) for part in last.split(";")]
    found = [bytes.fromhex("".join(example)) for example in examples]
    assert [deflate(b""), deflate(b"abc")] == found[:2]
    assert found[2][:1] == b"a"
    assert deflate(b"a" * 40) == found[2][1:]
