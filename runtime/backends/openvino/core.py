"""The OpenVINO library: imported on demand, one core a process, its errors translated."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

from blastscope.runtime.errors import BlastscopeError, EngineError, MissingLibrary

FOREIGN = (RuntimeError, ValueError, TypeError, KeyError)  # what the library raises; ov::Exception comes as RuntimeError


@contextmanager
def translate_errors(what: str) -> Iterator[None]:
    """Turns what the library raises into `EngineError`."""
    try:
        yield
    except BlastscopeError:
        raise
    except FOREIGN as error:
        lines = [line for line in str(error).splitlines() if line and not line.startswith("Exception from")]
        raise EngineError(f"openvino, {what}: {lines[0] if lines else error}") from error


@cache
def library() -> Any:
    """The library without its model converter, which brings an HTTP client along: unused, and half of the import's 190 ms."""
    converter, fresh = "openvino.tools.ovc", "openvino" not in sys.modules
    if fresh:
        sys.modules.setdefault(converter, None)  # type: ignore[arg-type] # None: this import fails, as if not installed
    try:
        import openvino
    except ImportError as error:
        raise MissingLibrary("openvino", "") from error
    finally:
        if fresh and sys.modules.get(converter, converter) is None:
            del sys.modules[converter]
    if fresh and not hasattr(openvino, "convert_model"):
        openvino.convert_model = _convert_model
    return openvino


def _convert_model(*args: Any, **options: Any) -> Any:
    """Stands where a host that shares our process expects the converter."""
    from openvino.tools.ovc import convert_model

    library().convert_model = convert_model
    return convert_model(*args, **options)


@cache
def core() -> Any:
    """One core a process: it is thread-safe, and finding the plugins takes time."""
    return library().Core()
