"""`Batcher`: when batches are taken, and by whom."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest

pytest.importorskip("uvicorn", reason="the extra 'serve' is not installed")

from waiting import wait_until

from blastscope.serve.batching import Batcher
from blastscope.serve.tensors import ClientGone, RequestError
from blastscope.serve.use_count import UseCount

PATIENCE_S = 20.0


def test_batches_go_on_while_the_event_loop_is_busy() -> None:
    batches: list[list[Any]] = []
    done = threading.Event()

    def run(items: Sequence[Any]) -> list[Any]:
        batches.append(list(items))
        if len(batches) == 3:
            done.set()
        return [-item for item in items]

    async def ask() -> list[Any]:
        batcher = Batcher(run, workers=1, batch=2, delay_s=0.0, limit=10)
        answers = asyncio.ensure_future(batcher.submit([1, 2, 3, 4, 5], PATIENCE_S))
        await asyncio.sleep(0)  # it is submitted
        assert done.wait(PATIENCE_S)  # which holds the loop up
        try:
            return await answers
        finally:
            await batcher.close()

    assert asyncio.run(ask()) == [-1, -2, -3, -4, -5]
    assert batches == [[1, 2], [3, 4], [5]]


def test_an_item_that_waits_is_answered_after_the_batch_before_it() -> None:
    begun, gate = threading.Event(), threading.Event()

    def run(items: Sequence[Any]) -> list[Any]:
        begun.set()
        assert gate.wait(PATIENCE_S)
        return list(items)

    async def ask() -> list[list[Any]]:
        batcher = Batcher(run, workers=1, batch=2, delay_s=0.1, limit=10)
        first = asyncio.ensure_future(batcher.submit(["a", "b"], PATIENCE_S))  # full, so at once
        await asyncio.to_thread(begun.wait, PATIENCE_S)
        second = asyncio.ensure_future(batcher.submit(["c"], PATIENCE_S))
        await asyncio.sleep(0)
        gate.set()  # long before 'c' is due
        try:
            return [await first, await second]
        finally:
            await batcher.close()

    assert asyncio.run(ask()) == [["a", "b"], ["c"]]


def stays(_: Callable[[], object]) -> bool:
    """A client that doesn't go away."""
    return True


@contextmanager
def halted() -> Iterator[tuple[Batcher, threading.Event, threading.Event]]:
    """A batcher of one thread, with what is set when it begins, and what lets it answer."""
    begun, gate = threading.Event(), threading.Event()

    def run(items: Sequence[Any]) -> list[Any]:
        begun.set()
        assert gate.wait(PATIENCE_S)
        return [-item for item in items]

    batcher = Batcher(run, workers=1, batch=1, delay_s=0.0, limit=10)
    try:
        yield batcher, begun, gate
    finally:
        gate.set()
        asyncio.run(batcher.close())


def test_a_thread_that_waits_is_woken_by_its_answers() -> None:
    with halted() as (batcher, begun, gate), ThreadPoolExecutor(2) as callers:
        first = callers.submit(batcher.answer, [1, 2, 3], PATIENCE_S, stays)
        assert begun.wait(PATIENCE_S)
        second = callers.submit(batcher.answer, [4], PATIENCE_S, stays)
        gate.set()
        assert (first.result(PATIENCE_S), second.result(PATIENCE_S)) == ([-1, -2, -3], [-4])
        assert batcher.answer([], PATIENCE_S, stays) == []


def test_what_a_thread_has_given_up_leaves_the_queue() -> None:
    with halted() as (batcher, begun, gate), ThreadPoolExecutor(2) as callers:
        first = callers.submit(batcher.answer, [1], PATIENCE_S, stays)
        assert begun.wait(PATIENCE_S)
        with pytest.raises(RequestError, match=r"within 0\.01 seconds"):
            batcher.answer([2, 3], 0.01, stays)
        with pytest.raises(ClientGone):
            batcher.answer([4], PATIENCE_S, lambda _: False)  # it had gone before
        told: list[Callable[[], object]] = []
        registered = threading.Event()

        def register(tell: Callable[[], object]) -> bool:
            told.append(tell)
            registered.set()
            return True

        going = callers.submit(batcher.answer, [5], PATIENCE_S, register)
        assert registered.wait(PATIENCE_S)
        told[0]()
        with pytest.raises(ClientGone):
            going.result(PATIENCE_S)
        assert batcher.waiting == 0
        gate.set()
        assert first.result(PATIENCE_S) == [-1]


def test_nobody_begins_to_use_what_was_closed() -> None:
    count = UseCount()
    assert [count.begin(2), count.begin(2), count.begin(2)] == [True, True, False]

    async def close() -> None:
        closing = asyncio.ensure_future(count.close())
        await asyncio.sleep(0)  # it waits
        await asyncio.to_thread(count.end)
        assert not closing.done()
        assert count.begin()  # that long others may begin
        for _ in range(2):
            await asyncio.to_thread(count.end)
        await closing

    asyncio.run(close())
    assert (count.begin(), count.now) == (False, 0)


def test_where_many_wait_each_thread_takes_its_share() -> None:
    batches: list[int] = []
    gate = threading.Event()
    begun = threading.Barrier(3)

    def run(items: Sequence[Any]) -> list[Any]:
        if not gate.is_set():
            begun.wait(PATIENCE_S)
            assert gate.wait(PATIENCE_S)
        else:
            batches.append(len(items))
        return list(items)

    batcher = Batcher(run, workers=2, batch=1, delay_s=0.0, limit=20, most=4)
    with ThreadPoolExecutor(8) as callers:
        first = [callers.submit(batcher.answer, [number], PATIENCE_S, stays) for number in range(2)]
        begun.wait(PATIENCE_S)  # a thread is at each
        second = callers.submit(batcher.answer, list(range(11)), PATIENCE_S, stays)
        wait_until(lambda: batcher.waiting == 11)
        gate.set()
        assert [one.result(PATIENCE_S) for one in (*first, second)] == [[0], [1], list(range(11))]
    assert batches[0] == 4
    assert sorted(batches) == [1, 2, 4, 4]
    asyncio.run(batcher.close())
