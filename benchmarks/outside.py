"""OpenVINO's benchmark_app, which comes with its wheel: an outside check of our own figures on the same graph and settings."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from blastscope.runtime.classes import Execution
from blastscope.runtime.device import usable_threads
from blastscope.runtime.errors import EngineError

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
