"""pycuda's rules about contexts, without pycuda: one stack for a thread, whose context is entered or nothing works.

Beside it the few functions of cuda-bindings that `Graphs` calls at opening and closing. To enter a context that was let go of,
for which pycuda would end the process later, is an assertion here.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

NO_CONTEXT = 201


class CudaError(Exception):
    """As pycuda's `Error`."""


class CudaMemoryError(CudaError):
    """As pycuda's `MemoryError`."""


class FakeCuda:
    """`pycuda.driver` and `cuda.bindings.driver` of one device. `fails` names the calls that fail, `lost` is CUDA's code."""

    Error = CudaError
    MemoryError = CudaMemoryError

    def __init__(self) -> None:
        self.fails: set[str] = set()
        self.lost = 0
        self.retained = 0
        self.stack: list[Any] = []  # pycuda's
        self.depth = 0  # the driver's
        self.functions: list[Any] = []
        self.Context = SimpleNamespace(pop=self._pop)
        self.driver = SimpleNamespace(
            cuMemGetInfo=lambda: (self.lost if self.depth else NO_CONTEXT, 1, 1),
            cuCtxPopCurrent=self._drop,
            cuEventCreate=lambda flags: (0, 1),
        )

    def init(self) -> None:
        self._try("init")

    def Device(self, ordinal: int) -> Any:  # noqa: N802
        return SimpleNamespace(retain_primary_context=self._retain)

    def module_from_buffer(self, content: bytes) -> Any:
        self._try("module_from_buffer")
        return SimpleNamespace(get_function=self._function)

    def Stream(self, flags: int) -> Any:  # noqa: N802
        assert self.stack, "a stream outside of a context"
        return SimpleNamespace(handle=16 + len(self.functions))

    def _function(self, name: str) -> Any:
        found = SimpleNamespace(name=name, prepared=[], calls=[])
        found.prepare = found.prepared.append
        found.prepared_async_call = lambda *arguments, **options: found.calls.append(arguments)
        self.functions.append(found)
        return found

    def _try(self, call: str) -> None:
        if call in self.fails or (self.lost and call != "init"):
            raise CudaError(f"{call} failed")

    def _retain(self) -> Any:
        if "retain" in self.fails:
            raise CudaError("cuDevicePrimaryCtxRetain failed: device unavailable")
        self.retained += 1
        return FakeContext(self)

    def _pop(self) -> None:
        if "pop" in self.fails:
            raise CudaError("cuCtxPopCurrent failed")
        self.stack.pop()
        self.depth -= 1

    def _drop(self) -> tuple[int, int]:
        self.depth -= 1
        return 0, 0


class FakeContext:
    """A primary context, retained once."""

    def __init__(self, cuda: FakeCuda) -> None:
        self._cuda, self._valid = cuda, True

    def push(self) -> None:
        assert self._valid, "entered after it was let go of: pycuda would end the process"
        self._cuda.stack.append(self)
        self._cuda.depth += 1

    def detach(self) -> None:
        assert self._cuda.stack[-1] is self
        self._valid = False
        self._cuda.stack.pop()
        self._cuda.retained -= 1
