"""Random numbers that depend on the seed and the position in the run, and on nothing else.

Each batch is fetched, and each step computed, after a separate seed is set. So a run that is
resumed in the middle draws the numbers that it would have drawn without the interruption, and no
generator's state has to be saved.
"""

from __future__ import annotations

import hashlib
import random

import numpy as np
import torch

__all__ = ["seed_everything", "seed_of"]


def seed_of(*parts: int | str) -> int:
    """Return a seed of 32 bits for a position in the run, such as `seed_of(seed, "batch", 3)`."""
    text = "/".join(map(str, parts))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "little")


def seed_everything(seed: int) -> None:
    """Seed torch, numpy and random; this takes microseconds, unlike `torch.manual_seed`."""
    torch.default_generator.manual_seed(seed)
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.manual_seed(seed)
    np.random.seed(seed)
    random.seed(seed)
