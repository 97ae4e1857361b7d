"""Work after the opening of a bundle: tasks that wait for the first answer, and engines built while the CPU answers."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future

from blastscope.runtime.errors import BlastscopeError
from blastscope.runtime.inference.events import BuildFailed, BuildFinished, EventLog

Build = Callable[[Callable[[], bool]], None]  # is told whether it was cancelled


class DeferredTask:
    """Calls `function` once, in a thread of its own: `delay_s` after `start`, or sooner when `finish` waits for it.

    The thread doesn't keep the process from ending: whoever starts it sees to it that `finish` is called then.
    """

    def __init__(self, function: Callable[[], None], name: str, *, delay_s: float = 0.0) -> None:
        self._function, self._name, self._delay_s = function, name, delay_s
        self._hurry = threading.Event()
        self._once = threading.Lock()  # taken by whoever does it
        self._done = threading.Event()
        self._doing: int | None = None  # the thread that is at it

    def start(self) -> None:
        """Begins, unless it began already."""
        if self._once.acquire(blocking=False):
            threading.Thread(target=self._wait_and_run, name=self._name, daemon=True).start()

    def finish(self, *, begin: bool = True, timeout_s: float | None = None) -> bool:
        """Whether it was done in time. What never began is done here and now, or never without `begin`."""
        self._hurry.set()
        if self._once.acquire(blocking=False):
            if begin:
                self._run()
            self._done.set()
        elif self._doing != threading.get_ident():  # a forgotten handle may be collected, and closed, by this very work
            return self._done.wait(timeout_s)
        return True

    def _wait_and_run(self) -> None:
        self._hurry.wait(self._delay_s)
        self._run()

    def _run(self) -> None:
        self._doing = threading.get_ident()
        try:
            self._function()
        finally:
            self._doing = None
            self._done.set()


class BackgroundBuild:
    """A build in a thread of its own. The future `done` ends when the engine is in the cache, or holds the error.

    The thread doesn't keep the process from ending: whoever starts it sees to it that `cancel` is called then.
    """

    def __init__(self, build: Build, events: EventLog, engine: str) -> None:
        self.done: Future[None] = Future()
        self._build, self._events, self._engine = build, events, engine
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="blastscope-building", daemon=True)
        self.done.set_running_or_notify_cancel()
        self._thread.start()

    def cancel(self) -> None:
        """Ends the build at its next step, and waits for that."""
        self._stop.set()
        if self._thread is not threading.current_thread():
            self._thread.join()

    def _run(self) -> None:
        try:
            self._build(self._stop.is_set)
        except BlastscopeError as error:
            if not self._stop.is_set():
                self._events.add(BuildFailed(self._engine, str(error)))
            self.done.set_exception(error)
        except BaseException as error:  # noqa: BLE001 whatever it is, it belongs to those who wait
            self.done.set_exception(error)
        else:
            self._events.add(BuildFinished(self._engine))
            self.done.set_result(None)
