"""Which form of a kernel is taken, and what a kernel may be."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from elsa_cli.core import kernels
from elsa_cli.core.kernels import ENOUGH, VARIABLE, compiles, form, masking_numpy

if compiles():
    from elsa_cli.core.kernels.building import build
    from elsa_cli.core.kernels.compiling import inlined

pytestmark = pytest.mark.skipif(not compiles(), reason="numba cannot compile here")


def test_what_is_to_be_done_adds_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.setattr(kernels, "_announced", 0)
    assert form("masking", ENOUGH - 2) is masking_numpy
    assert form("masking", 1) is masking_numpy
    assert form("masking", 1).__name__.endswith("masking_compiled")
    assert form("masking", 0).__name__.endswith("masking_compiled")


def test_where_nothing_compiles_numpy_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.setattr(kernels, "compiles", lambda: False)
    assert form("masking", 1 << 50) is masking_numpy


def returns_a_float(values: Any) -> float:
    return values[0] / 3  # type: ignore[no-any-return]


def allocates(values: Any) -> int:
    return int(np.zeros(values.size, np.int64)[0])


def test_what_is_no_kernel_is_refused() -> None:
    with pytest.raises(ValueError, match="returns_a_float returns float64"):
        build(returns_a_float, ["i8 1"])
    with pytest.raises(Exception, match=r"NRT|allocates"):
        build(allocates, ["i8 1"])


def doubled(value: Any) -> Any:
    return value * 2


if compiles():
    inlined(doubled)


def calls_a_helper(values: Any) -> int:
    return doubled(values[0])  # type: ignore[no-any-return]


def test_helpers_become_part_of_a_kernel() -> None:
    code, symbol, returns = build(calls_a_helper, ["i8 1"])
    assert symbol in code
    assert returns == "int"
    assert " call " not in code
