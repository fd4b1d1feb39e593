"""Several processes, on torch.distributed: started by torchrun, one of them writes.

Every process has the whole model; DistributedDataParallel averages the gradients.
"""

from __future__ import annotations

import gc
import hashlib
import os
from collections.abc import Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from elsa_cli.errors import FrozenChanged, PeerLost, TrainingError
from elsa_cli.training.tensors import to_bytes

__all__ = ["Group", "is_peer_error", "local_rank", "world_size"]

LOST = ("closed by peer", "connection reset", "broken pipe", "timed out", "nccl", "socket")


def world_size() -> int:
    """Return how many processes the launcher started; 1 without one."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def local_rank() -> int:
    """Return the number of this process on its machine."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def is_peer_error(error: Exception) -> PeerLost | None:
    """Return the error to raise if `error` means that another process is gone."""
    if not (dist.is_available() and dist.is_initialized()):
        return None
    text = str(error).lower()
    if isinstance(error, dist.DistError) or (
        isinstance(error, RuntimeError) and any(word in text for word in LOST)
    ):
        return PeerLost(
            "another process of this run has ended",
            hint="see what that process says, then start the run again with --resume",
        )
    return None


class _Parallel(DistributedDataParallel):
    """The wrapper, with the attributes of the model behind its own."""

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("module"), name)


class Group:
    """The processes of a run; without a launcher, this one alone.

    Args:
        device: Where this process computes.

    Raises:
        TrainingError: The processes do not find each other.
    """

    def __init__(self, device: torch.device) -> None:
        """Meet the other processes."""
        self.size = world_size()
        self.rank = 0
        self._device = device
        if self.size == 1:
            return
        self.rank = int(os.environ.get("RANK", "0"))
        try:
            dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
        except Exception as error:
            text = str(error).split("\n")[0]
            raise TrainingError(
                f"the {self.size} processes do not find each other: {text}",
                hint="start them with `torchrun --nproc-per-node N -m elsa_cli freeze-train …`",
            ) from error

    @property
    def writes(self) -> bool:
        """Whether this is the process that writes files and talks."""
        return self.rank == 0

    def wrap(self, model: nn.Module) -> nn.Module:
        """Return a model whose gradients are averaged over the processes."""
        if self.size == 1:
            return model
        devices = [self._device.index] if self._device.type == "cuda" else None
        return self._asking(lambda: _Parallel(model, device_ids=devices))  # type: ignore[no-any-return]

    def reduce(self, values: Tensor) -> Tensor:
        """Return the sum of `values` over the processes, float64 on the CPU."""
        if self.size == 1:
            return values
        shared = values.to(self._device)
        self._asking(lambda: dist.all_reduce(shared))
        return shared.cpu()

    def broadcast(self, tensors: Mapping[str, Tensor]) -> None:
        """Give every process the tensors of the first."""
        if self.size > 1:
            for tensor in tensors.values():
                self._asking(lambda t=tensor: dist.broadcast(t, 0))

    def agree(self, tensors: Mapping[str, Tensor], where: str) -> None:
        """Check that tensors have the same bits in every process.

        Raises:
            FrozenChanged: They have not.
        """
        if self.size == 1:
            return
        found = hashlib.sha256()
        for name in sorted(tensors):
            found.update(name.encode())
            found.update(to_bytes(tensors[name]).data)
        digests: list[Any] = [None] * self.size
        self._asking(lambda: dist.all_gather_object(digests, found.hexdigest()))
        if len(set(digests)) > 1:
            raise FrozenChanged(
                f"the processes have different weights at the end of {where}",
                hint="the recipe's loss must call model(...), which averages the gradients",
            )

    def barrier(self) -> None:
        """Wait until every process is here."""
        if self.size > 1:
            self._asking(dist.barrier)

    def _asking(self, call: Any) -> Any:
        try:
            return call()
        except Exception as error:
            lost = is_peer_error(error)
            if lost is not None:
                raise lost from error
            raise

    def close(self) -> None:
        """Leave the group."""
        if self.size > 1 and dist.is_initialized():
            gc.collect()  # wrapped models that are not used any more still hold the group
            dist.destroy_process_group()
