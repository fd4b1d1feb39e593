"""CRC-32 is the same number whichever library computes it."""

from __future__ import annotations

import importlib
import sys
import zlib

import numpy as np
import pytest

from elsa_cli.core import checksum


@pytest.mark.parametrize("fast", [True, False])
def test_the_number_of_zlib(fast: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if fast:
        pytest.importorskip("isal")
    else:
        monkeypatch.setitem(sys.modules, "isal", None)
        monkeypatch.setitem(sys.modules, "isal.isal_zlib", None)
    try:
        crc32 = importlib.reload(checksum).crc32
        assert (crc32 is zlib.crc32) is not fast
        raw = np.random.default_rng(0).bytes(100_003)
        for size in (0, 1, 7, 64, 4096, len(raw)):
            assert crc32(memoryview(raw)[:size]) == zlib.crc32(raw[:size])
    finally:
        monkeypatch.undo()
        importlib.reload(checksum)
