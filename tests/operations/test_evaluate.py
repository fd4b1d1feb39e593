"""What a level is said to need of a packed file, where the input is not packed."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
from safetensors.torch import save_file

from elsa_cli import pack, sparsify
from elsa_cli.models.recipe import Recipe
from elsa_cli.operations.evaluate import evaluate
from tests.training.tiny import DATA, EVALUATE, LOSS, clean_imports, write_recipe

SHARED = """
def build_model():
    return nn.Sequential(nn.Embedding(500, 40), nn.Linear(40, 64), nn.Linear(64, 32))
"""


@pytest.fixture(autouse=True)
def _clean() -> Iterator[None]:
    with clean_imports():
        yield


def test_the_estimate_counts_tensors_that_all_levels_share(tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path, SHARED, DATA, LOSS, EVALUATE)
    save_file(Recipe(recipe).build_model().state_dict(), tmp_path / "m.safetensors")
    sparsify(tmp_path / "m.safetensors", "0.8,0.5", tmp_path / "nested", exclude=["0.weight"])
    pack(tmp_path / "nested", tmp_path / "packed")
    estimated = evaluate(tmp_path / "nested", recipe, device="cpu").levels
    exact = evaluate(tmp_path / "packed", recipe, device="cpu").levels
    header = 8 + struct.unpack("<Q", (tmp_path / "packed").read_bytes()[:8])[0]
    for row, packed in zip(estimated, exact, strict=True):
        coding = packed.nbytes - header - row.nbytes  # above the entropy of the masks
        assert 0 <= coding < 300
