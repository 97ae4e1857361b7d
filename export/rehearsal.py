"""`rehearse`: which precisions a network can be exported in, said before hours of training go into it."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from blastscope.runtime.errors import BlastscopeError, MissingLibrary

if TYPE_CHECKING:
    import onnx

    from blastscope.runtime.bundle.manifest import GraphModels
    from blastscope.train.network import VoterNetwork
    from blastscope.train.trunk import TrunkEnsemble

# a rehearsal names whatever goes wrong, and never keeps a training from its beginning
FAILURES = (BlastscopeError, RuntimeError, ValueError, TypeError, LookupError, AssertionError)


def rehearse(network: TrunkEnsemble | VoterNetwork, crops: NDArray[np.uint8]) -> str:
    """Which precisions the graph of `network` can have, as a sentence for the training's log, and why not the others.

    Traces a copy, makes its fp16 and int8 graphs, and runs each on `crops` (N, S, S, 3). What the answers are worth is for the
    export and for calibration's gate to say: the network isn't trained.
    """
    try:
        from blastscope.export.onnx_export import SingleGraph, make_graph, trace
        from blastscope.train.network import VoterNetwork
    except MissingLibrary as error:
        return f"export: not tried, {error}"
    still = copy.deepcopy(network).cpu().eval()
    graph = SingleGraph(still).eval() if isinstance(still, VoterNetwork) else make_graph(still, "ensemble")
    models: GraphModels = "a" if isinstance(still, VoterNetwork) else "ensemble"
    try:
        model = trace(graph, crops.shape[1], models)
        _run(model, crops)
    except FAILURES as error:
        return f"export: this network can't be exported: {_reason(error)}"
    able, unable = ["fp32"], []
    for precision, make in (("fp16", _fp16_graph), ("int8", _int8_graph)):
        try:
            _run(make(model, crops), crops)
            able.append(precision)
        except FAILURES as error:
            unable.append(f"; not {precision}: {_reason(error)}")
    return f"export: this network can have {', '.join(able)}{''.join(unable)}"


def _reason(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _run(model: onnx.ModelProto, crops: NDArray[np.uint8]) -> None:
    """Raises `EngineError` where the graph doesn't load, or answers with what is not a number."""
    from blastscope.calibration.evaluation import ReferenceRunner

    ReferenceRunner(model.SerializeToString()).probabilities(crops)


def _fp16_graph(model: onnx.ModelProto, crops: NDArray[np.uint8]) -> onnx.ModelProto:
    from blastscope.export.onnx_writer import convert_fp16

    return convert_fp16(model, "ensemble")


def _int8_graph(model: onnx.ModelProto, crops: NDArray[np.uint8]) -> onnx.ModelProto:
    from blastscope.calibration.config import CalibrationConfig
    from blastscope.calibration.quantisation.quantizer import Int8Builder, QuantConfig

    recipe = QuantConfig(method="minmax")
    return Int8Builder(model, crops, CalibrationConfig(), histograms=False).build(recipe)
