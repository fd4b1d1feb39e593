"""Torch tensors and bytes: every dtype, every bit."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from elsa_cli.core.dtypes import DTYPES
from elsa_cli.errors import UsageError
from elsa_cli.models.tensors import (
    bits_of,
    choose_bits,
    dtype_of,
    from_bytes,
    master_dtype,
    same_bits,
    to_bytes,
)
from tests.helpers import BITS, random_bits
from tests.training.tiny import raw

NOT_IN_TORCH = ("F4", "F6_E2M3", "F6_E3M2")
IN_TORCH = [name for name in BITS if name not in NOT_IN_TORCH]
FLOATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
FLOATS8 = (
    torch.float8_e4m3fn,
    torch.float8_e5m2,
    torch.float8_e4m3fnuz,
    torch.float8_e5m2fnuz,
)
PAYLOADS = {
    torch.float64: [0x7FF0_0000_0000_0001, 0x7FFF_FFFF_FFFF_FFFF, -(2**63), 0],
    torch.float32: [0x7F80_0001, 0x7FFF_FFFF, -(2**31), 0],
    torch.float16: [0x7C01, 0x7FFF, -(2**15), 0],
    torch.bfloat16: [0x7F81, 0x7FFF, -(2**15), 0],
    **{kind: [0x7F, 0xFF, 0x80, 0x00] for kind in FLOATS8},
}
WIDTHS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def weird(kind: torch.dtype) -> Tensor:
    """Return NaNs with payloads and both zeros."""
    integers = torch.tensor(PAYLOADS[kind], dtype=WIDTHS[kind.itemsize])
    return integers.view(kind)


@pytest.mark.parametrize("name", IN_TORCH)
@pytest.mark.parametrize("shape", [(3, 5), (), (0, 4), (1,)])
def test_round_trip(name: str, shape: tuple[int, ...]) -> None:
    data = np.frombuffer(random_bits(np.random.default_rng(0), name, shape, "normal"), np.uint8)
    tensor = from_bytes(data.copy(), DTYPES[name], shape)
    assert tuple(tensor.shape) == shape
    assert tensor.element_size() * 8 == BITS[name]
    assert dtype_of(tensor) is DTYPES[name]
    assert to_bytes(tensor).tobytes() == data.tobytes()


def test_a_tensor_over_bytes_is_no_copy() -> None:
    data = np.zeros(8, np.uint8)
    tensor = from_bytes(data, DTYPES["F32"], (2,))
    data[4:] = np.frombuffer(np.float32(3).tobytes(), np.uint8)
    assert tensor.tolist() == [0.0, 3.0]


@pytest.mark.parametrize("name", NOT_IN_TORCH)
def test_dtypes_that_torch_lacks(name: str) -> None:
    with pytest.raises(UsageError, match=f"torch has no dtype {name}; .*framework='numpy'"):
        from_bytes(np.zeros(12, np.uint8), DTYPES[name], (16,))


def test_a_dtype_that_checkpoints_lack() -> None:
    with pytest.raises(UsageError, match=r"^safetensors has no dtype for torch.complex128$"):
        dtype_of(torch.zeros(1, dtype=torch.complex128))


def test_bytes_are_in_c_order() -> None:
    tensor = torch.arange(12, dtype=torch.int16).view(3, 4)
    wanted = tensor.t().contiguous().numpy().tobytes()
    assert to_bytes(tensor.t()).tobytes() == wanted
    image = torch.randn(2, 3, 4, 5)
    last = image.to(memory_format=torch.channels_last)
    assert to_bytes(last).tobytes() == image.numpy().tobytes()
    assert to_bytes(torch.nn.Parameter(image)).tobytes() == image.numpy().tobytes()


@pytest.mark.parametrize("kind", [*FLOATS, *FLOATS8])
def test_bits_share_the_memory(kind: torch.dtype) -> None:
    tensor = weird(kind)
    bits = bits_of(tensor)
    assert torch.equal(bits, raw(tensor))
    bits.fill_(0)
    assert not raw(tensor).any()


def test_bits_of_a_parameter_that_needs_a_gradient() -> None:
    parameter = torch.nn.Parameter(torch.ones(2, 3))
    bits_of(parameter)[0, 0] = 0
    assert parameter.tolist() == [[0, 1, 1], [1, 1, 1]]


def test_bits_keep_the_layout() -> None:
    last = torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last)
    assert bits_of(last).stride() == last.stride()


@pytest.mark.parametrize("kind", [*FLOATS, *FLOATS8])
def test_choose_takes_bits_as_they_are(kind: torch.dtype) -> None:
    """NaN payloads, and -0.0; what is not chosen is +0.0 or the other's bits."""
    a = weird(kind)
    mask = torch.tensor([True, False, True, False])
    chosen = raw(choose_bits(mask, a))
    assert chosen.tolist() == [v if m else 0 for v, m in zip(raw(a).tolist(), mask, strict=True)]
    assert choose_bits(mask, a).dtype == kind
    b = raw(weird(kind)).flip(0).view(kind)
    both = raw(choose_bits(mask, a, b)).tolist()
    assert both == [
        x if m else y for x, y, m in zip(raw(a).tolist(), raw(b).tolist(), mask, strict=True)
    ]


def test_choose_leaves_its_inputs_alone() -> None:
    a, b = torch.ones(4), torch.zeros(4)
    found = choose_bits(torch.ones(4, dtype=torch.bool), a, b)
    found += 1
    assert a.tolist() == [1] * 4
    assert choose_bits(torch.zeros(0, 3).bool(), torch.zeros(0, 3)).shape == (0, 3)
    assert choose_bits(torch.tensor(True), torch.tensor(-0.0)).shape == ()


@pytest.mark.parametrize("kind", FLOATS)
def test_same_bits_is_about_bits(kind: torch.dtype) -> None:
    a = weird(kind)
    assert same_bits(a, a.clone())
    for at in range(4):
        other = a.clone()
        bits_of(other)[at] ^= 1
        assert not same_bits(a, other)
    assert not same_bits(torch.tensor([0.0], dtype=kind), torch.tensor([-0.0], dtype=kind))


def test_same_bits_needs_one_shape_and_dtype() -> None:
    zeros = torch.zeros(4)
    assert not same_bits(zeros, zeros.view(2, 2))
    assert not same_bits(zeros, zeros.int())
    assert not same_bits(torch.zeros(0, 2), torch.zeros(2, 0))
    assert same_bits(torch.zeros(0, 2), torch.zeros(0, 2))
    assert same_bits(torch.tensor(True), torch.tensor(True))


@pytest.mark.parametrize(
    ("kind", "master"),
    [
        *[(k, torch.float32) for k in (*FLOATS[1:], *FLOATS8)],
        *[(k, k) for k in (torch.float64, torch.int64, torch.bool, torch.uint8)],
    ],
)
def test_dtypes_are_trained_in_float32_at_least(kind: torch.dtype, master: torch.dtype) -> None:
    assert master_dtype(kind) == master
