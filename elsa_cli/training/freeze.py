"""Freezing weights exactly, in anyone's training loop.

    freeze = FrozenMask(model, masks, frozen).attach(optimizer)
    ...                                     # train as always
    freeze.check()
    freeze.detach()

A mask on the gradient alone does not hold a weight: momentum of an earlier step and weight decay
move it without any gradient. So the gradient of every held weight is cleared as soon as it is
accumulated, which keeps it out of clipping and out of optimizers that mix elements; and the bits
of every held weight are put back after every step. Weights stay plain parameters: there is no
parametrization and no forward hook, and torch.compile, DDP, autocast, GradScaler and any
optimizer work as they do without it.

The idea is PackNet's (arXiv 1711.05769) and ELSA's (arXiv 2312.06872).
"""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from elsa_cli.errors import FrozenChanged, UsageError
from elsa_cli.training.tensors import bits_of

__all__ = ["FrozenMask"]


class _Held:
    """The held weights of one parameter.

    Everything is done on raw bits: AND and OR with masks as wide as the weights are exact for
    every value, NaN and -0.0 too. What they cost is in docs/step.md.
    """

    def __init__(self, name: str, parameter: nn.Parameter, train: Tensor, keep: Tensor) -> None:
        """Zero what is outside `keep` and remember the bits of what is held.

        Args:
            name: The parameter's name.
            parameter: The parameter.
            train: Which weights may change, bool, its shape.
            keep: Which weights are not zero, bool, its shape.
        """
        self.name = name
        self.parameter = parameter
        bits = bits_of(parameter)
        # -1 has all bits set; laid out in memory as the parameter is
        self.free = torch.empty_like(bits).copy_(train).neg_()
        self.bits = torch.empty_like(bits).copy_(keep & ~train).neg_().bitwise_and_(bits)
        self.restore()

    def clear(self, parameter: Tensor) -> None:
        """Clear the gradient of held weights."""
        # A sparse gradient (of an embedding) has no bits at held positions to clear one by one.
        if parameter.grad is not None and parameter.grad.layout == torch.strided:
            bits_of(parameter.grad).bitwise_and_(self.free)

    def restore(self) -> None:
        """Put the bits of held weights back."""
        bits_of(self.parameter).bitwise_and_(self.free).bitwise_or_(self.bits)

    def changed(self) -> int:
        """Return how many held weights are not what they were."""
        now = bits_of(self.parameter).bitwise_and(~self.free)
        return int(torch.count_nonzero(now != self.bits))


class FrozenMask:
    """Holds weights while a model is trained: some at zero, some at the bits they have now.

    Args:
        model: The model; its parameters may be on any device and of any float dtype.
        masks: For each masked parameter, by name, the weights that are not zero: bool, in the
            parameter's shape. All others are set to +0.0 and stay there.
        frozen: For each parameter with frozen weights, by name, which weights keep their bits:
            bool, in the parameter's shape, inside the mask if there is one.

    Raises:
        UsageError: A name is unknown, a shape or dtype is wrong, frozen weights lie outside the
            mask, or two names of one tied parameter have different masks.
    """

    def __init__(
        self, model: nn.Module, masks: Mapping[str, Tensor], frozen: Mapping[str, Tensor]
    ) -> None:
        """Zero what is outside the masks and remember the bits of all held weights."""
        parameters = dict(model.named_parameters(remove_duplicate=False))
        wanted: dict[int, tuple[str, Tensor, Tensor]] = {}
        for name in dict.fromkeys((*masks, *frozen)):
            parameter = parameters.get(name)
            if parameter is None:
                raise UsageError("the model has no such parameter", tensor=name)
            keep = _mask(masks, name, parameter, default=True)
            hold = _mask(frozen, name, parameter, default=False)
            if bool((hold & ~keep).any()):
                raise UsageError("frozen weights lie outside the mask", tensor=name)
            first = wanted.setdefault(id(parameter), (name, keep, hold))
            if first[0] != name and not (
                torch.equal(first[1], keep) and torch.equal(first[2], hold)
            ):
                raise UsageError(
                    f"is tied to {first[0]}, and their masks differ",
                    tensor=name,
                    hint="give one of them only",
                )
        self._held: list[_Held] = []
        for name, keep, hold in wanted.values():
            train = keep & ~hold
            if not bool(train.all()):
                self._held.append(_Held(name, parameters[name], train, keep))
        self._handles: list[RemovableHandle] = []

    def attach(self, optimizer: torch.optim.Optimizer) -> Self:
        """Hold the weights through every step of an optimizer; return this object.

        May be called for several optimizers.
        """
        if not self._handles:
            for held in self._held:
                if held.parameter.requires_grad:
                    register: Any = held.parameter.register_post_accumulate_grad_hook
                    self._handles.append(register(held.clear))
        self._handles.append(optimizer.register_step_post_hook(self._after_step))
        return self

    def _after_step(self, *_: Any) -> None:
        self.restore()

    def restore(self) -> None:
        """Put the bits of all held weights back; every step does so by itself."""
        for held in self._held:
            held.restore()

    def check(self) -> None:
        """Assert that every held weight has the bits it had.

        Raises:
            FrozenChanged: One has not; the message names the parameter and how many changed.
        """
        for held in self._held:
            changed = held.changed()
            if changed:
                raise FrozenChanged(
                    f"{changed:,} frozen or masked weights changed",
                    tensor=held.name,
                    hint="something but the optimizer wrote to the parameter",
                )

    def detach(self) -> None:
        """Remove the hooks; the weights are held no longer."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Detach."""
        self.detach()


def _mask(
    given: Mapping[str, Tensor], name: str, parameter: nn.Parameter, *, default: bool
) -> Tensor:
    """Return a mask on the parameter's device, checked."""
    mask = given.get(name)
    if mask is None:
        return torch.full(parameter.shape, default, dtype=torch.bool, device=parameter.device)
    if mask.shape != parameter.shape or mask.dtype != torch.bool:
        raise UsageError(
            f"a mask of {mask.dtype} {list(mask.shape)} does not fit the parameter's "
            f"{list(parameter.shape)}",
            tensor=name,
            hint="masks are bool and have the parameter's shape",
        )
    return mask.to(parameter.device)
