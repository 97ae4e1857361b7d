"""The pool of threads: order, ends, and what a process does at its own end."""

from __future__ import annotations

import gc
import subprocess
import sys
import threading

import pytest

from blastscope.runtime.errors import Closed
from blastscope.runtime.io.concurrency import ThreadPool


def test_jobs_give_their_results_and_their_errors() -> None:
    def work(number: int) -> int:
        if number == 2:
            raise KeyError(number)
        return 10 * number

    with ThreadPool(2, "test") as pool:
        futures = [pool.submit(work, number) for number in range(4)]
        assert [future.result() for future in futures if future is not futures[2]] == [0, 10, 30]
        assert isinstance(futures[2].exception(), KeyError)
        assert pool.map(lambda a, b: a - b, [5, 6], [1, 2]) == [4, 4]
        with pytest.raises(KeyError):
            pool.map(work, range(4))


def test_closing_finishes_what_waits_and_takes_nothing_more() -> None:
    release, pool = threading.Event(), ThreadPool(1, "test")
    futures = [pool.submit(release.wait) for _ in range(3)]
    assert not pool.close(timeout=0.01)
    release.set()
    assert pool.close()
    assert all(future.done() for future in futures)
    with pytest.raises(Closed):
        pool.submit(print)


def test_a_cancelled_job_is_left_out() -> None:
    release, pool = threading.Event(), ThreadPool(1, "test")
    pool.submit(release.wait)
    second = pool.submit(pytest.fail, "it was cancelled")
    assert second.cancel()
    release.set()
    assert pool.close()


def test_a_pool_may_be_closed_by_a_job_of_its_own() -> None:
    pool = ThreadPool(1, "test")
    assert pool.submit(pool.close).result(10)


def test_a_forgotten_pool_ends_its_threads() -> None:
    pool = ThreadPool(2, "test-forgotten")
    threads = [pool.submit(threading.current_thread).result() for _ in range(2)]
    del pool
    gc.collect()
    for thread in threads:
        thread.join(10)
        assert not thread.is_alive()


def test_a_pool_keeps_nothing_of_its_last_job() -> None:
    import weakref

    class Thing: ...

    with ThreadPool(1, "test") as pool:
        thing = Thing()
        gone = weakref.ref(thing)
        pool.submit(id, thing).result()
        pool.submit(int).result()  # the thread is through with the first
        del thing
        assert gone() is None


AT_THE_END = """
import threading, time
from blastscope.runtime.io.concurrency import ThreadPool, ordered_map

pool = ThreadPool(1, "test")
pool.submit(time.sleep, 0.05)
pool.submit(print, "what waits is finished")
left = ordered_map(str, range(99), workers=2)
next(left)

def late():
    threading.main_thread().join()
    pool.submit(print, "and more is taken")

threading.Thread(target=late).start()
"""


def test_a_process_finishes_what_was_handed_over_and_ends() -> None:
    done = subprocess.run([sys.executable, "-W", "error", "-c", AT_THE_END], timeout=60, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "what waits is finished\nand more is taken\n"
