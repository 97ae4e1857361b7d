"""OpenVINO's benchmark_app, which comes with its wheel: an outside check of our own figures on the same graph and settings.

What OpenVINO made of a graph: which layers compute in which type, read from the compiled network itself.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from blastscope.runtime.backends.protocol import EngineOptions
from blastscope.runtime.backends.registry import open_engine
from blastscope.runtime.errors import EngineError
from blastscope.runtime.io.cpu_info import usable_threads
from blastscope.runtime.types import Execution

SOURCE = "https://docs.openvino.ai/2025/get-started/learn-openvino/openvino-samples/benchmark-tool.html"
TOOL = "import sys; from openvino.tools.benchmark.main import main; sys.exit(main())"
LIMIT_S = 300


def benchmark_app(graph: Path, shape: list[int], execution: Execution, *, seconds: float, threads: int | None) -> float:
    """Its median latency in milliseconds, one synchronous request at a time. Raises `EngineError`."""
    with TemporaryDirectory(prefix="blastscope-") as folder:
        words = [
            "-m",
            str(graph),
            "-d",
            "CPU",
            "-t",
            str(max(1, round(seconds))),
            "-shape",
            f"crops[{','.join(map(str, shape))}]",
        ]
        words += ["-infer_precision", "f32" if execution == "int8" else execution]
        words += _threads(threads)
        words += ["-report_type", "no_counters", "-report_folder", folder, "-json_stats"]
        done = subprocess.run(
            [sys.executable, "-c", TOOL, *words], capture_output=True, text=True, check=False, timeout=LIMIT_S
        )
        report = Path(folder) / "benchmark_report.json"
        if done.returncode or not report.exists():
            lines = [line for line in (done.stdout + done.stderr).splitlines() if "ERROR" in line or "Error" in line]
            raise EngineError(f"benchmark_app gives no report: {lines[0].strip() if lines else f'it exits {done.returncode}'}")
        return float(json.loads(report.read_text(encoding="utf-8"))["execution_results"]["latency (ms)"])


def _threads(threads: int | None) -> list[str]:
    # its rule: a number of threads goes with no hint
    if threads is None or threads == usable_threads():
        return ["-hint", "latency"]
    return ["-hint", "none", "-nthreads", str(threads), "-nstreams", "1", "-api", "sync"]


CONVOLUTIONS = ("Convolution", "GroupConvolution")

HEAVY = ("Convolution", "GroupConvolution", "Deconvolution", "FullyConnected", "MatMul")  # where the multiply-adds are
BETWEEN = ("Pooling", "Concatenation", "Subgraph", "Eltwise", "Interpolate", "Reduce")  # what maps go through between them


class Layer(NamedTuple):
    """One layer of the compiled network."""

    kind: str  # as the CPU plugin calls it: 'Convolution', 'FullyConnected', ...
    kernel: str  # such as 'jit_avx2_1x1_I8'
    computes_in: str  # 'u8', 'i8', 'f32', 'bf16'
    name: str

    @property
    def in_8_bits(self) -> bool:
        """Whether it works on bytes."""
        return self.computes_in in ("u8", "i8", "U8", "I8")


def engine_layers(graph: Path, execution: Execution, *, cache_dir: Path | None = None) -> list[Layer]:
    """The layers that the runtime's engine of `graph` runs, in one piece."""
    engine = open_engine(graph, EngineOptions(execution=execution, cache_dir=cache_dir))
    try:
        lane: Any = engine.lanes[0]
        return compiled_layers(lane._request.get_compiled_model())
    finally:
        engine.close()


def told(layers: list[Layer]) -> str:
    """How much of a network computes in 8 bits, for people."""
    convolutions, others = count_layers(layers, CONVOLUTIONS), len(unquantised(layers, BETWEEN))
    small = sum(count for (_, in_8_bits), count in convolutions.items() if in_8_bits)
    return f"{small} of {convolutions.total()} convolutions compute in 8 bits, {others} layers between and after them in float"


def compiled_layers(compiled: Any) -> list[Layer]:
    """The layers of a compiled model, as it will run them."""
    return [_layer(op) for op in compiled.get_runtime_model().get_ops()]


def count_layers(layers: list[Layer], kinds: tuple[str, ...] = HEAVY) -> Counter[tuple[str, bool]]:
    """How many layers of these kinds there are, by kind and by whether they compute in 8 bits."""
    return Counter((layer.kind, layer.in_8_bits) for layer in layers if layer.kind in kinds)


def unquantised(layers: list[Layer], kinds: tuple[str, ...] = HEAVY) -> list[Layer]:
    """Those of these kinds that don't compute in 8 bits."""
    return [layer for layer in layers if layer.kind in kinds and not layer.in_8_bits]


def _layer(op: Any) -> Layer:
    facts = op.get_rt_info()
    kind, kernel, computes_in = (facts[key].astype(str) for key in ("layerType", "primitiveType", "runtimePrecision"))
    return Layer(kind, kernel, computes_in, op.get_friendly_name())
