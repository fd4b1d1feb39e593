"""Work in pieces: chunks of tensors, spread over threads, in buffers that are used again.

Each thread owns a `Scratch`; results are merged by operations that do not depend on order, so
the outcome is the same for any number of threads.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "CHUNK",
    "CHUNK_BYTES",
    "Progress",
    "Scratch",
    "chunk_of",
    "default_threads",
    "no_progress",
    "run",
    "spans",
]

# Elements and bytes a piece, at most. Small enough that a piece stays in cache, large enough that
# threads rarely meet at the interpreter's lock, which they pass between two steps on arrays.
CHUNK = 1 << 20
CHUNK_BYTES = 1 << 21

Item = TypeVar("Item")
State = TypeVar("State")


class Progress(Protocol):
    """What an operation tells while it works."""

    def __call__(self, done: int, total: int | None = None) -> None:
        """Add `done` bytes to what is done, or set the total of the stage that begins."""


def no_progress(done: int, total: int | None = None) -> None:
    """Tell nobody."""


def default_threads() -> int:
    """Return the number of cores this process may use, 4 at most.

    Between two steps on arrays a thread waits for the interpreter's lock; more threads wait more.
    """
    try:
        return min(4, len(os.sched_getaffinity(0)))
    except (OSError, OverflowError, AttributeError):  # another system, or one that does not tell
        return 2


class Scratch:
    """Buffers of one thread, allocated once: the first touch of fresh memory is slow."""

    def __init__(self) -> None:
        """Begin with no buffer."""
        self._buffers: dict[str, NDArray[np.uint8]] = {}

    def array(self, use: str, size: int, dtype: Any) -> NDArray[Any]:
        """Return an array of `size` elements with arbitrary content, the same for the same use."""
        nbytes = size * np.dtype(dtype).itemsize
        buffer = self._buffers.get(use)
        if buffer is None or buffer.size < nbytes:
            buffer = self._buffers[use] = np.empty(nbytes + -nbytes % 64, np.uint8)
        return buffer[:nbytes].view(dtype)


def chunk_of(itemsize: int) -> int:
    """Return how many weights of `itemsize` bytes make a piece."""
    return min(CHUNK, CHUNK_BYTES // itemsize)


def spans(numel: int, step: int = CHUNK) -> Iterator[tuple[int, int]]:
    """Yield (start, count) of consecutive pieces of `numel` elements."""
    for start in range(0, numel, step):
        yield start, min(step, numel - start)


def run(
    items: Iterable[Item],
    work: Callable[[Item, State], None],
    state: Callable[[], State],
    threads: int,
) -> list[State]:
    """Do `work(item, own state)` for every item; return the states of the threads.

    The first exception stops all threads and is raised; so does an interrupt of the main one.
    """
    if threads <= 1:
        only = state()
        for item in items:
            work(item, only)
        return [only]
    source = iter(items)
    lock = threading.Lock()
    failed: list[BaseException] = []
    states: list[State] = []
    stop = threading.Event()

    def loop() -> None:
        try:
            own = state()
            states.append(own)
            while not stop.is_set():
                with lock:
                    item = next(source, source)
                if item is source:
                    return
                work(item, own)  # type: ignore[arg-type]
        except BaseException as error:
            failed.append(error)
            stop.set()

    workers = [threading.Thread(target=loop, name=f"elsa-{n}") for n in range(threads)]
    try:
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
    except BaseException:
        stop.set()
        for worker in workers:
            if worker.ident is not None:
                worker.join()
        raise
    if failed:
        raise failed[0]
    return states
