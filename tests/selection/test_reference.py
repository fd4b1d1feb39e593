"""The reference itself, against what others know of the same bits."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from elsa_cli.core.hashing import position_hash
from tests.helpers import FLOATS
from tests.selection.reference import _table, half_even, splitmix64

TORCH = {
    "F16": "float16",
    "BF16": "bfloat16",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
    "F8_E4M3FNUZ": "float8_e4m3fnuz",
    "F8_E5M2FNUZ": "float8_e5m2fnuz",
}


@pytest.mark.parametrize("dtype", TORCH)
def test_decoded_values_are_those_of_torch(dtype: str) -> None:
    torch = pytest.importorskip("torch")
    table = _table(dtype)
    bits = np.arange(table.size, dtype=f"<u{table.size.bit_length() // 8}")
    values = torch.from_numpy(bits).view(getattr(torch, TORCH[dtype])).double().abs().numpy()
    finite = np.isfinite(values)
    np.testing.assert_array_equal(table[finite], values[finite])
    assert np.isnan(table[~finite]).all()
    assert set(FLOATS) == {"F64", "F32", *TORCH}


def test_hash_is_splitmix64() -> None:
    # The first outputs of the published generator seeded with 0 and with 0 + one increment.
    assert splitmix64(0) == 0xE220A8397B1DCDAF
    assert splitmix64(0x9E3779B97F4A7C15) == 0x6E789E6AA1B965F4
    positions = [0, 1, 2, 12345, 2**40, 2**64 - 1]
    assert position_hash(np.array(positions, np.uint64)).tolist() == [
        splitmix64(p) for p in positions
    ]


def test_half_even_is_pythons_round() -> None:
    for numerator in range(60):
        assert half_even(numerator, 4) == round(Fraction(numerator, 4))
