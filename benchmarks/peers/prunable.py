"""Which tensors take part: those that `elsa sparsify` chooses in the generated checkpoints."""

from __future__ import annotations

from torch import Tensor

__all__ = ["is_prunable"]


def is_prunable(name: str, value: Tensor) -> bool:
    """Tell whether a tensor is a matrix and not the embedding."""
    return value.ndim >= 2 and "embed" not in name
