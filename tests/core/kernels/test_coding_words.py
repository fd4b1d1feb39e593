"""Bringing bits together and apart: by an instruction and by shifts, as bit after bit does."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("numba")

from elsa_cli.core.kernels import coding_words
from elsa_cli.core.kernels.compiling import kernel

WORDS = st.integers(0, 2**64 - 1) | st.sampled_from([0, 1, 2**63, 2**64 - 1])


@kernel
def extracted(word: Any, mask: Any) -> Any:
    return coding_words.extract(word, mask)


@kernel
def spread(word: Any, mask: Any) -> Any:
    return coding_words.spread(word, mask)


def places(mask: int) -> list[int]:
    return [bit for bit in range(64) if mask >> bit & 1]


@given(WORDS, WORDS)
@settings(deadline=None)
def test_bits_together_and_apart(word: int, mask: int) -> None:
    together = sum((word >> bit & 1) << n for n, bit in enumerate(places(mask)))
    apart = sum((word >> n & 1) << bit for n, bit in enumerate(places(mask)))
    both = np.uint64(word), np.uint64(mask)
    assert int(extracted(*both)) == int(coding_words.extract_by_shifts(*both)) == together
    assert int(spread(*both)) == int(coding_words.spread_by_shifts(*both)) == apart


PLAIN = """
import numpy as np
from elsa_cli.core.kernels.coding_masks_compiled import gather
state, out = np.zeros(2, np.int64), np.empty(20, np.uint8)
assert gather(np.array([0x12], np.uint8), np.array([0x96], np.uint8), 8, state, out) == 0
from elsa_cli.core.kernels.coding_weights_compiled import assemble, deal
rng = np.random.default_rng(1)
weights = rng.integers(0, 1 << 16, 2000).astype(np.uint16)
kept = rng.random(2000) < 0.4
mask, nothing = np.packbits(kept, bitorder="little"), np.zeros(0, np.uint8)
shells, back = np.empty(2000, np.uint16), np.empty(2000, np.uint16)
number = deal(weights, nothing, mask, shells)
assert deal(weights, mask, nothing, shells[number:]) == 2000 - number
assert shells.tolist() == [*weights[kept], *weights[~kept]]
assemble(shells, np.array([0, number]), mask.reshape(1, -1), back)
assert back.tolist() == weights.tolist()
assemble(shells, np.array([0]), mask.reshape(1, -1), back)
assert back.tolist() == np.where(kept, weights, 0).tolist()
print(state.tolist())
"""


def test_a_processor_without_the_instructions() -> None:
    environment = {**os.environ, "NUMBA_CPU_NAME": "generic", "NUMBA_CPU_FEATURES": ""}
    done = subprocess.run(
        [sys.executable, "-c", PLAIN], capture_output=True, text=True, env=environment
    )
    assert (done.stdout, done.returncode) == ("[34, 6]\n", 0), done.stderr
