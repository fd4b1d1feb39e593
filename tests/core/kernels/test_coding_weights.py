"""The kernels of weights: both forms give what boolean indexing does, for every width."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from elsa_cli.core.kernels.coding_masks import NOTHING
from tests.core.kernels.forms import both, packed

SIZES = (0, 1, 7, 8, 9, 63, 64, 65, 127, 128, 129, 200, 1000, 4099)
DENSITIES = st.lists(st.sampled_from([0, 0.001, 0.1, 0.5, 0.9, 1]), min_size=1, max_size=4)


@given(
    st.sampled_from([np.uint8, np.uint16, np.uint32, np.uint64]),
    st.sampled_from(SIZES),
    DENSITIES,
    st.integers(0, 2**32),
)
@settings(deadline=None)
def test_deal_and_assemble(dtype: Any, size: int, densities: list[float], seed: int) -> None:
    rng = np.random.default_rng(seed)
    weights = np.frombuffer(bytearray(rng.bytes(size * np.dtype(dtype).itemsize)), dtype)
    masks = np.logical_or.accumulate([rng.random(size) < d for d in densities])
    levels = len(masks)
    bounds = [np.zeros(size, np.bool_), *masks, np.ones(size, np.bool_)]
    shells = [weights[b & ~a] for a, b in itertools.pairwise(bounds)]
    flat = np.concatenate(shells)
    for kernels in both("coding_weights"):
        out, at = np.zeros(size, dtype), 0
        edges = [NOTHING, *map(packed, masks), NOTHING]
        for k, shell in enumerate(shells):
            found = kernels.deal(weights, edges[k], edges[k + 1], out[at:])
            assert found == shell.size
            at += found
        assert at == size
        assert out.tobytes() == flat.tobytes()

        begins = np.cumsum([0, *map(len, shells)])[:-1].astype(np.int64)
        rows = np.stack([packed(mask) for mask in masks])
        for depth in range(1, levels + 2):
            held = flat[: begins[depth]] if depth <= levels else flat
            out = np.full(size, 0xA5, dtype)
            kernels.assemble(held.copy(), begins[:depth].copy(), rows[:depth], out)
            assert out.tobytes() == np.where(bounds[depth], weights, dtype(0)).tobytes()


@pytest.mark.parametrize("size", [640, 650])
def test_a_shell_that_is_alone_in_its_array(size: int) -> None:
    """What is written by the way stays inside the array."""
    weights = np.arange(size, dtype=np.uint16)
    mask = np.random.default_rng(1).random(size) < 0.4
    for kernels in both("coding_weights"):
        room = np.full(size + 64, 7, np.uint16)
        number = int(mask.sum())
        assert kernels.deal(weights, NOTHING, packed(mask), room[:number]) == number
        assert room[:number].tolist() == weights[mask].tolist()
        assert (room[number:] == 7).all()


def test_the_example_of_eight_weights() -> None:
    weights = np.frombuffer(bytearray(b"abcdefgh"), np.uint8)
    sparser, denser = np.array([0x12], np.uint8), np.array([0x96], np.uint8)
    for kernels in both("coding_weights"):
        out, at = np.empty(8, np.uint8), 0
        for a, b in ((NOTHING, sparser), (sparser, denser), (denser, NOTHING)):
            at += kernels.deal(weights, a, b, out[at:])
        assert out.tobytes() == b"bechadfg"
        back = np.empty(8, np.uint8)
        kernels.assemble(out[:4].copy(), np.array([0, 2]), np.stack([sparser, denser]), back)
        assert back.tobytes() == b"\0bc\0e\0\0h"
