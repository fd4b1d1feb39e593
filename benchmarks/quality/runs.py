"""Training runs that are compared: plain, masked alone, nested.

The plain and masked networks are trained by a separate loop, without the package's training.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from benchmarks.quality.tasks import DENSE, LEVELS, Task
from elsa_cli import TrainOptions, evaluate, freeze_train, load_level, open_nested, sparsify
from elsa_cli.models.recipe import Recipe

__all__ = [
    "NESTED",
    "Nested",
    "dense_start",
    "measured_items",
    "nested",
    "options_of",
    "separate",
    "steps_of",
    "zeroed",
]

NESTED = ("nested", "no-joint", "shared", "unfrozen")


def options_of(task: Task, what: str) -> dict[str, Any]:
    """Return the options in which a nested run differs from the tool's defaults."""
    common = {"optimizer": "adamw", "lr": (task.lr,), "weight_decay": task.weight_decay}
    if what in ("no-joint", "unfrozen"):
        alone = {"epochs": (task.epochs,), "joint_epochs": 0.0}
        return common | alone | ({"freeze": False} if what == "unfrozen" else {})
    joint = {"epochs": (task.epochs,)}
    return common | joint | ({"norm": "shared"} if what == "shared" else {})


def steps_of(task: Task, recipe: Recipe, epochs: float) -> int:
    """Return the steps of a number of epochs."""
    data: Any = recipe.train_data(0, 1)[0]
    return max(1, round(epochs * len(data)))


def _train(
    task: Task,
    recipe: Recipe,
    model: nn.Module,
    masks: Mapping[str, Tensor],
    epochs: float,
    lr: float,
    seed: int,
) -> None:
    """Train with AdamW and a cosine; weights outside the masks stay zero."""
    torch.manual_seed(seed)
    data, _ = recipe.train_data(0, 1)
    total = steps_of(task, recipe, epochs)
    parameters = dict(model.named_parameters())
    decayed = [p for p in parameters.values() if p.dim() > 1]
    others = [p for p in parameters.values() if p.dim() <= 1]
    optimizer = torch.optim.AdamW(
        [
            {"params": decayed, "weight_decay": task.weight_decay},
            {"params": others, "weight_decay": 0.0},
        ],
        lr=lr,
    )
    model.train()
    step = 0
    while step < total:
        for batch in data:
            for group in optimizer.param_groups:
                group["lr"] = lr * 0.5 * (1 + math.cos(math.pi * step / total))
            recipe.loss(model, batch).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            optimizer.zero_grad()
            with torch.no_grad():
                for name, mask in masks.items():
                    parameters[name].mul_(mask)
            step += 1
            if step == total:
                break


def dense_start(task: Task, start: Path, nested_file: Path, seed: int) -> None:
    """Train a dense network from scratch, write it, and choose the masks of all levels."""
    torch.manual_seed(seed)
    recipe = task.load()
    model = recipe.build_model()
    _train(task, recipe, model, {}, task.start, task.start_lr, seed)
    unfinished = start.with_suffix(".part")
    save_file(
        {n: t.contiguous() for n, t in model.state_dict().items()}, unfinished, {"format": "pt"}
    )
    sparsify(unfinished, ",".join(LEVELS), nested_file)
    os.replace(unfinished, start)


def separate(
    task: Task, start: Path, nested_file: Path, level: str, epochs: float, seed: int
) -> float:
    """Train one level by itself from the dense checkpoint; return its metric."""
    recipe = task.load()
    model = recipe.build_model()
    masks: dict[str, Tensor] = {}
    if level == DENSE:
        model.load_state_dict(load_file(start))
    else:
        model.load_state_dict(load_level(nested_file, level))
        with open_nested(nested_file) as opened:
            masks = {n: torch.from_numpy(opened.mask(level, n)) for n in opened.prunable}
    _train(task, recipe, model, masks, epochs, task.lr, seed + 1000)
    return recipe.evaluate(model)[task.metric]


def zeroed(task: Task, nested_file: Path) -> dict[str, float]:
    """Return the metric of every level of a file, without any training."""
    report = evaluate(nested_file, task.path, settings=task.settings, device="cpu")
    return {str(row.level): row.metrics[task.metric] for row in report.levels}


@dataclass(frozen=True)
class Nested:
    """The metric of each level, when its stage ended and of the file that was written."""

    stage: Mapping[str, float]
    file: Mapping[str, float]


def nested(task: Task, nested_file: Path, output: Path, seed: int, what: str) -> Nested:
    """Train all levels in one network, on as many batches as all the separate ones together."""
    report = freeze_train(
        nested_file,
        task.path,
        output,
        settings=task.settings,
        options=TrainOptions(seed=seed, **options_of(task, what)),
        device="cpu",
    )
    steps = sum(row.steps for row in report.levels) + (report.joint.steps if report.joint else 0)
    budget = len(report.levels) * steps_of(task, task.load(), task.epochs)
    assert steps == budget, f"{task.name}, {what}: {steps} steps in all, separately {budget}"
    return Nested(
        {str(row.level): row.metrics[task.metric] for row in report.levels}, zeroed(task, output)
    )


def measured_items(task: Task) -> int:
    """Return how many predictions the metric is made of: test images, or bytes of text."""
    recipe = task.load()
    model = recipe.build_model()
    counts: list[int] = []
    hook = model.register_forward_hook(lambda *found: counts.append(found[2][..., 0].numel()))
    recipe.evaluate(model)
    hook.remove()
    return sum(counts)
