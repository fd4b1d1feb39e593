"""Several processes on torch.distributed: torchrun starts them, and the first one writes.

Every process has the whole model. Gradients are averaged after the last backward pass of a step,
and not by hooks inside the pass, as DistributedDataParallel does it. So each process may use other
parameters in each step (LayerDrop, experts, heads for export only), and reentrant checkpointing
works, without any option.
"""

from __future__ import annotations

import gc
import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from elsa_cli.errors import FrozenChanged, Param, PeerLost, PeerSilent, TrainingError, Words
from elsa_cli.models.tensors import to_bytes

__all__ = ["Group", "is_peer_error", "local_rank", "world_size"]

LOST = ("closed by peer", "connection reset", "broken pipe", "nccl", "socket")
LATE = ("timed out", "timeout", "time out", "timed-out")
T = TypeVar("T", bound=Tensor)
PATIENCE = timedelta(days=365)  # the others wait while one evaluates or writes
BUCKET = 2**25  # bytes that are sent in one message; at least one tensor is


def world_size() -> int:
    """Return how many processes the launcher started; 1 without one."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def local_rank() -> int:
    """Return the index of this process on its machine."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def is_peer_error(error: Exception) -> PeerLost | PeerSilent | None:
    """Return the error to raise if `error` means that another process is gone or too slow."""
    if not (dist.is_available() and dist.is_initialized()):
        return None
    text = str(error).lower()
    ours = isinstance(error, dist.DistError)
    if not ours and not isinstance(error, RuntimeError):
        return None
    if any(word in text for word in LATE):
        return PeerSilent(
            "another process of this run did not answer in time",
            hint=Words(
                "it is stuck, or its share of the step takes far longer; see what it does, then "
                "start the run again with {}",
                Param("resume", True),
            ),
        )
    if ours or any(word in text for word in LOST):
        return PeerLost(
            "another process of this run has ended",
            hint=Words(
                "see what that process says, then start the run again with {}",
                Param("resume", True),
            ),
        )
    return None


class Group:
    """The processes of a run; without a launcher, this process alone.

    Args:
        device: Where this process computes.

    Attributes:
        size: Number of processes.
        rank: Index of this process.

    Raises:
        TrainingError: The processes do not find each other.
    """

    def __init__(self, device: torch.device) -> None:
        """Connect to the other processes."""
        self.size = world_size()
        self.rank = 0
        self._device = device
        if self.size == 1:
            return
        self.rank = int(os.environ.get("RANK", "0"))
        try:
            dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
            # This group waits on the CPU; the wait ends at once if another process is gone.
            self._patient = dist.new_group(backend="gloo", timeout=PATIENCE)
        except Exception as error:
            text = str(error).split("\n")[0]
            raise TrainingError(
                f"the {self.size} processes do not find each other: {text}",
                hint="start them with `torchrun --nproc-per-node N …`",
            ) from error

    @property
    def writes(self) -> bool:
        """Whether this is the process that writes files and reports."""
        return self.rank == 0

    def average(self, parameters: Sequence[nn.Parameter]) -> None:
        """Replace gradients by their mean over the processes.

        A parameter that has a gradient in some processes has one in all of them afterwards: a
        missing gradient counts as zero. A parameter without a gradient in any process stays so.

        Args:
            parameters: The same in every process, in the same order.
        """
        if self.size > 1:
            for bucket in _buckets(parameters):
                self._average(bucket)

    @torch.no_grad()
    def _average(self, parameters: Sequence[nn.Parameter]) -> None:
        """Average the gradients of parameters of one dtype, in one message.

        Its last elements count, for each parameter, the processes that have a gradient.
        """
        here = [p.grad is not None for p in parameters]
        flat = torch.cat(
            [
                torch.zeros_like(p).reshape(-1) if p.grad is None else _dense(p.grad).reshape(-1)
                for p in parameters
            ]
            + [torch.tensor(here, dtype=parameters[0].dtype, device=parameters[0].device)]
        )
        self._asking(lambda: dist.all_reduce(flat))
        *means, counts = torch.split(flat, [*(p.numel() for p in parameters), len(parameters)])
        for parameter, mean, count in zip(parameters, means, counts.tolist(), strict=True):
            if not count:
                continue
            averaged = mean.view_as(parameter).div_(self.size)
            if parameter.grad is not None and parameter.grad.layout != torch.strided:
                parameter.grad = averaged.to_sparse(parameter.grad.sparse_dim())
            elif parameter.grad is not None:
                parameter.grad.copy_(averaged)
            else:
                parameter.grad = torch.empty_like(parameter).copy_(averaged)

    def reduce(self, values: Tensor) -> Tensor:
        """Return the sum of `values` over the processes, in their dtype, on the CPU."""
        if self.size == 1:
            return values
        shared = values.to(self._device)
        self._asking(lambda: dist.all_reduce(shared))
        return shared.cpu()

    @torch.no_grad()
    def broadcast(self, tensors: Iterable[Tensor]) -> None:
        """Replace the tensors of every process by those of the first process, in place."""
        if self.size > 1:
            for bucket in _buckets(t.detach() for t in tensors if t.numel()):
                # Sent as bytes, because not every dtype can be sent.
                flat = torch.cat([t.reshape(-1) for t in bucket])
                shared = flat.view(torch.uint8)
                self._asking(lambda shared=shared: dist.broadcast(shared, 0))
                parts = torch.split(flat, [tensor.numel() for tensor in bucket])
                for tensor, part in zip(bucket, parts, strict=True):
                    tensor.copy_(part.view(tensor.shape))

    def agree(self, tensors: Mapping[str, Tensor], where: str) -> None:
        """Check that tensors have the same bits in every process.

        Args:
            tensors: The tensors of this process, by name.
            where: The position in the run, for the error.

        Raises:
            FrozenChanged: They have not.
        """
        if self.size == 1:
            return
        digest = hashlib.sha256()
        for name in sorted(tensors):
            digest.update(name.encode())
            digest.update(to_bytes(tensors[name]).data)
        digests: list[Any] = [None] * self.size
        self._asking(lambda: dist.all_gather_object(digests, digest.hexdigest()))
        if len(set(digests)) > 1:
            raise FrozenChanged(
                f"the processes have different weights at the end of {where}",
                hint="the recipe must do the same in all of them, except for the batches",
            )

    def barrier(self) -> None:
        """Wait until every process is here, however long one of them evaluates or writes."""
        if self.size > 1:
            self._asking(lambda: dist.barrier(group=self._patient))

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
            gc.collect()  # wrapped models that are no longer used still hold the group
            dist.destroy_process_group()


def _dense(grad: Tensor) -> Tensor:
    return grad if grad.layout == torch.strided else grad.to_dense()


def _buckets(tensors: Iterable[T]) -> Iterator[list[T]]:
    """Yield lists of tensors of one dtype, as many as fit into one message."""
    waiting: dict[torch.dtype, tuple[list[T], int]] = {}
    for tensor in tensors:
        bucket, size = waiting.get(tensor.dtype, ([], 0))
        bucket.append(tensor)
        waiting[tensor.dtype] = bucket, size + tensor.numel() * tensor.element_size()
        if waiting[tensor.dtype][1] >= BUCKET:
            yield waiting.pop(tensor.dtype)[0]
    for bucket, _ in waiting.values():
        yield bucket
