"""Work that is put off: done once, by whoever comes first, and waited for by all others."""

from __future__ import annotations

import threading

from blastscope.runtime.inference.background import DeferredTask

PATIENCE_S = 10.0


def test_what_was_begun_is_done_once_and_waited_for() -> None:
    begun, go_on, done = threading.Event(), threading.Event(), list[str]()

    def work() -> None:
        begun.set()
        assert go_on.wait(PATIENCE_S)
        done.append(threading.current_thread().name)

    later = DeferredTask(work, "later", delay_s=PATIENCE_S)
    later.start()
    later.start()
    waiting = threading.Thread(target=later.finish)
    waiting.start()  # which also cuts the delay short
    assert begun.wait(PATIENCE_S)
    assert waiting.is_alive()
    go_on.set()
    waiting.join(PATIENCE_S)
    later.finish()
    assert done == ["later"]


def test_what_never_began_is_done_at_the_end_or_never() -> None:
    done: list[str] = []
    wanted, unwanted = (DeferredTask(lambda name=name: done.append(name), "later") for name in ("wanted", "unwanted"))
    unwanted.finish(begin=False)
    unwanted.start()
    unwanted.finish()
    wanted.finish()
    wanted.finish(begin=False)
    assert done == ["wanted"]


def test_the_work_itself_may_close_what_waits_for_it() -> None:
    over = threading.Event()

    def work() -> None:
        later.finish()
        over.set()

    later = DeferredTask(work, "later")
    later.start()
    assert over.wait(PATIENCE_S)
    later.finish()
