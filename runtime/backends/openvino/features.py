"""A fused graph cut where it measures novelty: it answers with a cell's features, by which cells can be compared."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from blastscope.runtime.backends.blob_store import engine_digest
from blastscope.runtime.backends.onnx_file import OnnxGraph, parse_model
from blastscope.runtime.backends.openvino.backend import StreamConfig, engine_settings, fingerprint
from blastscope.runtime.backends.openvino.infer_request import NAME, RequestLane, core, import_openvino, translate_errors
from blastscope.runtime.backends.protocol import Engine, EngineOptions, read_fused
from blastscope.runtime.errors import EngineError
from blastscope.runtime.io.cpu_info import usable_threads

NOVELTY = "novelty"
STANDARDISED = ("Sub", "Mul", "Clip")  # what a voter does with the features first


def open_features(graph: Path, sha256: str, options: EngineOptions) -> Engine:
    """Compiles `graph` as far as its features.

    Parameters
    ----------
    graph : Path
        A fused graph that measures novelty, as ONNX.
    sha256 : str
        Its digest.
    options : EngineOptions
        Threads and crop count; it is computed in f32, for throughput, on the CPU.

    Returns
    -------
    Engine
        Its lanes give (N, D) float32 of N crops: the features that novelty is measured by, in standard deviations of the
        training's cells.

    Raises
    ------
    EngineError
        The graph measures no novelty, or the library refuses it.
    """
    threads = options.threads or usable_threads()
    settings = engine_settings(options, StreamConfig(threads, threads))
    content = read_fused(graph, sha256, options)
    name = feature_tensor_name(content, graph)
    with translate_errors(f"'{graph}'"):
        model = core().read_model(content)
        crops = model.input("crops")
        model.reshape({"crops": [1, *list(crops.partial_shape)[1:]]})
        found = next((out for op in model.get_ordered_ops() for out in op.outputs() if name in out.get_names()), None)
        if found is None:
            raise EngineError(f"'{graph}' has no '{name}' once openvino has read it")
        compiled = core().compile_model(import_openvino().Model([found], model.get_parameters()), options.device, settings)
        lanes = tuple(RequestLane(compiled, None) for _ in range(threads))
    facts = {**fingerprint(options.device), "graph": sha256, "cut": name, "execution": options.execution}
    return Engine(lanes, NAME, options.device, options.execution, engine_digest(facts))


def feature_tensor_name(content: bytes, graph: Path) -> str:
    """The name of the standardised features in a fused graph.

    Novelty is the length of a vector of scores, which a matrix product makes of the features less their mean. A voter reads the
    same features: less the mean of its training cells, in their standard deviations, and held within a limit.

    Parameters
    ----------
    content : bytes
        The graph, as ONNX.
    graph : Path
        Its file, for errors.

    Returns
    -------
    str
        The value that voter reads.

    Raises
    ------
    EngineError
        The graph measures no novelty, or has no such voter.
    """
    read = OnnxGraph(parse_model(content, graph))
    product = _maker_before(read, NOVELTY, "Gemm")
    centred = product and read.maker.get(product.input[0])
    if centred is None or centred.op_type != "Sub":
        raise EngineError(f"'{graph}' measures no novelty, so it has no features by which cells could be compared")
    ends = [node for node in read.readers[centred.input[0]] if node is not centred]
    for kind in STANDARDISED:
        ends = [node for node in ends if node.op_type == kind]
        if not ends:
            raise EngineError(
                f"'{graph}' has no voter that reads the features of its novelty: it was exported by another version"
            )
        last = ends[-1].output[0]
        ends = [reader for node in ends for reader in read.readers[node.output[0]]]
    return str(last)


def _maker_before(read: OnnxGraph, name: str, kind: str) -> Any | None:
    """The operator of that kind nearest before the value `name`."""
    reached, seen = [name], {name}
    for value in reached:  # grows: the graph is walked back, the nearest operators first
        node = read.maker.get(value)
        if node is not None and node.op_type == kind:
            return node
        fresh = [source for source in (node.input if node is not None else ()) if source not in seen]
        seen.update(fresh)
        reached += fresh
    return None
