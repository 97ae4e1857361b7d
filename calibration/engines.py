"""Every engine at hand that runs on the CPU: int8 is judged in each, for one may answer wrongly where another doesn't."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from blastscope.runtime.backends.engines import BACKENDS, load_backend, open_engine
from blastscope.runtime.backends.protocol import EngineOptions
from blastscope.runtime.classes import Execution
from blastscope.runtime.errors import UnavailableError
from blastscope.runtime.lanes import Lanes

DEVICE = "CPU"


def offered() -> tuple[dict[str, tuple[Execution, ...]], dict[str, str]]:
    """Backends with what each computes in on the CPU, and those that can't be had, with the reason."""
    there: dict[str, tuple[Execution, ...]] = {}
    missing: dict[str, str] = {}
    for name in BACKENDS:
        try:
            there[name] = load_backend(name).executions(DEVICE)
        except UnavailableError as error:
            missing[name] = str(error)
    return there, missing


@contextmanager
def engines(graph: Path, execution: Execution) -> Iterator[dict[str, Lanes]]:
    """The fused `graph` in every engine that computes in `execution`, by the backend's name; closed afterwards."""
    options = EngineOptions(workload="throughput", execution=execution, device=DEVICE)
    with ExitStack() as opened:
        found = {}
        for name, executions in offered()[0].items():
            if execution in executions:
                found[name] = Lanes(open_engine(graph, options, backend=name))
                opened.callback(found[name].close)
        yield found
