"""Bits together and apart, by instructions and by plain functions, as bit after bit does it."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from elsa_cli.core.kernels import coding_words, compiles, compiling
from tests.core.kernels import test_coding_masks, test_coding_weights
from tests.core.kernels.forms import both

pytestmark = pytest.mark.skipif(not compiles(), reason="numba cannot compile here")

WORDS = st.integers(0, 2**64 - 1) | st.sampled_from([0, 1, 2**63, 2**64 - 1])
NOTHING = np.zeros(0, np.uint8)


def array(word: int, size: int = 8) -> Any:
    return np.frombuffer(bytearray(word.to_bytes(8, "little") + bytes(size - 8)), np.uint8)


@given(WORDS, WORDS)
def test_bits_together_and_apart(word: int, mask: int) -> None:
    places = [bit for bit in range(64) if mask >> bit & 1]
    together = sum((word >> bit & 1) << n for n, bit in enumerate(places))
    apart = sum((word >> n & 1) << bit for n, bit in enumerate(places))
    both_words = np.uint64(word), np.uint64(mask)
    assert int(coding_words.extract_by_shifts(*both_words)) == together
    assert int(coding_words.spread_by_shifts(*both_words)) == apart
    taken = ~mask & (1 << 64) - 1
    for kernels in both("coding_masks"):
        state, out = np.zeros(2, np.int64), np.zeros(24, np.uint8)
        whole = kernels.gather(array(taken), array(word), 64, state, out)
        found = int.from_bytes(out[:whole].tobytes(), "little") | int(state[0]) << 8 * whole
        assert found == together
        kernels.scatter(array(word, 24), 0, array(taken), 64, out[:8])
        assert int.from_bytes(out[:8].tobytes(), "little") == apart | taken


@pytest.fixture
def plain(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compile the kernels as for a processor that has none of the instructions; keep nothing."""
    from elsa_cli.core.kernels.intrinsics import INTRINSICS

    for name in ("extract", "spread"):
        monkeypatch.setitem(INTRINSICS, name, getattr(coding_words, f"{name}_by_shifts"))
    for name in ("take", "put"):
        monkeypatch.setitem(INTRINSICS, name, getattr(coding_words, f"{name}_by_loop"))
    monkeypatch.setattr(compiling, "kept", lambda _: [])
    monkeypatch.setattr(compiling, "keep", lambda *_: None)


class Anew:
    """The kernels of a compiled form, each compiled when it is first called."""

    def __init__(self, module: ModuleType) -> None:
        self._module = module

    def __getattr__(self, name: str) -> Any:
        found = compiling.kernel(getattr(self._module, name).__wrapped__)
        setattr(self, name, found)
        return found


@pytest.mark.usefixtures("plain")
def test_a_processor_without_the_instructions(monkeypatch: pytest.MonkeyPatch) -> None:
    masks, weights = (Anew(both(f"coding_{what}")[1]) for what in ("masks", "weights"))
    monkeypatch.setattr(test_coding_masks, "both", lambda _: [masks])
    monkeypatch.setattr(test_coding_weights, "both", lambda _: [weights])
    test_coding_masks.test_gather_and_scatter()
    test_coding_masks.test_several_tensors()
    test_coding_weights.test_a_shell_that_is_alone_in_its_array(650)
    test_coding_weights.test_the_example_of_eight_weights()
    rng = np.random.default_rng(1)
    values = rng.integers(0, 1 << 16, 2000).astype(np.uint16)
    kept = rng.random(2000) < 0.4
    mask = np.packbits(kept, bitorder="little")
    shells, back = np.empty(2000, np.uint16), np.empty(2000, np.uint16)
    number = weights.deal(values, NOTHING, mask, shells)
    assert weights.deal(values, mask, NOTHING, shells[number:]) == 2000 - number
    weights.assemble(shells, np.array([0, number]), mask.reshape(1, -1), back)
    assert back.tolist() == values.tolist()
