"""The device and the threads that torch computes on."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

import torch

from elsa_cli.errors import Param, UsageError, Words
from elsa_cli.models.distributed import local_rank

__all__ = ["Device", "pick_device", "repeatable", "threads_in_use"]

Device = torch.device


def pick_device(name: str) -> torch.device:
    """Return the torch device of a name: `auto`, `cpu`, `cuda`, `cuda:1` and so on.

    Raises:
        UsageError: There is no such device here.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        if device.type == "cuda":
            if not torch.cuda.is_available():
                raise RuntimeError("no CUDA device is available")
            device = torch.device("cuda", local_rank() if device.index is None else device.index)
            torch.cuda.set_device(device)
        torch.zeros(1, device=device).item()
    except Exception as error:
        reason = str(error).split("\n")[0]
        raise UsageError(
            Words("{} cannot be used ({})", Param("device", name), reason),
            hint="use auto, cpu, or cuda with a GPU",
        ) from error
    return device


@contextlib.contextmanager
def repeatable(threads: int | None) -> Iterator[None]:
    """Let torch choose algorithms that give the same bits every time.

    Args:
        threads: Threads of torch on the CPU while this context lasts; None leaves them alone.

    Raises:
        UsageError: `threads` is below 1.
    """
    if threads is not None and threads < 1:
        raise UsageError(f"{threads} threads cannot compute", hint="use 1 or more")
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when cuBLAS starts
    was = torch.get_deterministic_debug_mode()
    before, benchmark = torch.get_num_threads(), torch.backends.cudnn.benchmark
    # `use_deterministic_algorithms` does the same, but imports the compiler, for over a second.
    torch.set_deterministic_debug_mode("warn")
    torch.backends.cudnn.benchmark = False
    if threads is not None:
        torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_deterministic_debug_mode(was)
        torch.backends.cudnn.benchmark = benchmark
        torch.set_num_threads(before)


def threads_in_use() -> int:
    """Return how many threads torch uses on the CPU."""
    return torch.get_num_threads()
