from __future__ import annotations

import hashlib
import struct
import zlib

import numpy as np
import pytest

from elsa_cli.storage.digest import BLOCK, Digests, digest_memory, digest_ranges

STEP = 8 * BLOCK
EMPTY = hashlib.sha256(b"").hexdigest()


def by_hand(data: bytes) -> str:
    sums = [zlib.crc32(data[at : at + 1_048_576]) for at in range(0, len(data), 1_048_576)]
    return hashlib.sha256(struct.pack(f"<{len(sums)}I", *sums)).hexdigest()


def test_a_known_digest() -> None:
    """Fixed for ever: it stands in files."""
    crc = bytes.fromhex("2639f4cb")  # CRC-32 of 123456789 is cbf43926, little-endian here
    assert digest_memory([b"123456789"], 1) == [hashlib.sha256(crc).hexdigest()]
    assert digest_memory([b""], 1) == [EMPTY]


@pytest.mark.parametrize("threads", [1, 3])
def test_ranges(threads: int) -> None:
    data = np.random.default_rng(8).bytes(STEP + 3 * BLOCK + 17)

    def read_into(offset: int, buffer: memoryview) -> None:
        buffer[:] = data[offset : offset + len(buffer)]

    done: list[int] = []
    ranges = [(0, len(data)), (5, 0), (7, 1), (BLOCK - 1, BLOCK), (3, BLOCK + 1), (100, STEP)]
    found = digest_ranges(read_into, ranges, threads, lambda n, total=None: done.append(n))
    assert found == [by_hand(data[at : at + size]) for at, size in ranges]
    assert sum(done) == sum(size for _, size in ranges)


@pytest.mark.parametrize("step", [BLOCK, 3 * BLOCK])
def test_the_order_of_the_pieces_does_not_matter(step: int) -> None:
    data = np.random.default_rng(9).bytes(2 * STEP + 5)
    digests = Digests([len(data), STEP])
    for at in reversed(range(0, len(data), step)):
        digests.add(0, at, memoryview(data)[at : at + step])
        if at < STEP:
            digests.add(1, at, memoryview(data)[1 + at : 1 + min(at + step, STEP)])
    assert digests.results() == [by_hand(data), by_hand(data[1 : 1 + STEP])]


@pytest.mark.parametrize("step", [1000, BLOCK - 1, BLOCK + 1])
def test_pieces_that_share_blocks_come_in_order(step: int) -> None:
    data = np.random.default_rng(10).bytes(2 * BLOCK + 5)
    digests = Digests([len(data)])
    for at in range(0, len(data), step):
        digests.add(0, at, memoryview(data)[at : at + step])
    assert digests.results() == [by_hand(data)]


@pytest.mark.parametrize("at", [0, BLOCK - 1, BLOCK, 2 * BLOCK + 4])
def test_one_bit_changes_the_digest(at: int) -> None:
    data = bytearray(2 * BLOCK + 5)
    before = digest_memory([data], 1)
    data[at] ^= 1
    assert digest_memory([data], 1) != before


def test_memory_of_several_parts() -> None:
    parts = [np.random.default_rng(n).bytes(BLOCK + 9) for n in range(3)]
    assert digest_memory(parts, 2) == [by_hand(part) for part in parts]
    assert digest_memory([bytearray(), bytearray()], 2) == [EMPTY, EMPTY]
