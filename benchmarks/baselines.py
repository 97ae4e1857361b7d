"""The CPU baselines, each run as its documentation advises.

What a row of the results says in `how` and `source` stands here, beside the code that does it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from blastscope.benchmarks.contenders import crop_all, fused_model, labels_of, separate_models
from blastscope.benchmarks.interleaved_timing import Answer, Image
from blastscope.runtime.crop import CropSpecification
from blastscope.runtime.io.cpu_info import usable_threads
from blastscope.runtime.types import ClassName

Family = Literal["torch", "torch-compiled", "onnxruntime", "openvino"]
FAMILIES: tuple[Family, ...] = get_args(Family)
BASELINE = "fp32/torch"  # the paper's ensemble as it stands; all ratios are of it


@dataclass(frozen=True)
class Recipe:
    """How a peer is run, and who says that it should be run so."""

    how: str
    source: str


TUNING = "https://docs.pytorch.org/tutorials/recipes/recipes/tuning_guide.html"
# names weight prepacking as what makes convolutions fast; `freezing` in torch/_inductor/config.py is what lets it happen
FREEZING = (
    "https://www.intel.com/content/www/us/en/developer/articles/technical/accelerated-cpu-inference-with-pytorch-inductor.html"
)
ORT_THREADS = "https://onnxruntime.ai/docs/performance/tune-performance/threading.html"
ORT_INT8 = "https://onnxruntime.ai/docs/performance/model-optimizations/quantization.html"
OV_HINTS = (
    "https://docs.openvino.ai/2025/openvino-workflow/running-inference/optimize-inference/high-level-performance-hints.html"
)
_EAGER = "inference_mode, channels_last weights and pixels, one thread a core"
_COMPILED = "torch.compile with frozen weights, static shapes; inference_mode, channels_last, one thread a core"
_SESSION = "one session, all graph optimisations, sequential, one intra-op thread a core, spinning allowed"
RECIPES: dict[str, Recipe] = {
    "torch": Recipe(f"three models one after the other, eager; {_EAGER}", TUNING),
    "torch-fused": Recipe(f"one fused network, eager; {_EAGER}", TUNING),
    "torch-compiled": Recipe(f"three models one after the other; {_COMPILED}", FREEZING),
    "torch-fused-compiled": Recipe(f"one fused network; {_COMPILED}", FREEZING),
    "onnxruntime": Recipe(f"{_SESSION}", ORT_THREADS),
    "onnxruntime-own-int8": Recipe(
        f"{_SESSION}; quantised by its own tool: pre-processed, calibrated by MinMax, QDQ, U8S8, per channel, 7-bit weights "
        "where there is no VNNI",
        ORT_INT8,
    ),
    "openvino-plain": Recipe("read_model, batch made static, compile_model with nothing set, called synchronously", OV_HINTS),
    "openvino-plain-latency": Recipe("the same with PERFORMANCE_HINT=LATENCY", OV_HINTS),
    "openvino-plain-throughput": Recipe("PERFORMANCE_HINT=THROUGHPUT and an AsyncInferQueue of crops one by one", OV_HINTS),
}


@dataclass(frozen=True)
class Task:
    """A network that peers are to answer with."""

    run: Path  # for PyTorch
    graphs: dict[str, Path]  # for the others, by engine name: 'fp32/onnxruntime' -> file
    spec: CropSpecification
    batch: int
    threads: int | None = None

    @property
    def cores(self) -> int:
        """Threads for whoever has to be told."""
        return self.threads or usable_threads()


Opening = Callable[[], Answer]


def openings(family: Family, task: Task) -> Iterator[tuple[str, Opening]]:
    """The sides of `family` by their name (precision/engine), and how to open each; opening may raise what its library does."""
    if family in ("torch", "torch-compiled"):
        compiled = family == "torch-compiled"
        tail = "-compiled" if compiled else ""
        yield f"fp32/torch{tail}", partial(separate_models, task.run, threads=task.threads, compiled=compiled)
        yield f"fp32/torch-fused{tail}", partial(fused_model, task.run, threads=task.threads, compiled=compiled)
    elif family == "onnxruntime":
        for name, graph in task.graphs.items():
            if name.partition("/")[2].startswith("onnxruntime"):
                yield name, partial(_onnxruntime, graph, task)
    else:
        for name, graph in task.graphs.items():
            precision, engine = name.split("/")
            if engine == "openvino-plain":
                yield from _openvino_openings(precision, graph, task)


def _openvino_openings(precision: str, graph: Path, task: Task) -> Iterator[tuple[str, Opening]]:
    # which type its default is, the plugin decides: the name says what it computes in
    shown = (
        {"bf16": f"{precision}-bf16", "f16": f"{precision}-f16"}.get(_default_type(), precision)
        if precision != "int8"
        else precision
    )
    if task.batch == 1:
        yield f"{shown}/openvino-plain", partial(_openvino, graph, task, {})
        yield f"{shown}/openvino-plain-latency", partial(_openvino, graph, task, {"PERFORMANCE_HINT": "LATENCY"})
    else:
        yield f"{shown}/openvino-plain", partial(_openvino, graph, task, {})
        yield f"{shown}/openvino-plain-throughput", partial(_openvino_queue, graph, task)


def _default_type() -> str:
    import openvino

    told = str(openvino.Core().get_property("CPU", "INFERENCE_PRECISION_HINT").get_type_name())
    return {"float32": "f32", "bfloat16": "bf16", "float16": "f16"}.get(told, told)


def _onnxruntime(graph: Path, task: Task) -> Answer:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.intra_op_num_threads = task.cores
    options.add_session_config_entry("session.intra_op.allow_spinning", "1")
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])
    return _answer(task.spec, lambda crops: session.run(["probabilities"], {"crops": crops})[0])


def _openvino(graph: Path, task: Task, settings: dict[str, Any]) -> Answer:
    compiled = _compiled(graph, task.batch, _threaded(settings, task))
    output = compiled.output("probabilities")
    return _answer(task.spec, lambda crops: compiled(crops)[output])


def _openvino_queue(graph: Path, task: Task) -> Answer:
    import openvino

    queue = openvino.AsyncInferQueue(_compiled(graph, 1, _threaded({"PERFORMANCE_HINT": "THROUGHPUT"}, task)))

    def infer(crops: NDArray[np.uint8]) -> NDArray[np.float32]:
        answers = np.empty((len(crops), 3, 2), np.float32)

        def keep(request: Any, place: int) -> None:
            answers[place] = request.get_tensor("probabilities").data[0]

        queue.set_callback(keep)
        for place, crop in enumerate(crops):
            queue.start_async({0: crop[None]}, place)
        queue.wait_all()
        return answers

    return _answer(task.spec, infer)


def _threaded(settings: dict[str, Any], task: Task) -> dict[str, Any]:
    """Its own choice, unless the run is to use fewer threads than there are cores."""
    return settings if task.threads is None else {**settings, "INFERENCE_NUM_THREADS": task.threads}


def _compiled(graph: Path, batch: int, settings: dict[str, Any]) -> Any:
    import openvino

    core = openvino.Core()
    model = core.read_model(graph)
    shape = model.input("crops").partial_shape
    model.reshape({"crops": [batch, *list(shape)[1:]]})
    return core.compile_model(model, "CPU", settings)


def _answer(spec: CropSpecification, infer: Callable[[NDArray[np.uint8]], NDArray[np.float32]]) -> Answer:
    def answer(images: Sequence[Image]) -> list[ClassName]:
        return labels_of(np.asarray(infer(crop_all(images, spec)), np.float32))

    return answer
