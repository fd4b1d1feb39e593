from __future__ import annotations

import os
import threading
from collections.abc import Iterator

import numpy as np
import pytest

from elsa_cli.core.work import (
    CHUNK,
    CHUNK_BYTES,
    Beside,
    Scratch,
    chunk_of,
    default_threads,
    pieces_of,
    run,
    spans,
)


def test_spans_tile_without_gap() -> None:
    assert list(spans(0, 4)) == []
    assert list(spans(10, 4)) == [(0, 4), (4, 4), (8, 2)]
    assert list(spans(8, 4)) == [(0, 4), (4, 4)]
    assert list(spans(CHUNK + 1, CHUNK)) == [(0, CHUNK), (CHUNK, 1)]
    assert CHUNK % 8 == 0  # each piece begins on a byte of a mask


def test_scratch_gives_the_same_memory_for_the_same_use() -> None:
    scratch = Scratch()
    first = scratch.array("a", 100, np.uint16)
    again = scratch.array("a", 50, "<u4")
    assert (first.size, again.size, again.dtype) == (100, 50, np.dtype("<u4"))
    assert np.shares_memory(first, again)
    assert not np.shares_memory(first, scratch.array("b", 100, np.uint16))
    larger = scratch.array("a", 1000, np.uint64)
    assert (larger.size, larger.dtype) == (1000, np.dtype(np.uint64))
    assert scratch.array("c", 0, np.uint32).size == 0


@pytest.mark.parametrize("threads", [0, 1, 2, 5])
def test_every_item_is_done_once(threads: int) -> None:
    states = run(range(1000), lambda item, state: state.append(item), lambda: list[int](), threads)
    assert len(states) == max(1, threads)
    assert sorted(item for state in states for item in state) == list(range(1000))
    assert all(state == sorted(state) for state in states)


def test_threads_work_side_by_side() -> None:
    both = threading.Barrier(2, timeout=30)
    run(range(2), lambda item, state: state.append(both.wait()), lambda: list[int](), 2)


@pytest.mark.parametrize("threads", [1, 3])
def test_the_first_error_stops_all_and_is_raised(threads: int) -> None:
    done: list[int] = []

    def work(item: int, state: None) -> None:
        if item == 5:
            raise ValueError("five")
        done.append(item)

    with pytest.raises(ValueError, match="five"):
        run(iter(range(10**9)), work, lambda: None, threads)
    assert set(range(5)) <= set(done)
    assert threading.active_count() == 1


@pytest.mark.parametrize("threads", [1, 3])
def test_an_error_of_the_source_or_the_state_is_raised(threads: int) -> None:
    def items() -> Iterator[int]:
        yield 1
        raise OSError("source")

    def state() -> None:
        raise OSError("state")

    with pytest.raises(OSError, match="source"):
        run(items(), lambda item, state: None, lambda: None, threads)
    with pytest.raises(OSError, match="state"):
        run([1], lambda item, state: None, state, threads)
    assert threading.active_count() == 1


def test_an_interrupt_stops_the_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    started = threading.Event()
    join = threading.Thread.join

    def interrupted(thread: threading.Thread, timeout: float | None = None) -> None:
        monkeypatch.setattr(threading.Thread, "join", join)
        assert started.wait(30)
        raise KeyboardInterrupt

    monkeypatch.setattr(threading.Thread, "join", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(iter(int, 1), lambda item, state: started.set(), lambda: None, 2)
    assert threading.active_count() == 1


def test_default_threads_is_what_the_process_may_use(monkeypatch: pytest.MonkeyPatch) -> None:
    assert 1 <= default_threads() <= 4
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)))
    assert default_threads() == 4
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3})
    assert default_threads() == 1

    def refused(_: int) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "sched_getaffinity", refused)
    assert default_threads() == 2


def test_pieces_can_be_made_smaller_for_a_while() -> None:
    assert (chunk_of(1), chunk_of(8)) == (CHUNK, CHUNK_BYTES // 8)
    with pieces_of(48):
        assert (chunk_of(1), chunk_of(8)) == (48, 48)
    with pytest.raises(KeyError), pieces_of(8):
        raise KeyError
    assert chunk_of(1) == CHUNK


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_work_beside_is_done_when_the_block_ends(threads: int) -> None:
    done: list[int] = []
    with Beside(range(100), done.append, threads):
        pass
    assert sorted(done) == list(range(100))


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_an_error_of_work_beside_is_raised(threads: int) -> None:
    def work(item: int) -> None:
        if item == 7:
            raise ValueError("seven")

    with pytest.raises(ValueError, match="seven"), Beside(range(100), work, threads):
        pass


@pytest.mark.parametrize("threads", [1, 2])
def test_an_error_of_the_main_work_ends_the_work_beside(threads: int) -> None:
    begun = threading.Event()
    done: list[int] = []

    def work(item: int) -> None:
        done.append(item)
        begun.set()

    def endless() -> Iterator[int]:
        item = 0
        while True:
            yield item
            item += 1

    def fail() -> None:
        if threads > 1:
            assert begun.wait(60)
        raise KeyError

    with pytest.raises(KeyError), Beside(endless(), work, threads):
        fail()
    assert bool(done) == (threads > 1)  # the endless work has ended: nothing hangs
