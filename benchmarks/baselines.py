"""The CPU baselines: other implementations of the same network, each run as its documentation advises.

`BASELINE_CONFIGS` holds what a row of the results gives as `config` and `source`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray

from blastscope.benchmarks.contenders import fused_torch_model, separate_torch_models, vote_labels
from blastscope.benchmarks.interleaved_timing import ClassifyFunction, Image
from blastscope.benchmarks.models import BenchmarkModel, crop_images, sample_crops
from blastscope.benchmarks.schema import describe_machine
from blastscope.runtime.backends.onnxruntime.cpu import load_onnxruntime
from blastscope.runtime.backends.openvino.infer_request import import_openvino
from blastscope.runtime.bundle import read_bundle
from blastscope.runtime.crop import CropSpecification
from blastscope.runtime.io.cpu_info import usable_threads
from blastscope.runtime.types import ClassName

logger = logging.getLogger(__name__)

CALIBRATION_CELLS = 8  # that set the int8 ranges
VNNI_FEATURES = ("avx512_vnni", "avx_vnni", "amx_int8")
Framework = Literal["torch", "torch-compiled", "onnxruntime", "openvino"]
FRAMEWORKS: tuple[Framework, ...] = get_args(Framework)
TORCH_BASELINE = "fp32/torch"  # the paper's ensemble as it was trained: all ratios compare with it
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
BaselineFactory = Callable[[], ClassifyFunction]  # loads the network


class BaselineGraphs(NamedTuple):
    """Two ONNX files of the fused network.

    Attributes
    ----------
    fp32, int8 : Path
        The trained graph, and one that ONNX Runtime's tool quantised as its documentation advises for this CPU.
    """

    fp32: Path
    int8: Path


def baseline_graphs(model: BenchmarkModel, data: Path | None) -> BaselineGraphs:
    """The graphs of `model` for the baselines, made at their first use: minutes for Inception-ResNet-v2.

    Parameters
    ----------
    model
        The network. Where its bundle has the same weights as its run, the fp32 file is the bundle's.
    data
        Folder of C-NMC cells that set the int8 ranges; None: synthetic cells set them.

    Returns
    -------
    BaselineGraphs
        Files in the model's cache folder, or in the bundle.
    """
    folder = (model.cache or model.run.parent) / "peers"  # the name that existing caches have
    folder.mkdir(parents=True, exist_ok=True)
    bundle = read_bundle(model.bundle)
    entry = bundle.graph("fp32") if model.same_weights else None
    graphs = BaselineGraphs(bundle.file(entry) if entry else folder / "fp32.onnx", folder / "int8-own.onnx")
    with FileLock(folder / "lock"):
        for path, make in ((graphs.fp32, _export_fp32), (graphs.int8, _quantise)):
            if not path.exists():
                logger.info("%s: making the %s graph for the baselines, once, in '%s'", model.name, path.stem, folder)
                temporary = path.with_suffix(".new")
                make(model, graphs, temporary, data)
                temporary.replace(path)
    return graphs


def _export_fp32(model: BenchmarkModel, graphs: BaselineGraphs, out: Path, data: Path | None) -> None:
    from blastscope.export.onnx_writer import ExportConfig, export_graphs
    from blastscope.train.ensemble_checkpoint import load_ensemble

    trained = load_ensemble(model.run)
    crops = sample_crops(trained.config.crop, data)[:CALIBRATION_CELLS]
    with TemporaryDirectory(dir=out.parent) as folder:
        files = export_graphs(trained.ensemble, "ensemble", crops, Path(folder), ExportConfig(precisions=("fp32",)))
        files[0].path.replace(out)


def _quantise(model: BenchmarkModel, graphs: BaselineGraphs, out: Path, data: Path | None) -> None:
    """The steps of ONNX Runtime's page on quantisation: pre-process, calibrate, QDQ with unsigned activations.

    7 bits for weights where the CPU has no VNNI, since its sums of two products would saturate there.
    """
    load_onnxruntime("export")  # before anything of it is imported
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    crops = sample_crops(read_bundle(model.bundle).manifest.crop, data)[:CALIBRATION_CELLS]
    feeds = iter([{"crops": crop[None]} for crop in crops])

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def get_next(self) -> Any:
            return next(feeds, None)

    with TemporaryDirectory(dir=out.parent) as folder:
        prepared = Path(folder) / "prepared.onnx"
        quant_pre_process(str(graphs.fp32), str(prepared), skip_symbolic_shape=True)
        quantize_static(
            str(prepared),
            str(out),
            Reader(),
            quant_format=QuantFormat.QDQ,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            per_channel=True,
            reduce_range=not set(VNNI_FEATURES) & set(describe_machine().features),
            nodes_to_exclude=_nodes_outside_network(prepared),  # normalisation and vote: in 8 bits the vote would mean nothing
        )
    _keep_used_domains(out)


def _keep_used_domains(graph: Path) -> None:
    """Takes the domains that no node uses out of a graph's file: ONNX Runtime's tools name all that it knows."""
    import onnx

    loaded = onnx.load(graph, load_external_data=False)
    used = {node.domain for node in loaded.graph.node}
    kept = [entry for entry in loaded.opset_import if entry.domain in used]
    del loaded.opset_import[:]
    loaded.opset_import.extend(kept)
    onnx.save(loaded, graph)


def _nodes_outside_network(graph: Path) -> list[str]:
    import onnx

    from blastscope.calibration.quantisation.qdq_placement import find_regions

    loaded = onnx.load(graph, load_external_data=False)
    network = set(find_regions(loaded).networks)
    return [node.name for node in loaded.graph.node if node.name not in network]


@dataclass(frozen=True)
class BaselineConfig:
    """How a baseline is run, and the address of the page that advises it.

    Attributes
    ----------
    config : str
        How it is run.
    source : str
        Address of the page that advises it.
    """

    config: str
    source: str


BASELINE_CONFIGS: dict[str, BaselineConfig] = {
    "torch": BaselineConfig(f"three models one after the other, eager; {_EAGER}", TUNING),
    "torch-fused": BaselineConfig(f"one fused network, eager; {_EAGER}", TUNING),
    "torch-compiled": BaselineConfig(f"three models one after the other; {_COMPILED}", FREEZING),
    "torch-fused-compiled": BaselineConfig(f"one fused network; {_COMPILED}", FREEZING),
    "onnxruntime": BaselineConfig(_SESSION, ORT_THREADS),
    "onnxruntime-own-int8": BaselineConfig(
        f"{_SESSION}; quantised by its own tool: pre-processed, calibrated by MinMax, QDQ, U8S8, per channel, 7-bit weights "
        "where there is no VNNI",
        ORT_INT8,
    ),
    "openvino-plain": BaselineConfig(
        "read_model, batch made static, compile_model with nothing set, called synchronously", OV_HINTS
    ),
    "openvino-plain-latency": BaselineConfig("the same with PERFORMANCE_HINT=LATENCY", OV_HINTS),
    "openvino-plain-throughput": BaselineConfig(
        "PERFORMANCE_HINT=THROUGHPUT and an AsyncInferQueue of crops one by one", OV_HINTS
    ),
}


@dataclass(frozen=True)
class BaselineTask:
    """What the baselines of one network need.

    Attributes
    ----------
    run
        Folder of a trained ensemble, for PyTorch.
    graphs
        ONNX files for the other frameworks, by precision and engine: 'fp32/onnxruntime'.
    spec
        How cells are cropped.
    batch
        Images in a call.
    threads
        Threads of each baseline; None: the framework's own choice, or one for each core.
    """

    run: Path
    graphs: dict[str, Path]
    spec: CropSpecification
    batch: int
    threads: int | None = None

    @property
    def thread_count(self) -> int:
        """Threads for a framework that must be given a number."""
        return self.threads or usable_threads()


def baseline_factories(framework: Framework, task: BaselineTask) -> Iterator[tuple[str, BaselineFactory]]:
    """The baselines of one framework.

    Parameters
    ----------
    framework
        Which library runs the network.
    task
        The network, the batch and the threads.

    Yields
    ------
    tuple of str and BaselineFactory
        The name, `precision/engine`, and the function that loads the network; it may raise whatever the library raises.
    """
    if framework in ("torch", "torch-compiled"):
        compiled = framework == "torch-compiled"
        suffix = "-compiled" if compiled else ""
        yield f"fp32/torch{suffix}", partial(separate_torch_models, task.run, threads=task.threads, compiled=compiled)
        yield f"fp32/torch-fused{suffix}", partial(fused_torch_model, task.run, threads=task.threads, compiled=compiled)
    elif framework == "onnxruntime":
        for name, graph in task.graphs.items():
            if name.partition("/")[2].startswith("onnxruntime"):
                yield name, partial(_load_onnxruntime, graph, task)
    else:
        for name, graph in task.graphs.items():
            precision, engine = name.split("/")
            if engine == "openvino-plain":
                yield from _openvino_factories(precision, graph, task)


def _openvino_factories(precision: str, graph: Path, task: BaselineTask) -> Iterator[tuple[str, BaselineFactory]]:
    # the plugin decides which type is its default: the name gives the type that it computes in
    named = (
        {"bf16": f"{precision}-bf16", "f16": f"{precision}-f16"}.get(_default_execution(), precision)
        if precision != "int8"
        else precision
    )
    yield f"{named}/openvino-plain", partial(_load_openvino, graph, task, {})
    if task.batch == 1:
        yield f"{named}/openvino-plain-latency", partial(_load_openvino, graph, task, {"PERFORMANCE_HINT": "LATENCY"})
    else:
        yield f"{named}/openvino-plain-throughput", partial(_load_openvino_queue, graph, task)


def _default_execution() -> str:
    openvino = import_openvino()
    name = str(openvino.Core().get_property("CPU", "INFERENCE_PRECISION_HINT").get_type_name())
    return {"float32": "f32", "bfloat16": "bf16", "float16": "f16"}.get(name, name)


def _load_onnxruntime(graph: Path, task: BaselineTask) -> ClassifyFunction:
    onnxruntime = load_onnxruntime("export")
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.intra_op_num_threads = task.thread_count
    options.add_session_config_entry("session.intra_op.allow_spinning", "1")
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])
    return _classifier(task.spec, lambda crops: session.run(["probabilities"], {"crops": crops})[0])


def _load_openvino(graph: Path, task: BaselineTask, settings: dict[str, Any]) -> ClassifyFunction:
    compiled = _compile_openvino(graph, task.batch, _with_threads(settings, task))
    output = compiled.output("probabilities")
    return _classifier(task.spec, lambda crops: compiled(crops)[output])


def _load_openvino_queue(graph: Path, task: BaselineTask) -> ClassifyFunction:
    openvino = import_openvino()
    settings = _with_threads({"PERFORMANCE_HINT": "THROUGHPUT"}, task)
    queue = openvino.AsyncInferQueue(_compile_openvino(graph, 1, settings))

    def infer(crops: NDArray[np.uint8]) -> NDArray[np.float32]:
        probabilities = np.empty((len(crops), 3, 2), np.float32)

        def store(request: Any, index: int) -> None:
            probabilities[index] = request.get_tensor("probabilities").data[0]

        queue.set_callback(store)
        for index, crop in enumerate(crops):
            queue.start_async({0: crop[None]}, index)
        queue.wait_all()
        return probabilities

    return _classifier(task.spec, infer)


def _with_threads(settings: dict[str, Any], task: BaselineTask) -> dict[str, Any]:
    """`settings` with a number of threads where one was asked for; else OpenVINO chooses."""
    return settings if task.threads is None else {**settings, "INFERENCE_NUM_THREADS": task.threads}


def _compile_openvino(graph: Path, batch: int, settings: dict[str, Any]) -> Any:
    openvino = import_openvino()
    core = openvino.Core()
    model = core.read_model(graph)
    shape = model.input("crops").partial_shape
    model.reshape({"crops": [batch, *list(shape)[1:]]})
    return core.compile_model(model, "CPU", settings)


def _classifier(spec: CropSpecification, infer: Callable[[NDArray[np.uint8]], NDArray[np.float32]]) -> ClassifyFunction:
    def classify(images: Sequence[Image]) -> list[ClassName]:
        return vote_labels(np.asarray(infer(crop_images(images, spec)), np.float32))

    return classify
