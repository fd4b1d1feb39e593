"""The three ways in which a network takes a step: plain, frozen by elsa, masked by torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import prune

from benchmarks.step.networks import Batch, prunable
from benchmarks.step.page import Held
from elsa_cli import FrozenMask

__all__ = ["FROZEN", "KEPT", "OPTIMIZERS", "Frozen", "Masks", "Pruned", "Variant"]

KEPT = 0.3  # of the weights: the level that is trained
FROZEN = 0.1  # the level that is done
LR = 1e-3
WEIGHT_DECAY = 1e-2

OPTIMIZERS: Mapping[str, Callable[[list[nn.Parameter]], torch.optim.Optimizer]] = {
    "SGD": lambda p: torch.optim.SGD(p, lr=LR, momentum=0.9, weight_decay=WEIGHT_DECAY),
    "AdamW": lambda p: torch.optim.AdamW(p, lr=LR, weight_decay=WEIGHT_DECAY),
}


@dataclass(frozen=True)
class Masks:
    """The kept and the frozen weights of each module, bool, by its name."""

    kept: Mapping[str, Tensor]
    frozen: Mapping[str, Tensor]

    @classmethod
    def draw(cls, model: nn.Module) -> Masks:
        """Draw them at random; the frozen ones lie inside the kept ones."""
        chance = {name: torch.rand(_weight(m).shape) for name, m in prunable(model).items()}
        return cls(
            {name: c < KEPT for name, c in chance.items()},
            {name: c < FROZEN for name, c in chance.items()},
        )

    def to(self, device: torch.device) -> Masks:
        """Return them on a device."""
        return Masks(
            {name: mask.to(device) for name, mask in self.kept.items()},
            {name: mask.to(device) for name, mask in self.frozen.items()},
        )


class Variant:
    """A network, its optimizer, and its weights as they were once they were masked."""

    def __init__(self, model: nn.Module, optimizer: str, masks: Masks) -> None:
        """Mask the weights and make the optimizer."""
        self.model = model
        self.masks = masks
        self.prepare()
        self.before = {name: w.clone() for name, w in self.weights().items()}
        self.optimizer = OPTIMIZERS[optimizer](list(model.parameters()))

    def prepare(self) -> None:
        """Zero what is not kept; the plain network does no more, and so keeps nothing."""
        with torch.no_grad():
            for name, module in prunable(self.model).items():
                module.get_parameter("weight").mul_(self.masks.kept[name])

    def weights(self) -> dict[str, Tensor]:
        """Return the weights that the network computes with."""
        return {name: _weight(m).detach() for name, m in prunable(self.model).items()}

    def step(self, batch: Batch) -> None:
        """Take a training step."""
        inputs, targets = batch
        self.backward(inputs, targets)
        self.optimizer.step()
        self.optimizer.zero_grad()

    def backward(self, inputs: Tensor, targets: Tensor) -> None:
        """Compute gradients."""
        F.cross_entropy(self.model(inputs), targets).backward()  # type: ignore[no-untyped-call]

    def held(self, inputs: Tensor) -> Held:
        """Count what should not have changed, and did."""
        frozen = zero = moved = filled = 0
        with torch.no_grad():
            self.model(inputs)  # prune computes its weights when the network runs
        for name, now in self.weights().items():
            done, empty = self.masks.frozen[name], ~self.masks.kept[name]
            frozen += int(done.sum())
            zero += int(empty.sum())
            moved += int((now[done] != self.before[name][done]).sum())
            filled += int(torch.count_nonzero(now[empty]))
        return Held(frozen=frozen, moved=moved, zero=zero, filled=filled)


class Frozen(Variant):
    """With FrozenMask attached."""

    def __init__(self, model: nn.Module, optimizer: str, masks: Masks) -> None:
        """Attach it."""
        super().__init__(model, optimizer, masks)
        self.freeze.attach(self.optimizer)

    def prepare(self) -> None:
        """Hold the weights."""
        kept, frozen = (
            {f"{name}.weight": mask for name, mask in of.items()}
            for of in (self.masks.kept, self.masks.frozen)
        )
        self.freeze = FrozenMask(self.model, kept, frozen)

    def clear(self) -> None:
        """Run the hooks that a backward pass runs, on the gradients there are."""
        for module in prunable(self.model).values():
            weight: Any = module.get_parameter("weight")
            for hook in (weight._post_accumulate_grad_hooks or {}).values():
                hook(weight)


class Pruned(Variant):
    """With the masks of torch.nn.utils.prune."""

    def prepare(self) -> None:
        """Mask every weight."""
        for name, module in prunable(self.model).items():
            prune.custom_from_mask(module, "weight", self.masks.kept[name])  # type: ignore[no-untyped-call]


def _weight(module: nn.Module) -> Tensor:
    weight = module.weight
    assert isinstance(weight, Tensor)
    return weight
