"""ONNX Runtime's CUDA provider on our device memory, for GPUs that no installed TensorRT supports.

The session works on our stream and is bound to our addresses, so that crops and answers never visit the host. It can't be
recorded: the library refuses to run while its stream is captured.
"""

from __future__ import annotations

import io
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np

from blastscope.runtime.backends.blob_store import engine_digest
from blastscope.runtime.backends.nvidia.batch_executor import BatchBinding, ExecutionContext
from blastscope.runtime.backends.nvidia.engine_factory import make_engine
from blastscope.runtime.backends.onnxruntime.cpu import NAME, load_onnxruntime, translate_errors
from blastscope.runtime.backends.protocol import Engine, EngineOptions, answer_output, read_fused
from blastscope.runtime.cuda.driver import find_gpu
from blastscope.runtime.cuda.graphs import Gpu
from blastscope.runtime.cuda.pycuda_device import open_gpu
from blastscope.runtime.errors import DeviceError, EngineError, MissingLibrary
from blastscope.runtime.types import Execution

PROVIDER = "CUDAExecutionProvider"


def executions(device: str) -> tuple[Execution, ...]:
    """What the CUDA provider computes in; it has no int8 convolutions. Raises `MissingLibrary`, `DeviceError`s."""
    find_gpu(int(device))
    import_onnxruntime()
    return ("f32", "f16")


def fingerprint(device: str) -> dict[str, str]:
    """The library's version, the GPU and its driver."""
    gpu = find_gpu(int(device))
    return {"backend": f"{NAME} cuda", "version": str(import_onnxruntime().__version__), "gpu": gpu.name, "driver": gpu.driver}


def prepared(sha256: str, options: EngineOptions) -> bool:
    """True: ONNX Runtime builds no engines."""
    return True


def build(graph: Path, sha256: str, options: EngineOptions) -> None:
    """Does nothing: ONNX Runtime builds no engines."""


def open_engine(graph: Path, sha256: str, options: EngineOptions) -> Engine:
    """Loads `graph` on the GPU. Raises `MissingLibrary`, `EngineError`, `DeviceError`s."""
    offered = executions(options.device)
    if options.execution not in offered:
        raise DeviceError(f"onnxruntime on CUDA computes in {', '.join(offered)}; {options.execution} is not offered")
    content = read_fused(graph, sha256, options)
    gpu = open_gpu(int(options.device))
    facts = {"graph": sha256, "execution": options.execution, **fingerprint(options.device)}
    return make_engine(
        gpu,
        lambda: BoundNetwork(gpu, content, PROVIDER, str(graph)),
        options,
        name=NAME,
        execution=options.execution,
        digest=engine_digest(facts),
    )


class BoundNetwork:
    """See `Network`: a session for each stream, since a session works on one."""

    def __init__(self, gpu: Gpu, content: bytes, provider: str, shown: str = "the graph") -> None:
        self._gpu, self._content, self._provider, self._shown = gpu, content, provider, shown
        self._sessions: dict[int, Any] = {}

    def bind(self, place: BatchBinding) -> ExecutionContext:
        """A pass at `place`; its stream's first one loads the graph."""
        session = self._sessions.get(place.stream)
        if session is None:
            session = self._sessions[place.stream] = self._load(place.stream)
        return _BoundPass(self._gpu, session, self._shown, place, "cuda" if self._provider == PROVIDER else "cpu")

    def close(self) -> None:
        """Frees the sessions."""
        self._sessions.clear()

    def _load(self, stream: int) -> Any:
        onnxruntime = load_onnxruntime()
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        settings = {"device_id": str(self._gpu.found.ordinal), "user_compute_stream": str(stream), "use_tf32": "0"}
        providers = [(PROVIDER, settings), "CPUExecutionProvider"] if self._provider == PROVIDER else [self._provider]
        with translate_errors(f"'{self._shown}'"):
            session = onnxruntime.InferenceSession(self._content, options, providers=providers)
            # without the CUDA libraries that it wants, the library goes to the CPU and only logs it
            if session.get_providers()[0] != self._provider:
                raise EngineError(
                    "onnxruntime can't load its CUDA provider: it wants other versions of CUDA and cuDNN than are here; "
                    "pip install 'blastscope[onnxruntime-gpu]' brings them"
                )
        return session


class _BoundPass:
    recordable = False

    def __init__(self, gpu: Gpu, session: Any, shown: str, place: BatchBinding, kind: str) -> None:
        self._gpu, self._session = gpu, session
        side = session.get_inputs()[0].shape[1]
        ordinal = gpu.found.ordinal
        with translate_errors("binding"):
            self._binding = session.io_binding()
            self._binding.bind_input("crops", kind, ordinal, np.uint8, (place.batch, side, side, 3), place.crops)
            outputs = {output.name: output.shape for output in session.get_outputs()}
            name, self.answer_shape = answer_output(outputs, shown)
            self._binding.bind_output(name, kind, ordinal, np.float32, (place.batch, *self.answer_shape), place.answers)
            self._options = load_onnxruntime().RunOptions()
            # the stream is ours, and is waited for once, behind the download
            self._options.add_run_config_entry("disable_synchronize_execution_providers", "1")

    def enqueue(self) -> None:
        try:
            with translate_errors("inference"):
                self._session.run_with_iobinding(self._binding, self._options)
        except EngineError:
            self._gpu.check("onnxruntime")  # a lost GPU is another matter than a graph that fails
            raise

    def close(self) -> None:
        self._binding = self._session = None


def import_onnxruntime() -> Any:
    """ONNX Runtime with its CUDA provider. Raises `MissingLibrary`."""
    try:
        onnxruntime = load_onnxruntime()
    except MissingLibrary as error:
        raise MissingLibrary("onnxruntime-gpu", "onnxruntime-gpu") from error
    if PROVIDER not in onnxruntime.get_available_providers():
        # the two packages share their files: both at once is neither
        raise MissingLibrary("onnxruntime-gpu (in place of onnxruntime)", "onnxruntime-gpu")
    if hasattr(onnxruntime, "preload_dlls"):
        with redirect_stdout(io.StringIO()):  # it prints what it doesn't find, where only results may stand
            onnxruntime.preload_dlls()  # CUDA's and cuDNN's libraries from pip's packages, which no search path holds
    return onnxruntime
