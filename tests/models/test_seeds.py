"""Seeds depend on the place in the run alone."""

from __future__ import annotations

import hashlib
import random

import numpy as np
import torch

from elsa_cli.models.seeds import seed_everything, seed_of


def draws() -> tuple[list[float], list[float], float]:
    return torch.rand(4).tolist(), np.random.rand(4).tolist(), random.random()


def test_a_seed_is_the_same_on_every_machine() -> None:
    wanted = hashlib.sha256(b"0/joint/step/7").digest()[:4]
    assert seed_of(0, "joint", "step", 7) == int.from_bytes(wanted, "little") == 2615982830


def test_every_position_has_a_separate_seed() -> None:
    places = [(s, p, e, b) for s in range(3) for p in range(4) for e in range(5) for b in range(20)]
    seeds = {seed_of(s, p, "batch", e, b) for s, p, e, b in places}
    assert len(seeds) == len(places)
    assert seed_of(1, 23) != seed_of(12, 3)
    assert all(0 <= seed < 2**32 for seed in seeds)


def test_seeding_torch_is_as_its_own() -> None:
    torch.manual_seed(2**32 - 1)
    wanted = torch.rand(8), torch.randperm(9)
    torch.rand(3)
    seed_everything(2**32 - 1)
    assert torch.equal(torch.rand(8), wanted[0])
    assert torch.equal(torch.randperm(9), wanted[1])


def test_seeding_everything() -> None:
    for seed in (0, 2**32 - 1):
        seed_everything(seed)
        wanted = draws()
        draws()
        seed_everything(seed)
        assert draws() == wanted
    seed_everything(1)
    assert all(a != b for a, b in zip(draws(), wanted, strict=True))
