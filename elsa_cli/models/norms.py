"""Estimating the running statistics of norms again, for a network that is trained."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from elsa_cli.models.data import Position, Stream, to_device
from elsa_cli.models.network import Network
from elsa_cli.models.recipe import Recipe

__all__ = ["BATCHES", "recalibrate"]

BATCHES = 100  # training batches that are averaged over; an epoch at most


@torch.no_grad()
def recalibrate(recipe: Recipe, network: Network, device: torch.device) -> None:
    """Replace running means and variances by plain averages over training batches.

    Everything else in the model is in evaluation mode meanwhile; the model's modes are put back.

    Args:
        recipe: Gives the batches, and runs the model by its loss.
        network: The model; its weights are rounded to the stored dtypes first.
        device: Where the model is.
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
        for _, batches in stream.walk(Position(), min(steps, BATCHES)):
            recipe.loss(model, to_device(batches[0], device))
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        for module, training in was.items():
            module.training = training
