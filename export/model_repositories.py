"""Model repositories for Triton Inference Server and OpenVINO Model Server: one bundle's fused ensemble, ready to be served.

The server gets crops and returns the networks' outputs. Clients crop by themselves (`blastscope.runtime.crop`), by the
specification in Triton's config.pbtxt, or in the bundle.json beside an OpenVINO model. Triton takes an ONNX graph or a TensorRT
engine, OpenVINO Model Server an ONNX graph.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from blastscope.runtime.backends.tensorrt.engine_store import read_engine
from blastscope.runtime.backends.tensorrt.key import BatchProfile
from blastscope.runtime.bundle import Bundle
from blastscope.runtime.bundle.manifest import GraphEntry
from blastscope.runtime.errors import DataError, EngineError, UngatedBundle, UsageError
from blastscope.runtime.io.atomic import write_content, write_folder
from blastscope.runtime.io.own_files import Unusable
from blastscope.runtime.types import CLASSES, VOTERS, Precision

MODEL = "crops"  # as `blastscope serve` calls what takes crops
PARAMETERS = "blastscope"  # before the names of the parameters in config.pbtxt
PREFERRED_PRECISIONS: tuple[Precision, ...] = ("fp16", "fp32", "int8")  # int8 has to be asked for where there is another
DELAY_US = 2000  # that a request waits for others to share a batch with: a fifth of what a batch takes on a small GPU
# name, type, shape of one cell in the config, and how the server reshapes it
OUTPUTS: tuple[tuple[str, str, list[int]], ...] = (
    ("probabilities", "TYPE_FP32", [len(VOTERS), len(CLASSES)]),
    ("label", "TYPE_INT32", []),
    ("probability", "TYPE_FP32", []),
    ("voter", "TYPE_INT32", []),
)
NOVELTY_OUTPUTS: tuple[tuple[str, str, list[int]], ...] = (
    ("novelty", "TYPE_FP32", []),
    ("answers", "TYPE_FP32", [len(VOTERS) + 1, len(CLASSES)]),
)
CONFIG = "config.json"  # of OpenVINO Model Server
FACTS = "bundle.json"  # beside the folders of versions, where the server looks for nothing
# What the golden set and the gate hold for: left to itself OpenVINO computes in bf16 wherever the CPU has it.
PLUGIN_CONFIG = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "THROUGHPUT"}


@dataclass(frozen=True, slots=True)
class ServedModel:
    """What the server is to run.

    Attributes
    ----------
    backend : str
        As Triton calls it.
    file : str
        Name of the model's file.
    content : bytes
        The file.
    entry : GraphEntry
        The graph, as the manifest lists it.
    batch : BatchProfile
        Crops in one call.
    """

    backend: str
    file: str
    content: bytes
    entry: GraphEntry
    batch: BatchProfile


def write_triton_repository(
    bundle: Bundle, out: Path, *, precision: Precision | None = None, engine: Path | None = None, model: str = MODEL
) -> Path:
    """Writes the folder of one model for a Triton Inference Server, in one step. Other models there are left alone.

    Parameters
    ----------
    bundle : Bundle
        Whose networks.
    out : Path
        The model repository.
    precision : {'fp32', 'fp16', 'int8'}, optional
        Which ONNX graph the server runs.
    engine : Path, optional
        An engine of the user's cache that `blastscope build --runtime tensorrt` made, which the server runs in place of a
        graph.
    model : str
        The model's name.

    Returns
    -------
    Path
        The model's folder.

    Raises
    ------
    UsageError
        What is asked for can't be served.
    EngineError
        An engine that can't be vouched for.
    UngatedBundle
        Networks whose calls mean nothing.
    """
    check_served(bundle, model)
    served = _engine(bundle, engine, precision) if engine else _graph(bundle, precision)
    text = config_text(bundle, served, model)

    def fill(fresh: Path) -> None:
        (fresh / "1").mkdir()
        (fresh / "config.pbtxt").write_text(text, encoding="utf-8")
        (fresh / "1" / served.file).write_bytes(served.content)

    place = out / model
    write_folder(place, fill)
    return place


def check_served(bundle: Bundle, model: str) -> None:
    """Raises `UngatedBundle` for networks whose calls mean nothing, and `UsageError` for a name that no model may have."""
    if bundle.manifest.gate != "passed":
        raise UngatedBundle(bundle.path, f"its gate is '{bundle.manifest.gate}': what means nothing isn't served")
    if not re.fullmatch(r"[A-Za-z0-9_-][A-Za-z0-9_.-]*", model):
        raise UsageError(f"model name '{model}': letters, digits, '_', '.' and '-' only, and no '.' in front")


def fused_graph(bundle: Bundle, precision: Precision | None) -> GraphEntry:
    """The fused graph of that precision, or the one that is served by default. Raises `UsageError` where there is none."""
    entries = [bundle.graph(one) for one in ((precision,) if precision else PREFERRED_PRECISIONS)]
    entry = next((entry for entry in entries if entry), None)
    if entry is None:
        has = ", ".join(entry.precision for entry in bundle.manifest.graphs if entry.models == "ensemble")
        raise UsageError(f"bundle '{bundle.path}' has no fused {precision} graph: it has {has}")
    return entry


def served_facts(bundle: Bundle, entry: GraphEntry) -> dict[str, str]:
    """What a client must know of a graph that is served: digests, precision, how to crop, and the order of its outputs."""
    return {
        "bundle": bundle.digest,
        "graph": entry.sha256,
        "precision": entry.precision,
        "crop": json.dumps(bundle.manifest.crop.model_dump(mode="json")),
        "classes": ",".join(CLASSES),
        "voters": ",".join(VOTERS),
    }


def _graph(bundle: Bundle, precision: Precision | None) -> ServedModel:
    entry = fused_graph(bundle, precision)
    return ServedModel("onnxruntime", "model.onnx", bundle.read(entry), entry, BatchProfile())


def _engine(bundle: Bundle, engine: Path, precision: Precision | None) -> ServedModel:
    try:
        data, side = read_engine(engine)
    except Unusable as error:
        raise EngineError(f"engine '{engine}' can't be served: {error}") from error
    key = side.key
    if key.library != "tensorrt":
        raise UsageError(f"engine '{engine}' is one of {key.library}, and Triton runs those of tensorrt: leave it out for ONNX")
    entry = next((entry for entry in bundle.manifest.graphs if entry.sha256 == key.graph), None)
    if entry is None or entry.models != "ensemble":
        raise UsageError(f"engine '{engine}' is not of the fused ensemble of bundle '{bundle.path}'")
    if key.profile.least != 1:
        raise UsageError(f"engine '{engine}' takes {key.profile.least} crops at least, and requests of one come: build it anew")
    if precision not in (None, entry.precision):
        raise UsageError(f"engine '{engine}' is {entry.precision}, not {precision}")
    return ServedModel("tensorrt", "model.plan", data, entry, key.profile)


def config_text(bundle: Bundle, served: ServedModel, model: str) -> str:
    """The model's config.pbtxt."""
    side = bundle.manifest.crop.side_px
    outputs = OUTPUTS + (NOVELTY_OUTPUTS if bundle.manifest.measures_novelty else ())
    batches = sorted({served.batch.likely, served.batch.most} - {1})
    lines = [
        f"name: {_text(model)}",
        f"backend: {_text(served.backend)}",
        f"max_batch_size: {served.batch.most}",
        f'input [ {{ name: "crops" data_type: TYPE_UINT8 dims: [ {side}, {side}, 3 ] }} ]',
        "output [",
        ",\n".join(f"  {_output(name, kind, shape)}" for name, kind, shape in outputs),
        "]",
        f"dynamic_batching {{ preferred_batch_size: {batches} max_queue_delay_microseconds: {DELAY_US} }}",
        "model_warmup [",
        ",\n".join(f"  {_warm_up(batch, side)}" for batch in sorted({served.batch.least, *batches})),
        "]",
        *(
            f"parameters {{ key: {_text(f'{PARAMETERS}.{key}')} value {{ string_value: {_text(value)} }} }}"
            for key, value in served_facts(bundle, served.entry).items()
        ),
    ]
    return "\n".join(lines) + "\n"


def _output(name: str, kind: str, shape: list[int]) -> str:
    # the server knows no output without dimensions: it is told one, and to take it away; clients get it back, (N, 1) for (N,)
    dims = f"dims: {shape}" if shape else "dims: [ 1 ] reshape: { shape: [ ] }"
    return f'{{ name: "{name}" data_type: {kind} {dims} }}'


def _warm_up(batch: int, side: int) -> str:
    """Black crops: engines choose kernels and take memory before the first request comes."""
    crops = f"data_type: TYPE_UINT8 dims: [ {side}, {side}, 3 ] zero_data: true"
    return f'{{ name: "batch of {batch}" batch_size: {batch} inputs {{ key: "crops" value {{ {crops} }} }} }}'


def _text(value: str) -> str:
    """A string of protobuf's text format, whose escapes are those of JSON as long as it is ASCII."""
    return json.dumps(value)


def write_openvino_repository(bundle: Bundle, out: Path, *, precision: Precision | None = None, model: str = MODEL) -> Path:
    """Writes the folder of one model into the repository `out`, names it in the server's configuration there, and returns it.

    Parameters
    ----------
    bundle : Bundle
        As it was read.
    out : Path
        The repository. Other models there, and what its config.json says of them, are left alone.
    precision : {'fp32', 'fp16', 'int8'}, optional
        Of the graph; by default fp16 where the bundle has it. It is computed in float32, an int8 graph's layers in int8.
    model : str
        What clients call it.

    Returns
    -------
    Path
        `out`/`model`.

    Raises
    ------
    UsageError
        The bundle has no such graph, or the name can't be one.
    UngatedBundle
        The bundle's calls mean nothing.
    DataError
        `out` holds a config.json that is none of the server's, or that can't be read or written.
    """
    check_served(bundle, model)
    entry = fused_graph(bundle, precision)
    config = _with_model(_read_config(out / CONFIG), model_config(bundle, model))
    content, facts = bundle.read(entry), json.dumps(served_facts(bundle, entry), indent=2)

    def fill(fresh: Path) -> None:
        (fresh / "1").mkdir()
        (fresh / "1" / "model.onnx").write_bytes(content)
        (fresh / FACTS).write_text(facts + "\n", encoding="utf-8")

    place = out / model
    write_folder(place, fill)
    write_content(out / CONFIG, json.dumps(config, indent=2) + "\n")
    return place


def model_config(bundle: Bundle, model: str) -> dict[str, Any]:
    """What the server's configuration says of the model."""
    side = bundle.manifest.crop.side_px
    return {
        "name": model,
        "base_path": model,  # from the configuration's own folder
        "shape": {"crops": f"(-1,{side},{side},3)"},  # requests of any number of crops
        "target_device": "CPU",
        "plugin_config": dict(PLUGIN_CONFIG),
    }


def _read_config(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {"model_config_list": []}
    except OSError as error:
        raise DataError(path, f"can't be read: {(error.strerror or str(error)).lower()}") from error
    except (ValueError, RecursionError) as error:
        raise DataError(path, f"is no JSON: {error}; name another folder, or mend it") from error
    listed = found.get("model_config_list") if isinstance(found, dict) else None
    if not isinstance(listed, list) or not all(isinstance(one, dict) and isinstance(one.get("config"), dict) for one in listed):
        raise DataError(path, "is no configuration of OpenVINO Model Server, with a 'model_config_list': name another folder")
    return dict(found)


def _with_model(config: dict[str, Any], entry: dict[str, Any]) -> dict[str, Any]:
    others = [one for one in config["model_config_list"] if one["config"].get("name") != entry["name"]]
    return {**config, "model_config_list": [*others, {"config": entry}]}
