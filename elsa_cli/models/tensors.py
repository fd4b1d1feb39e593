"""Torch tensors and the bytes of a checkpoint."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from elsa_cli.core.dtypes import DTYPES, DType
from elsa_cli.errors import UsageError

__all__ = [
    "State",
    "bits_of",
    "choose_bits",
    "dtype_of",
    "from_bytes",
    "is_finite",
    "master_dtype",
    "same_bits",
    "to_bytes",
]

State = Mapping[str, Tensor]

_TORCH = {
    "BOOL": torch.bool,
    "BF16": torch.bfloat16,
    "C64": torch.complex64,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "F8_E4M3FNUZ": torch.float8_e4m3fnuz,
    "F8_E5M2FNUZ": torch.float8_e5m2fnuz,
    "F8_E8M0": getattr(torch, "float8_e8m0fnu", None),  # since torch 2.7
    "F16": torch.float16,
    "F32": torch.float32,
    "F64": torch.float64,
    **{f"I{bits}": getattr(torch, f"int{bits}") for bits in (8, 16, 32, 64)},
    **{f"U{bits}": getattr(torch, f"uint{bits}") for bits in (8, 16, 32, 64)},
}
_NAMES = {kind: name for name, kind in _TORCH.items() if kind is not None}
_INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def from_bytes(data: NDArray[np.uint8], dtype: DType, shape: tuple[int, ...]) -> Tensor:
    """Return a tensor over bytes in memory, without a copy.

    Args:
        data: Its bytes in C order, 1-d.
        dtype: Its dtype in the checkpoint.
        shape: Its shape.

    Raises:
        UsageError: Torch has no such dtype.
    """
    kind = _TORCH.get(dtype.name)
    if kind is None:
        raise UsageError(f"torch has no dtype {dtype.name}", hint="load with framework='numpy'")
    if not data.size:  # torch cannot view an empty array as another dtype
        return torch.empty(shape, dtype=kind)
    return torch.from_numpy(data).view(kind).reshape(shape)


def to_bytes(tensor: Tensor) -> NDArray[np.uint8]:
    """Return the bytes of a tensor in C order, 1-d; over the same memory where that is possible."""
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    if not flat.numel():
        return np.empty(0, np.uint8)
    return flat.view(torch.uint8).numpy()


def dtype_of(tensor: Tensor) -> DType:
    """Return the dtype that a tensor has in a checkpoint.

    Raises:
        UsageError: Checkpoints have none for it.
    """
    name = _NAMES.get(tensor.dtype)
    if name is None:
        raise UsageError(f"safetensors has no dtype for {tensor.dtype}")
    return DTYPES[name]


def master_dtype(kind: torch.dtype) -> torch.dtype:
    """Return the dtype in which a tensor is trained: floats at least in float32."""
    if not kind.is_floating_point or kind == torch.float64:
        return kind
    return torch.float32


def bits_of(tensor: Tensor) -> Tensor:
    """Return a tensor's raw bits as integers of the same width, over the same memory."""
    return tensor.detach().view(_INTEGERS[tensor.element_size()])


def choose_bits(mask: Tensor, a: Tensor, b: Tensor | None = None) -> Tensor:
    """Return `a` where the mask holds, elsewhere `b` or +0.0: bit for bit, for every dtype.

    Args:
        mask: Bool, in the shape of `a`.
        a: The tensor to choose from.
        b: A tensor of the same shape and dtype; None for +0.0.
    """
    bits = bits_of(a)
    other = torch.zeros((), dtype=bits.dtype) if b is None else bits_of(b)
    return torch.where(mask, bits, other).view(a.dtype)


def is_finite(tensor: Tensor) -> bool:
    """Tell whether no element is NaN or infinite."""
    if not tensor.is_floating_point():
        return True
    wide = tensor.to(master_dtype(tensor.dtype))  # isfinite does not take 8-bit floats
    return bool(torch.isfinite(wide).all())


def same_bits(a: Tensor, b: Tensor) -> bool:
    """Tell whether two tensors have the same dtype, shape and bits."""
    if a.dtype != b.dtype or a.shape != b.shape:
        return False
    return not a.numel() or torch.equal(bits_of(a.cpu()), bits_of(b.cpu()))
