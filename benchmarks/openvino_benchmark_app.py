"""OpenVINO's benchmark_app, which comes with its wheel: an independent measurement on the same graph with the same settings.

Also the layers of a compiled network with the types that they compute in, read from OpenVINO's runtime model.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from blastscope.runtime.backends.protocol import EngineOptions, open_engine
from blastscope.runtime.errors import EngineError
from blastscope.runtime.io.cpu_info import usable_threads
from blastscope.runtime.types import Execution

SOURCE = "https://docs.openvino.ai/2025/get-started/learn-openvino/openvino-samples/benchmark-tool.html"
# without the package by which OpenVINO's tools report their use to Intel
TOOL = "import sys; sys.modules['openvino_telemetry'] = None; from openvino.tools.benchmark.main import main; sys.exit(main())"
TIMEOUT_S = 300
CONVOLUTIONS = ("Convolution", "GroupConvolution")
COMPUTE_LAYERS = ("Convolution", "GroupConvolution", "Deconvolution", "FullyConnected", "MatMul")  # that multiply and add
MEMORY_LAYERS = ("Pooling", "Concatenation", "Subgraph", "Eltwise", "Interpolate", "Reduce")  # that move feature maps


def run_benchmark_app(graph: Path, shape: list[int], execution: Execution, *, seconds: float, threads: int | None) -> float:
    """The median latency that benchmark_app measures, one synchronous request at a time.

    Parameters
    ----------
    graph
        ONNX file with the input `crops`.
    shape
        Of that input: N, S, S, 3.
    execution
        The type to compute in.
    seconds
        How long it measures; whole seconds, at least one.
    threads
        None, or the number of usable cores: the hint LATENCY; else so many threads in one stream.

    Returns
    -------
    float
        Milliseconds.

    Raises
    ------
    EngineError
        It failed, or wrote no report.
    """
    arguments = ["-m", str(graph), "-d", "CPU", "-t", str(max(1, round(seconds)))]
    arguments += ["-shape", f"crops[{','.join(map(str, shape))}]"]
    arguments += ["-infer_precision", "f32" if execution == "int8" else execution]
    arguments += _thread_arguments(threads)
    with TemporaryDirectory(prefix="blastscope-") as folder:
        arguments += ["-report_type", "no_counters", "-report_folder", folder, "-json_stats"]
        done = subprocess.run(
            [sys.executable, "-c", TOOL, *arguments], capture_output=True, text=True, check=False, timeout=TIMEOUT_S
        )
        report = Path(folder) / "benchmark_report.json"
        if done.returncode or not report.exists():
            lines = [line for line in (done.stdout + done.stderr).splitlines() if "ERROR" in line or "Error" in line]
            raise EngineError(f"benchmark_app gives no report: {lines[0].strip() if lines else f'it exits {done.returncode}'}")
        return float(json.loads(report.read_text(encoding="utf-8"))["execution_results"]["latency (ms)"])


def _thread_arguments(threads: int | None) -> list[str]:
    # its rule: a number of threads goes with no hint
    if threads is None or threads == usable_threads():
        return ["-hint", "latency"]
    return ["-hint", "none", "-nthreads", str(threads), "-nstreams", "1", "-api", "sync"]


class Layer(NamedTuple):
    """One layer of a compiled network, in the CPU plugin's words.

    Attributes
    ----------
    kind : str
        Such as 'Convolution' or 'FullyConnected'.
    kernel : str
        Such as 'jit_avx2_1x1_I8'.
    computes_in : str
        'u8', 'i8', 'f32' or 'bf16'.
    name : str
        Its own.
    """

    kind: str
    kernel: str
    computes_in: str
    name: str

    @property
    def is_int8(self) -> bool:
        """Whether it computes on bytes."""
        return self.computes_in in ("u8", "i8", "U8", "I8")


def engine_layers(graph: Path, execution: Execution, *, cache_dir: Path | None = None) -> list[Layer]:
    """The layers that the runtime's OpenVINO engine runs of an ONNX file, with layout 'fused'.

    Parameters
    ----------
    graph
        ONNX file of a fused network.
    execution
        The type to compute in.
    cache_dir
        Folder of compiled engines; None: it is compiled and not kept.
    """
    engine = open_engine(graph, EngineOptions(execution=execution, cache_dir=cache_dir))
    try:
        lane: Any = engine.lanes[0]
        return compiled_layers(lane._request.get_compiled_model())
    finally:
        engine.close()


def describe_layers(layers: list[Layer]) -> str:
    """How much of a network computes in 8 bits, as a sentence."""
    convolutions, floats = count_layers(layers, CONVOLUTIONS), len(float_layers(layers, MEMORY_LAYERS))
    int8 = sum(count for (_, is_int8), count in convolutions.items() if is_int8)
    return f"{int8} of {convolutions.total()} convolutions compute in 8 bits, {floats} layers between and after them in float"


def compiled_layers(compiled: Any) -> list[Layer]:
    """The layers of an `openvino.CompiledModel`, as it will run them."""
    return [_layer(op) for op in compiled.get_runtime_model().get_ops()]


def count_layers(layers: list[Layer], kinds: tuple[str, ...] = COMPUTE_LAYERS) -> Counter[tuple[str, bool]]:
    """The number of layers of these kinds, by kind and by whether they compute in 8 bits."""
    return Counter((layer.kind, layer.is_int8) for layer in layers if layer.kind in kinds)


def float_layers(layers: list[Layer], kinds: tuple[str, ...] = COMPUTE_LAYERS) -> list[Layer]:
    """The layers of these kinds that don't compute in 8 bits."""
    return [layer for layer in layers if layer.kind in kinds and not layer.is_int8]


def _layer(op: Any) -> Layer:
    info = op.get_rt_info()
    kind, kernel, computes_in = (info[key].astype(str) for key in ("layerType", "primitiveType", "runtimePrecision"))
    return Layer(kind, kernel, computes_in, op.get_friendly_name())
