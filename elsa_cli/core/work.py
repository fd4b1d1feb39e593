"""Work in pieces: chunks of tensors, spread over threads, in buffers that are used again.

Each thread owns a `Scratch`; results are merged by operations that do not depend on order, so
the outcome is the same for any number of threads.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import threading
from collections.abc import Callable, Collection, Iterable, Iterator
from types import TracebackType
from typing import Any, Generic, Protocol, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "CHUNK",
    "CHUNK_BYTES",
    "Beside",
    "Progress",
    "Readable",
    "Scratch",
    "chunk_of",
    "default_threads",
    "no_progress",
    "pieces_of",
    "run",
    "spans",
    "threads_for",
]

# Elements and bytes a piece, at most. Small enough that a piece stays in cache, large enough that
# threads rarely meet at the interpreter's lock, which they pass between two steps on arrays.
CHUNK = 1 << 20
CHUNK_BYTES = 1 << 21
_chunk = CHUNK  # changed by `pieces_of` alone
FEW = 1 << 14  # weights of a tensor, on average, for which a second thread is worth it
AHEAD = 1 << 19  # bytes read at once where reads are small


class Readable(Protocol):
    """What can be read ahead: a file's data."""

    data_there: int

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fill a buffer from an offset of the data."""


Item = TypeVar("Item")
State = TypeVar("State")


class Progress(Protocol):
    """Callback that receives an operation's progress."""

    def __call__(self, done: int, total: int | None = None) -> None:
        """Add `done` bytes to what is done, or set the total of the stage that begins."""


def no_progress(done: int, total: int | None = None) -> None:
    """Ignore progress."""


def default_threads() -> int:
    """Return the number of cores this process may use, 4 at most.

    Between two steps on arrays a thread waits for the interpreter's lock; more threads wait more.
    """
    try:
        return min(4, len(os.sched_getaffinity(0)))
    except (OSError, OverflowError, AttributeError):  # another system, or one that does not tell
        return 2


def threads_for(threads: int, sizes: Collection[int]) -> int:
    """Return how many of some threads are worth their while.

    One, where tensors are so small on average that threads would wait for the interpreter's lock
    more than they would work.

    Args:
        threads: How many there may be.
        sizes: The weights of each tensor.
    """
    return threads if sum(sizes) >= FEW * len(sizes) else 1


class Scratch:
    """Buffers of one thread, allocated once: the first touch of fresh memory is slow."""

    def __init__(self) -> None:
        """Begin with no buffer."""
        self._buffers: dict[str, NDArray[np.uint8]] = {}
        self._ahead: tuple[int, int, int] = (0, 0, 0)  # of which file, from where, to where

    def read_ahead(self, file: Readable, offset: int, view: memoryview) -> None:
        """Fill `view` with the bytes at `offset` of the data of a file.

        Small reads that follow one another are served from one larger one.
        """
        size = len(view)
        if size * 8 > AHEAD:
            file.read_into(offset, view)
            return
        key, begin, end = self._ahead
        if key != id(file) or not begin <= offset or offset + size > end:
            begin, end = offset, min(offset + AHEAD, file.data_there)
            file.read_into(begin, self.array("ahead", end - begin, np.uint8).data)
            self._ahead = (id(file), begin, end)
        view[:] = self._buffers["ahead"].data[offset - begin : offset - begin + size]

    def array(self, use: str, size: int, dtype: Any) -> NDArray[Any]:
        """Return an array of `size` elements with arbitrary content, the same for the same use."""
        nbytes = size * np.dtype(dtype).itemsize
        buffer = self._buffers.get(use)
        if buffer is None or buffer.size < nbytes:
            buffer = self._buffers[use] = np.empty(nbytes + -nbytes % 64, np.uint8)
        return buffer[:nbytes].view(dtype)


def chunk_of(itemsize: int) -> int:
    """Return how many weights of `itemsize` bytes make a piece."""
    return min(_chunk, CHUNK_BYTES // itemsize)


@contextlib.contextmanager
def pieces_of(weights: int) -> Iterator[None]:
    """Let every operation work in pieces of at most so many weights, in the whole process.

    For machines with very little memory, and for tests: results do not depend on it.

    Args:
        weights: A multiple of 8.
    """
    global _chunk
    assert weights > 0
    assert weights % 8 == 0
    before, _chunk = _chunk, weights
    try:
        yield
    finally:
        _chunk = before


def spans(numel: int, step: int) -> Iterator[tuple[int, int]]:
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


class Beside(Generic[Item]):
    """Work done by one thread beside the main work, and finished by all threads after it.

    Used as a context manager around the main work. With one thread in all, nothing is done beside:
    the items wait for the end.

    Args:
        items: What there is to do; taken one after the other.
        work: Does one of them.
        threads: Number of threads that finish what is left.
    """

    def __init__(self, items: Iterable[Item], work: Callable[[Item], None], threads: int) -> None:
        self._items = iter(items)
        self._work = work
        self._threads = threads
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._failed: list[BaseException] = []
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        if self._threads > 1:
            self._thread = threading.Thread(target=self._loop, name="elsa-beside")
            self._thread.start()
        return self

    def _rest(self) -> Iterator[Item]:
        """Yield what is left, item by item, to whichever thread asks first."""
        while not self._stop.is_set():
            with self._lock:
                items = list(itertools.islice(self._items, 1))
            if not items:
                return
            yield items[0]

    def _loop(self) -> None:
        try:
            for item in self._rest():
                self._work(item)
        except BaseException as error:
            self._failed.append(error)
            self._stop.set()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            if error is None:
                run(self._rest(), lambda item, _: self._work(item), lambda: None, self._threads)
        finally:
            if error is not None:
                self._stop.set()
            if self._thread is not None:
                self._thread.join()
        if error is None and self._failed:
            raise self._failed[0]
