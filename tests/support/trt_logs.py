"""What TensorRT-RTX says of the engines that it builds, which without a GPU can't be asked of the engines themselves."""

from __future__ import annotations

from typing import Any

import pytest

from blastscope.runtime.backends.tensorrt import builder as build
from blastscope.runtime.backends.tensorrt.key import EngineKey


def listen(trt: Any, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Gets every line that the library says of builds from now on, in all detail."""
    said: list[str] = []
    configure = build._configure

    class Log(trt.ILogger):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()

        def log(self, severity: Any, message: str) -> None:
            said.extend(line.strip() for line in message.splitlines())

    def in_detail(library: Any, config: Any, key: EngineKey) -> None:
        configure(library, config, key)
        config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED

    log = Log()
    monkeypatch.setattr(build, "library_logger", lambda _: log)
    monkeypatch.setattr(build, "_configure", in_detail)
    return said
