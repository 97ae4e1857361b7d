"""An engine that is being built while something else answers."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future

from blastscope.runtime.errors import BlastscopeError

Build = Callable[[Callable[[], bool]], None]  # is told whether it was cancelled


class Building:
    """A build in a thread of its own. `done` is over when the engine is in the cache, or has the reason why it isn't."""

    def __init__(self, build: Build, tell: Callable[[str], None], what: str) -> None:
        self.done: Future[None] = Future()
        self._build, self._tell, self._what = build, tell, what
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="blastscope-building")
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
                self._tell(f"{self._what} could not be built: {error}")
            self.done.set_exception(error)
        except BaseException as error:  # noqa: BLE001 whatever it is, it belongs to those who wait
            self.done.set_exception(error)
        else:
            self._tell(f"{self._what} is built: reopen() takes it")
            self.done.set_result(None)
