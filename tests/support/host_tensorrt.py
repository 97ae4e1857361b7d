"""A library of TensorRT's shape: it knows the names that the real ones have, and computes with ONNX Runtime.

In two forms: without a runtime configuration, as 10.3, and with one and a cache of compiled kernels, as TensorRT-RTX.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime
from host_gpu import HostGpu

OUTPUTS = {"probabilities": (np.float32, (3, 2)), "label": (np.int32, ())}


class Strategy(enum.Enum):
    STATIC = 0
    ON_PROFILE_CHANGE = 1
    USER_MANAGED = 2


class Kernels(enum.Enum):
    LAZY = 0
    EAGER = 1


class GraphStrategy(enum.Enum):
    DISABLED = 0
    WHOLE_GRAPH_CAPTURE = 1


class Context:
    """An execution context: works on addresses, in streams of the host's GPU."""

    active_optimization_profile = -1

    def __init__(self, engine: Any) -> None:
        self.engine = engine
        self.addresses: dict[str, int] = {}
        self.memory: tuple[int, int] | None = None
        self.batch = 0
        self.fails = False

    def set_device_memory(self, memory: int, size: int) -> None:
        self.memory = (memory, size)

    def set_optimization_profile_async(self, index: int, stream: int) -> bool:
        self.active_optimization_profile = index
        return True

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self.batch = shape[0]
        return name == "crops" and self.active_optimization_profile == 0 and shape[0] <= self.engine.most

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return (self.batch, *OUTPUTS[name][1])

    def set_tensor_address(self, name: str, address: int) -> bool:
        self.addresses[name] = address
        return address % 256 == 0 and address > 0

    def execute_async_v3(self, stream: int) -> bool:
        assert self.memory is not None
        assert set(self.addresses) == {"crops", *OUTPUTS}
        if self.fails or self.engine.fails:
            return False
        self.engine.gpu.enqueue(stream, self.run)
        return True

    def run(self) -> None:
        binding = self.engine.session.io_binding()
        side = self.engine.side
        binding.bind_input("crops", "cpu", 0, np.uint8, (self.batch, side, side, 3), self.addresses["crops"])
        for name, (kind, shape) in OUTPUTS.items():
            binding.bind_output(name, "cpu", 0, kind, (self.batch, *shape), self.addresses[name])
        self.engine.session.run_with_iobinding(binding)


class Engine:
    """Its form without a configuration."""

    device_memory_size_v2 = 4096
    num_io_tensors = 3
    most = 64
    fails = False

    def __init__(self, gpu: HostGpu, data: bytes) -> None:
        self.gpu = gpu
        self.session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
        self.side = self.session.get_inputs()[0].shape[1]
        self.strategies: list[Any] = []

    def get_tensor_name(self, number: int) -> str:
        return ["crops", *OUTPUTS][number]

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return (-1, self.side, self.side, 3) if name == "crops" else (-1, *OUTPUTS[name][1])

    def create_execution_context(self, strategy: Any = Strategy.STATIC) -> Context:
        self.strategies.append(strategy)
        return Context(self)


class Cache:
    def __init__(self) -> None:
        self.content = b""

    def deserialize(self, blob: bytes) -> bool:
        self.content = bytes(blob)
        return True

    def serialize(self) -> bytes:
        return self.content + b"+kernels"


class Config:
    def __init__(self) -> None:
        self.cuda_graph_strategy = GraphStrategy.WHOLE_GRAPH_CAPTURE
        self.dynamic_shapes_kernel_specialization_strategy = Kernels.LAZY
        self.strategy: Any = None
        self.cache: Any = None

    def set_execution_context_allocation_strategy(self, strategy: Any) -> None:
        self.strategy = strategy

    def create_runtime_cache(self) -> Cache:
        return Cache()

    def set_runtime_cache(self, cache: Cache) -> bool:
        self.cache = cache
        return True


class RtxEngine(Engine):
    """The form with one."""

    def create_runtime_config(self) -> Config:
        self.config = Config()
        return self.config

    def create_execution_context(self, strategy: Any = None) -> Context:
        assert isinstance(strategy, Config)
        assert strategy.strategy is Strategy.USER_MANAGED
        assert strategy.cuda_graph_strategy is GraphStrategy.DISABLED
        assert strategy.dynamic_shapes_kernel_specialization_strategy is Kernels.EAGER
        context = Context(self)
        context.is_stream_capturable = lambda stream: True  # type: ignore[attr-defined]
        return context


class Runtime(SimpleNamespace):
    """What engines are read by."""


class Fake:
    """One library, with all that it made."""

    def __init__(self, gpu: HostGpu, kind: type[Engine]) -> None:
        self.gpu, self.kind = gpu, kind
        self.engines: list[Engine] = []
        self.runtimes: list[Any] = []
        self.refuses = 0  # engines that it won't read
        self.said: list[str] = []
        self.module = SimpleNamespace(ExecutionContextAllocationStrategy=Strategy, Runtime=self._runtime)

    def _runtime(self, logger: object) -> Any:
        self.runtimes.append(Runtime(deserialize_cuda_engine=self._deserialize))
        return self.runtimes[-1]

    def _deserialize(self, data: bytes) -> Engine | None:
        if self.refuses:
            self.refuses -= 1
            self.said.append("the plan file does not match this version")
            return None
        self.engines.append(self.kind(self.gpu, data))
        return self.engines[-1]

    @contextmanager
    def heard(self, name: str) -> Iterator[list[str]]:
        self.said = []
        yield self.said


class DetectorContext(Context):
    """Of a detector: one picture of any size within the profile."""

    shape: tuple[int, ...] = ()

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self.shape = shape
        return name == "pictures" and shape[0] == 1 and all(32 <= side <= 1344 for side in shape[1:3])

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return self.shape if name == "pictures" else (1, 10, self.shape[1] // 8, self.shape[2] // 8)

    def execute_async_v3(self, stream: int) -> bool:
        assert self.memory is not None
        assert set(self.addresses) == {"pictures", "maps"}
        if not self.engine.fails:
            self.engine.gpu.enqueue(stream, self.run)
        return not self.engine.fails

    def run(self) -> None:
        binding = self.engine.session.io_binding()
        binding.bind_input("pictures", "cpu", 0, np.uint8, self.shape, self.addresses["pictures"])
        binding.bind_output("maps", "cpu", 0, np.float32, self.get_tensor_shape("maps"), self.addresses["maps"])
        self.engine.session.run_with_iobinding(binding)


class DetectorEngine(Engine):
    """An engine of a detector."""

    def create_execution_context(self, strategy: Any = Strategy.STATIC) -> Context:
        assert strategy is Strategy.USER_MANAGED
        return DetectorContext(self)
