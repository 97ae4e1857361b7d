"""`Batcher`: when batches are taken, and by whom."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from typing import Any

import pytest

pytest.importorskip("uvicorn", reason="the extra 'serve' is not installed")

from blastscope.serve.batching import Batcher

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


def test_an_item_that_waits_for_others_is_answered_after_the_batch_before_it() -> None:
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
