"""How small masks can be: the entropy of nested masks, from their counts alone."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path
from typing import Any

__all__ = ["header", "mask_entropy"]


def header(path: Path) -> tuple[dict[str, Any], int]:
    """Return the header of a safetensors file and where its data begins."""
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        found: dict[str, Any] = json.loads(file.read(size))
    return found, 8 + size


def mask_entropy(path: Path) -> float:
    """Return the bits that the masks of a nested checkpoint carry, if each tensor's are random.

    Every weight belongs to one shell, the sparsest level, what the next one adds, …, or the dense
    remainder; a tensor's counts say how often each occurs.
    """
    manifest = json.loads(header(path)[0]["__metadata__"]["elsa"])
    total = 0.0
    for tensor in manifest["tensors"]:
        numel = math.prod(tensor["shape"])
        counts = [0, *tensor["kept"], numel]
        for low, high in itertools.pairwise(counts):
            if shell := high - low:
                total -= shell * math.log2(shell / numel)
    return total
