"""Freezing weights exactly, in any training loop.

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

On eight weights of one parameter, where 1 in a row means yes:

    masks     1  1  1  1  1  1  0  0      not zero
    frozen    1  1  1  0  0  0  0  0      keeps its bits
    trained   0  0  0  1  1  1  0  0      masks and not frozen

The first three keep the bits that they have now, the last two are +0.0; all five are held.

The idea is PackNet's (arXiv 1711.05769) and ELSA's (arXiv 2312.06872).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from elsa_cli.errors import FrozenChanged, UsageError
from elsa_cli.models.tensors import bits_of

__all__ = ["FrozenMask"]

Mask = Tensor | NDArray[np.bool_]


class _Held:
    """The held weights of one parameter.

    Everything is done on raw bits: AND and OR with masks as wide as the weights are exact for
    every value, including NaN and -0.0. docs/step.md has their cost.
    """

    def __init__(self, model: nn.Module, name: str, train: Tensor, keep: Tensor) -> None:
        """Zero the weights outside `keep`, and remember the bits of held weights.

        Args:
            model: The model.
            name: The parameter's name.
            train: Which weights may change: bool, in the parameter's shape.
            keep: Which weights are not zero: bool, in the parameter's shape.
        """
        self.name = name
        owner, _, self._leaf = name.rpartition(".")
        self._module = model.get_submodule(owner)
        parameter = self._module._parameters[self._leaf]
        assert parameter is not None  # named_parameters() has it
        self.parameter = parameter
        self._dtype = self.parameter.dtype
        bits = bits_of(self.parameter)
        # -1 has all bits set; laid out in memory as the parameter is
        self.free = torch.empty_like(bits).copy_(train).neg_()
        self.bits = torch.empty_like(bits).copy_(keep & ~train).neg_().bitwise_and_(bits)
        self.restore()

    def _follow(self, now: Tensor) -> None:
        """Move the masks to the device that the parameter, or its gradient, is on now.

        Raises:
            FrozenChanged: It has another dtype or shape, in which the held bits mean nothing.
        """
        if now.dtype != self._dtype or now.shape != self.free.shape:
            raise FrozenChanged(
                f"was {_kind(self._dtype, self.free.shape)} when its weights were frozen and is "
                f"{_kind(now.dtype, now.shape)} now",
                tensor=self.name,
                hint="convert the model first, then make the FrozenMask",
            )
        if now.device != self.free.device:
            self.free, self.bits = self.free.to(now.device), self.bits.to(now.device)

    def _find(self) -> None:
        """Check that the model still has the parameter that was frozen.

        Raises:
            FrozenChanged: The model has another parameter in its place, or it was converted.
        """
        if self._module._parameters.get(self._leaf) is not self.parameter:
            raise FrozenChanged(
                "the model has another parameter in place of the one that was frozen",
                tensor=self.name,
                hint="make the FrozenMask and the optimizer after `load_state_dict(assign=True)` "
                "and whatever else replaces parameters",
            )
        self._follow(self.parameter)

    def clear(self, parameter: Tensor) -> None:
        """Clear the gradient of held weights."""
        # A sparse gradient (of an embedding) is left as it is: the step's bits are put back anyway.
        if parameter.grad is not None and parameter.grad.layout == torch.strided:
            self._follow(parameter.grad)
            bits_of(parameter.grad).bitwise_and_(self.free)

    def restore(self) -> None:
        """Put the bits of held weights back."""
        self._find()
        bits_of(self.parameter).bitwise_and_(self.free).bitwise_or_(self.bits)

    def changed(self) -> int:
        """Return how many held weights have other bits than before."""
        self._find()
        now = bits_of(self.parameter).bitwise_and(~self.free)
        return int(torch.count_nonzero(now != self.bits))


class FrozenMask:
    """Holds weights while a model is trained: some at zero, some at the bits they have now.

    Args:
        model: The model; its parameters may be on any device and of any float dtype. It may be
            moved to another device later, but not converted to another dtype.
        masks: For each masked parameter, by name, the weights that are not zero: bool, in the
            parameter's shape, of torch or numpy. All others are set to +0.0 and stay there.
        frozen: For each parameter with frozen weights, by name, which weights keep their bits:
            bool, in the parameter's shape; inside the mask if it has one.

    Raises:
        UsageError: A name is unknown, a shape or dtype is wrong, frozen weights lie outside the
            mask, or two names of one tied parameter have different masks.
    """

    def __init__(
        self, model: nn.Module, masks: Mapping[str, Mask], frozen: Mapping[str, Mask]
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
                self._held.append(_Held(model, name, train, keep))
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
        """Put the bits of all held weights back; after `attach`, every step does so."""
        for held in self._held:
            held.restore()

    def check(self) -> None:
        """Check that every held weight has the bits it had.

        Raises:
            FrozenChanged: A weight has other bits, or the parameter was replaced or converted.
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
        """Remove the hooks; the weights are no longer held."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def __enter__(self) -> Self:
        """Return this object."""
        return self

    def __exit__(self, *_: object) -> None:
        """Detach."""
        self.detach()


def _kind(dtype: torch.dtype, shape: torch.Size) -> str:
    return f"{str(dtype).removeprefix('torch.')} {list(shape)}"


def _mask(
    given: Mapping[str, Mask], name: str, parameter: nn.Parameter, *, default: bool
) -> Tensor:
    """Return a parameter's mask on its device, checked; all `default` if there is none."""
    value = given.get(name)
    if value is None:
        return torch.full(parameter.shape, default, dtype=torch.bool, device=parameter.device)
    mask = value if isinstance(value, Tensor) else _of_numpy(value, name)
    if mask.shape != parameter.shape or mask.dtype != torch.bool:
        raise UsageError(
            f"a mask of {mask.dtype} {list(mask.shape)} does not fit the parameter's "
            f"{list(parameter.shape)}",
            tensor=name,
            hint="masks are bool and have the parameter's shape",
        )
    return mask.to(parameter.device)


def _of_numpy(array: Any, name: str) -> Tensor:
    """Return a copy of an array as a tensor: it may be read-only, or have negative strides."""
    try:
        return torch.from_numpy(np.array(array, order="C"))
    except (TypeError, ValueError):
        raise UsageError(
            f"a mask cannot be a {type(array).__name__} of that kind",
            tensor=name,
            hint="give a tensor or a numpy array of bools",
        ) from None
