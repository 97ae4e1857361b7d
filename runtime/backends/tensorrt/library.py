"""TensorRT and TensorRT-RTX: which of the two is here, and the one logger that each of them gets.

Importing them needs no driver and no GPU. Deserialising does: without a driver it may end the process, so probe for one first.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from typing import Any, get_args

from blastscope.runtime.backends.tensorrt.key import Library
from blastscope.runtime.errors import EngineError, MissingLibrary

MODULES: dict[Library, str] = {"tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt_rtx"}
LIBRARIES: tuple[Library, ...] = get_args(Library)
OLDEST_TENSORRT = (10, 3)  # JetPack 6


def is_installed(name: Library) -> bool:
    """True if the library can be found; it is not loaded."""
    return find_spec(MODULES[name]) is not None


def load_library(name: Library) -> Any:
    """The library's module. Raises `MissingLibrary`, and `EngineError` where it is too old or broken."""
    module = MODULES[name]
    try:
        library = import_module(module)
    except ModuleNotFoundError as error:
        raise MissingLibrary(module, name) from error
    except (ImportError, OSError, RuntimeError) as error:
        remedy = f"pip install --force-reinstall 'blastscope[{name}]'"
        raise EngineError(f"'{module}' is installed and can't be loaded ({error}): {remedy}") from error
    version = str(library.__version__)
    if name == "tensorrt" and _numbers(version) < OLDEST_TENSORRT:
        oldest = ".".join(map(str, OLDEST_TENSORRT))
        raise EngineError(f"tensorrt {version} is older than {oldest}: pip install --upgrade 'blastscope[tensorrt]'")
    return library


def library_version(name: Library) -> str:
    """The version of the installed library. Raises as `load_library` does."""
    return str(load_library(name).__version__)


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".")[:2] if part.isdigit())


@contextmanager
def capture_errors(name: Library) -> Iterator[list[str]]:
    """What the library says of errors meanwhile, in this thread or in one of its own."""
    log = library_logger(name)
    found: list[str] = []
    log.listeners.append(found)
    try:
        yield found
    finally:
        log.listeners[:] = [one for one in log.listeners if one is not found]


@cache
def library_logger(name: Library) -> Any:
    """The logger for builders, parsers and runtimes of the library: silent, but for those who listen by `capture_errors`.

    One for the process, never freed: the library keeps the first that it is given, and calls it as long as it lives.
    """
    library = load_library(name)

    class Log(library.ILogger):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.listeners: list[list[str]] = []
            self._lock = threading.Lock()

        def log(self, severity: Any, message: str) -> None:
            if severity in (library.ILogger.INTERNAL_ERROR, library.ILogger.ERROR):
                with self._lock:
                    for listener in self.listeners:
                        listener.append(" ".join(str(message).split()))

    return Log()
