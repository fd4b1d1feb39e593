"""How small masks can be: the entropy of nested masks, from their counts alone."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path

from benchmarks.speed.header import read_header

__all__ = ["mask_entropy"]


def mask_entropy(path: Path) -> float:
    """Return the bits that the masks of a nested checkpoint carry, if each tensor's are random.

    Every weight belongs to one shell, the sparsest level, what the next one adds, …, or the dense
    remainder; a tensor's counts say how often each occurs.
    """
    manifest = json.loads(read_header(path)[0]["__metadata__"]["elsa"])
    total = 0.0
    for tensor in manifest["tensors"]:
        numel = math.prod(tensor["shape"])
        counts = [0, *tensor["kept"], numel]
        for low, high in itertools.pairwise(counts):
            if shell := high - low:
                total -= shell * math.log2(shell / numel)
    return total
