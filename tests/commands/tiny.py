"""A training that takes a fraction of a second: a recipe, and its first checkpoint."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save_file

from elsa_cli import sparsify
from elsa_cli.models.recipe import Recipe

RECIPE = '''
"""Points of three kinds in six dimensions; every kind around a corner."""
import os
import signal
import torch
from torch import nn
from torch.nn import functional as F


def build_model(*, hidden: int = 24):
    return nn.Sequential(
        nn.Linear(6, hidden), nn.BatchNorm1d(hidden), nn.ReLU(), nn.Dropout(0.1),
        nn.Linear(hidden, hidden), nn.LayerNorm(hidden), nn.ReLU(), nn.Linear(hidden, 3),
    )


class Points:
    def __init__(self, batches, batch):
        self.batches, self.batch = batches, batch

    def __len__(self):
        return self.batches

    def __iter__(self):
        order = torch.randperm(self.batches * self.batch)
        for rows in order.view(self.batches, self.batch):
            kind = rows % 3
            yield F.one_hot(kind, 6) * 2 + torch.randn(len(rows), 6), kind


def train_data(*, batches: int = 8, batch: int = 16):
    return Points(batches, batch)


calls = 0


def interrupt():
    """Send this process a signal at some call, if a test wants that."""
    global calls
    calls += 1
    if calls == 1 and "DIES_AFTER" in os.environ:  # seconds; nothing can hold this signal up
        signal.setitimer(signal.ITIMER_REAL, float(os.environ["DIES_AFTER"]))
    if os.environ.get("RANK", "0") != os.environ.get("STOP_RANK", "0"):
        return
    if os.environ.get("STOP_AT") == str(calls):
        os.kill(os.getpid(), int(os.environ["STOP_BY"]))


def loss(model, batch):
    points, kind = batch
    interrupt()
    return F.cross_entropy(model(points), kind)


def evaluate(model):
    folder = os.environ.get("KEEP")
    if folder:  # the network at the end of its stage, as the training has it
        from safetensors.torch import save_file
        number = len(os.listdir(folder))
        save_file({k: v.clone() for k, v in model.state_dict().items()}, f"{folder}/{number}")
    generator = torch.Generator().manual_seed(0)
    kind = torch.arange(90) % 3
    points = F.one_hot(kind, 6) * 2 + torch.randn(90, 6, generator=generator)
    found = model(points)
    right = (found.argmax(1) == kind).float().mean()
    return {"accuracy": 100 * float(right), "loss": float(F.cross_entropy(found, kind))}
'''
LEVELS = ("0.9", "0.7", "0.5", "dense")


def write_recipe(folder: Path, text: str = RECIPE, name: str = "recipe.py") -> Path:
    """Write a recipe."""
    path = folder / name
    path.write_text(text)
    return path


def write_model(folder: Path, dtype: torch.dtype = torch.float32) -> Path:
    """Write recipe.py, a model.safetensors of it, and model.elsa.safetensors."""
    recipe = Recipe(write_recipe(folder))
    torch.manual_seed(0)
    state = recipe.build_model().state_dict()
    state = {k: v.to(dtype) if v.is_floating_point() else v for k, v in state.items()}
    path = folder / "model.safetensors"
    save_file(state, path, {"format": "pt", "note": "kept"})
    sparsify(path, "0.5,0.7,0.9")
    return path


def changed(before: str, after: str) -> str:
    """Return the recipe with one text in place of another that it has."""
    assert before in RECIPE
    return RECIPE.replace(before, after)
