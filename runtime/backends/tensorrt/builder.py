"""One builder for TensorRT 10.3 to 11 and TensorRT-RTX: a graph's bytes and a key in, an engine's bytes out.

Strongly typed always: the precision stands in the graph, int8 as explicit quantise-dequantise pairs, and the library may choose
kernels, not types. TF32 is off, since an execution that is called f32 must be it. What only some of the libraries have is asked
for with `hasattr`, and tests/runtime/backends/test_api_names.py looks every other name up in their binaries.

Which nodes of a graph a library's parser can't take.
"""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from blastscope.runtime.backends.tensorrt.key import EngineKey, capture_errors, library_logger, load_library
from blastscope.runtime.bundle.graphs import read_graph
from blastscope.runtime.errors import EngineError

TURING = "sm75"
INPUT, DETECTOR_INPUT = "crops", "pictures"
PICTURE_SIDES = (32, 640, 1344)  # pixels of a detector's pictures: least, likely and most
_TICK = 0.1  # seconds between looks at `cancelled`
DeviceContext = Callable[[], AbstractContextManager[object]]
SHOWN = 5  # operators that an error names


def matmul_as_convolution(trt: Any, network: Any) -> list[Any]:
    """Puts a convolution in the place of every product of vectors with constant weights in the parsed `network`.

    Gives the weights, which must live until the engine is built. The products stay behind unused, and the builder drops them.
    """
    layers = [network.get_layer(place) for place in range(network.num_layers)]
    makers = {layer.get_output(place).name: layer for layer in layers for place in range(layer.num_outputs)}
    users: dict[str, list[tuple[Any, int]]] = defaultdict(list)
    for layer in layers:
        for place in range(layer.num_inputs):
            if (value := layer.get_input(place)) is not None:
                users[value.name].append((layer, place))
    kept = []
    for layer in layers:
        weights = _weights(trt, layer, makers)
        if weights is None:
            continue
        kept.append(weights)
        answer = _convolved(trt, network, layer.get_input(0), weights)
        for user, place in users[layer.get_output(0).name]:
            user.set_input(place, answer)
    return kept


def _weights(trt: Any, layer: Any, makers: dict[str, Any]) -> Any:
    """What `layer` multiplies vectors with, (out, in); None where it does something else."""
    if layer.type != trt.LayerType.MATRIX_MULTIPLY:
        return None
    layer.__class__ = trt.IMatrixMultiplyLayer  # the bindings give the parent class
    vectors, factor = layer.get_input(0), layer.get_input(1)
    maker = makers.get(factor.name)
    plain = layer.op0 == trt.MatrixOperation.NONE and len(vectors.shape) == len(factor.shape) == 2
    if not plain or maker is None or maker.type != trt.LayerType.CONSTANT:
        return None
    maker.__class__ = trt.IConstantLayer
    weights = np.asarray(maker.weights).reshape(tuple(factor.shape))
    return np.ascontiguousarray(weights if layer.op1 == trt.MatrixOperation.TRANSPOSE else weights.T)


def _convolved(trt: Any, network: Any, vectors: Any, weights: Any) -> Any:
    """`vectors` (N, in) times `weights`, (N, out)."""
    pixel = network.add_shuffle(vectors)
    pixel.reshape_dims = (0, 0, 1, 1)  # 0: as it was
    convolution = network.add_convolution_nd(pixel.get_output(0), len(weights), (1, 1), weights, trt.Weights())
    flat = network.add_shuffle(convolution.get_output(0))
    flat.reshape_dims = (0, 0)
    return flat.get_output(0)


class BuildStep(NamedTuple):
    """The progress of a build.

    Attributes
    ----------
    phase : str
        The library's name for it.
    done, steps : int
        How many of its steps are done.
    inside : str or None
        The phase that this one is a part of.
    """

    phase: str
    done: int
    steps: int
    inside: str | None

    def __str__(self) -> str:
        return f"{self.phase}: {self.done} of {self.steps}"


ProgressCallback = Callable[[BuildStep], None]


def build_engine(
    graph: Path,
    key: EngineKey,
    *,
    progress: ProgressCallback | None = None,
    cancelled: Callable[[], bool] | None = None,
    device_context: DeviceContext = nullcontext,
) -> bytes:
    """The engine that a key describes. Takes seconds with TensorRT-RTX, minutes with TensorRT.

    The build runs in a thread of its own, so that Ctrl-C (`KeyboardInterrupt`) and `cancelled` end it at its next step. Nothing
    is written to disk.

    Parameters
    ----------
    graph : Path
        The ONNX file.
    key : EngineKey
        From which graph, for which GPUs, batches and library.
    progress : callable, optional
        Gets each `BuildStep`.
    cancelled : callable, optional
        Ends the build once it gives true.
    device_context : callable
        Gives a context manager that the thread enters: where a GPU other than the first is to be the current one.

    Returns
    -------
    bytes

    Raises
    ------
    MissingLibrary
        The library isn't installed.
    EngineError
        The graph's bytes are not the key's or break a limit, the parser refuses nodes, the library breaks off, or `cancelled`
        became true.
    """
    library = load_library(key.library)
    if str(library.__version__) != key.version:
        raise EngineError(f"{key.library} {library.__version__} is installed, the key asks for {key.version}: ask anew")
    content = read_graph(graph, key.graph, models=key.models)
    job = _Job(_Order(library, key, content, str(graph), progress or (lambda _: None)), device_context)
    job.start()
    try:
        while not job.done.wait(_TICK):
            if cancelled is not None and cancelled():
                job.stop.set()
    except BaseException:
        job.stop.set()
        job.wait_out()
        raise
    return job.result()


@dataclass(frozen=True, slots=True)
class _Order:
    """An engine that is to be built.

    Attributes
    ----------
    library : module
        The bindings, of TensorRT or TensorRT-RTX.
    key : EngineKey
        What the engine is built for.
    content : bytes
        The ONNX graph.
    shown : str
        What errors call the graph.
    progress : callable
        Hears of the progress.
    """

    library: Any
    key: EngineKey
    content: bytes
    shown: str
    progress: ProgressCallback


class _Job(threading.Thread):
    """One build. The library lets go of Python's lock while it works."""

    def __init__(self, order: _Order, device_context: DeviceContext) -> None:
        super().__init__(name="blastscope-build")
        self.stop = threading.Event()
        self.done = threading.Event()  # `join` believes a thread dead that Ctrl-C interrupted it in waiting for (to 3.12)
        self._order, self._device_context = order, device_context
        self._engine: bytes | None = None
        self._error: Exception | None = None

    def run(self) -> None:
        """Builds; what goes wrong is kept for the thread that waits."""
        try:
            with self._device_context(), capture_errors(self._order.key.library) as said:
                self._engine = _build(self._order, self.stop, said)
        except Exception as error:  # noqa: BLE001  handed to the thread that waits
            self._error = error
        finally:
            self.done.set()

    def wait_out(self) -> None:
        """Waits for the end, whoever is impatient: the library must not be at work when the process is taken down."""
        while not self.done.is_set():
            with suppress(KeyboardInterrupt):
                self.done.wait()

    def result(self) -> bytes:
        """The engine. Raises what the build raised."""
        if self._error is not None:
            raise self._error
        if self._engine is None:
            raise EngineError(f"{self._order.key.library}: the build of '{self._order.shown}' was cancelled")
        return self._engine


def _build(order: _Order, stop: threading.Event, said: list[str]) -> bytes | None:
    """The engine; None where the build was stopped."""
    trt, key = order.library, order.key
    logger = library_logger(key.library)
    try:
        builder = trt.Builder(logger)
    except TypeError as error:  # of the bindings, where the library gives no builder
        raise EngineError(f"{key.library} {key.version} can't build here: {_reason(said)}") from error
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse(order.content):
        raise EngineError(
            f"{key.library} {key.version} refuses '{order.shown}': {unsupported_nodes(trt, order.content, parser, logger)}; "
            f"export the bundle with this version of blastscope, take another precision, or device='cpu'"
        )
    # held until the engine is built: the library doesn't copy them
    weights = matmul_as_convolution(trt, network) if key.library == "tensorrt-rtx" and TURING in _kinds(key) else []
    config = builder.create_builder_config()
    _configure(trt, config, key)
    config.add_optimization_profile(_profile(builder, network, key, order.shown))
    monitor = progress_monitor(trt, order.progress, stop)
    config.progress_monitor = monitor
    memory = None if stop.is_set() else builder.build_serialized_network(network, config)
    del weights
    if monitor.error is not None:
        raise monitor.error
    if stop.is_set():
        return None
    if memory is None:
        raise EngineError(
            f"{key.library} {key.version} built no engine of '{order.shown}': {_reason(said)}; "
            f"take another precision or GPU, or device='cpu'"
        )
    return bytes(memory)


def _kinds(key: EngineKey) -> tuple[str, ...]:
    """The kinds of GPU that an engine is for, where they are named."""
    return key.targets if key.gpu is None else (key.gpu.target,)


def _configure(trt: Any, config: Any, key: EngineKey) -> None:
    if hasattr(trt.BuilderFlag, "TF32"):
        config.clear_flag(trt.BuilderFlag.TF32)
    known = getattr(trt, "ComputeCapability", None)
    if known is None:
        return
    targets = key.targets
    if key.gpu is not None:
        # by its name where it has one, since only that way can be tried without a GPU
        targets = (key.gpu.target,) if hasattr(known, key.gpu.target.upper()) else ("current",)
    for target in targets:
        if not hasattr(known, target.upper()):
            names = ", ".join(
                sorted((name.lower() for name in dir(known) if name.startswith("SM")), key=lambda sm: int(sm[2:]))
            )
            raise EngineError(f"{key.library} {key.version} doesn't build for {target}: it knows {names}")
    if targets:
        config.num_compute_capabilities = len(targets)
        for place, target in enumerate(targets):
            config.set_compute_capability(getattr(known, target.upper()), place)


def _profile(builder: Any, network: Any, key: EngineKey, shown: str) -> Any:
    shapes = {network.get_input(place).name: tuple(network.get_input(place).shape) for place in range(network.num_inputs)}
    profile = builder.create_optimization_profile()
    if key.models == "detector":
        profile.set_shape(DETECTOR_INPUT, *((1, side, side, 3) for side in PICTURE_SIDES))
        return profile
    if list(shapes) != [INPUT] or shapes[INPUT][0] != -1:
        raise EngineError(f"'{shown}' doesn't take '{INPUT}' with a dynamic batch, but {shapes}: not one of blastscope's")
    side = shapes[INPUT][1:]
    batches = (key.profile.least, key.profile.likely, key.profile.most)
    profile.set_shape(INPUT, *((batch, *side) for batch in batches))
    return profile


def _reason(said: list[str]) -> str:
    # the first is the cause, the rest follow from it
    return said[0] if said else "it gives no reason; is there enough memory?"


def progress_monitor(trt: Any, progress: ProgressCallback, stop: threading.Event) -> Any:
    """The library's progress monitor: reports each step, and ends the build at the next one once `stop` is set."""

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.error: Exception | None = None
            self._phases: dict[str, tuple[int, str | None]] = {}

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            self._phases[phase_name] = (num_steps, parent_phase)
            self._say(phase_name, 0)

        def step_complete(self, phase_name: str, step: int) -> bool:
            self._say(phase_name, step + 1)
            return not stop.is_set()

        def phase_finish(self, phase_name: str) -> None:
            self._say(phase_name, self._phases.get(phase_name, (0, None))[0])

        def _say(self, phase: str, done: int) -> None:
            steps, inside = self._phases.get(phase, (0, None))
            try:
                progress(BuildStep(phase, done, steps, inside))
            except Exception as error:  # noqa: BLE001  must not run through the library's own frames
                self.error = self.error or error
                stop.set()

    return Monitor()


def unsupported_nodes(trt: Any, content: bytes, parser: Any, logger: Any) -> str:
    """The refused nodes with the parser's reasons, for a message.

    A parser stops at its first error; `supports_model_v2`, where the library has it, looks at the whole graph.
    """
    found = _errors(parser)
    if hasattr(parser, "supports_model_v2"):
        # with a network of its own: the one that broke off holds half the graph
        empty = trt.Builder(logger).create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
        second = trt.OnnxParser(empty, logger)
        second.supports_model_v2(content)
        found = dict.fromkeys([*found, *_errors(second)])
    reasons = list(found)
    more = f" and {len(reasons) - SHOWN} more" if len(reasons) > SHOWN else ""
    return "; ".join(reasons[:SHOWN]) + more if reasons else "the parser gives no reason"


def _errors(parser: Any) -> dict[str, None]:
    return dict.fromkeys(_text(parser.get_error(place)) for place in range(parser.num_errors))


def _text(error: Any) -> str:
    operator = str(error.node_operator()) if hasattr(error, "node_operator") else ""
    name = str(error.node_name()) if hasattr(error, "node_name") else f"number {error.node()}"
    where = f"{operator} '{name}'".strip() if name or operator else "the graph"
    return f"{where} ({' '.join(str(error.desc()).split())})"
