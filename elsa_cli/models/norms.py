"""Running statistics of norms, estimated anew for a network that is done."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from elsa_cli.models.data import Place, Stream, to_device
from elsa_cli.models.network import Network
from elsa_cli.models.recipe import Recipe

__all__ = ["BATCHES", "recalibrate"]

BATCHES = 100  # training batches looked at, an epoch at most


@torch.no_grad()
def recalibrate(recipe: Recipe, network: Network, device: torch.device) -> None:
    """Replace running means and variances by plain averages over training batches.

    All else in the model is as in evaluation.
    """
    norms: list[Any] = list(network.norms())
    if not norms:
        return
    network.load(network.read(network.slots))  # the weights as they will be stored
    model: nn.Module = network.model
    was = {module: module.training for module in model.modules()}
    momenta = [norm.momentum for norm in norms]
    try:
        model.eval()
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # a plain average
            norm.train()
        stream = Stream(recipe, 0, -1, 0, 1, 1)
        steps = stream.steps() or BATCHES
        for _, batches in stream.walk(Place(), min(steps, BATCHES)):
            recipe.loss(model, to_device(batches[0], device))
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        for module, training in was.items():
            module.training = training
