"""Traces the networks to ONNX graphs, folds constants, and removes traces of the machine.

The exporter is PyTorch's TorchScript one. The newer one (`dynamo=True`) gives the same operators, but took 52 s for the
fused EfficientNet-Lite0 and 168 s for the fused Inception-ResNet-v2 where this one took 11 s and 21 s, and a bundle holds up to
four.

The networks as the graphs that leave this project: raw crops in, probabilities and the vote out.

Softmax and vote are computed in fp32 whatever the networks compute in. The vote compares logit margins, as
runtime/inference/voting.py compares ratios of probabilities: both have one order, and neither
saturates where a probability is already 1.0.
"""

from __future__ import annotations

import math
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from blastscope.calibration.quantisation.qdq_placement import META, check_graph
from blastscope.runtime.backends.onnxruntime.cpu import load_onnxruntime
from blastscope.runtime.backends.protocol import ANSWER_SHAPES
from blastscope.runtime.bundle.manifest import GraphModels
from blastscope.runtime.errors import EngineError, MissingLibrary
from blastscope.runtime.inference.voting import TINY
from blastscope.runtime.types import CLASSES, VOTERS, Precision
from blastscope.train.ensemble_checkpoint import AnyEnsemble
from blastscope.train.trunk import TrunkEnsemble

try:
    import onnx
except ImportError as error:
    raise MissingLibrary("onnx and onnxruntime", "export") from error

onnxruntime = load_onnxruntime("export")

OPSET = 18
# what the exporter raises for an operator that it doesn't know, or knows in part
UNTRACEABLE = (RuntimeError, TypeError, ValueError, IndexError, AttributeError, KeyError, AssertionError)
BATCH = "N"
INPUT = "crops"
FUSED_OUTPUTS = ("probabilities", "label", "probability", "voter")
NOVELTY_OUTPUTS = (*FUSED_OUTPUTS, "novelty", "answers")
SINGLE_OUTPUTS = ("probabilities",)
# from here on the smaller probability is no normal fp32 number, and runtime/inference/voting.py holds margins for equal
LARGEST_MARGIN = -math.log(float(TINY))


def trace(graph: nn.Module, side_px: int, models: GraphModels) -> onnx.ModelProto:
    """An fp32 ONNX graph, batch dynamic, side fixed; the same bytes at each call.

    Parameters
    ----------
    graph : FusedGraph or SingleGraph
        The network.
    side_px : int
        Side of the crops.
    models : {'ensemble', 'a', 'b', 'combined'}
        What it holds.

    Returns
    -------
    onnx.ModelProto

    Raises
    ------
    EngineError
        PyTorch's exporter can't put the network into ONNX's operators.
    """
    # two crops: a batch of one could be taken for a dimension that is always 1
    example = torch.zeros((2, side_px, side_px, 3), dtype=torch.uint8, device=next(graph.parameters()).device)
    names = output_names(graph)
    with TemporaryDirectory(prefix="blastscope-") as folder, torch.no_grad(), silence_exporter(), static_padding():
        traced = Path(folder) / "traced.onnx"
        try:
            torch.onnx.export(
                graph,
                (example,),
                str(traced),
                dynamo=False,
                opset_version=OPSET,
                input_names=[INPUT],
                output_names=list(names),
                dynamic_axes={name: {0: BATCH} for name in (INPUT, *names)},
                do_constant_folding=True,
            )
        except UNTRACEABLE as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0].partition(". Please")[0].strip()
            raise EngineError(f"PyTorch's exporter has no ONNX for this network: {reason}: train another backbone") from error
        model = fold_constants(traced)
    strip_metadata(model)
    _set_output_shapes(model, models)
    write_metadata(model, models, "fp32")
    check_graph(model, "fp32")
    return model


def fold_constants(traced: Path) -> onnx.ModelProto:
    """The graph with constants computed, and padding, scales and batch norms folded into their convolutions.

    ONNX Runtime's basic optimisations do that with standard operators only, so that every engine reads the result.
    """
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.log_severity_level = 3
    place = traced.with_name("folded.onnx")
    options.optimized_model_filepath = str(place)
    # it would move the transposition of the pixels behind each of their readers, where engines transpose floats, not bytes
    onnxruntime.InferenceSession(
        str(traced), options, providers=["CPUExecutionProvider"], disabled_optimizers=["TransposeOptimizer"]
    )
    model = onnx.load(place)
    standard = [entry for entry in model.opset_import if entry.domain in ("", "ai.onnx")]
    del model.opset_import[:]
    model.opset_import.extend(standard)
    return model


def write_metadata(model: onnx.ModelProto, models: GraphModels, precision: Precision) -> None:
    """Writes into `model` which networks it holds and in what precision: a renamed file still says what it is."""
    facts = {"models": models, "precision": precision, "voters": ",".join(VOTERS), "classes": ",".join(CLASSES)}
    del model.metadata_props[:]
    onnx.helper.set_model_props(model, {f"{META}{key}": value for key, value in facts.items()})


def _set_output_shapes(model: onnx.ModelProto, models: GraphModels) -> None:
    """Writes down the answers' shapes, which the tracer loses where it takes the mean over several views."""
    shapes: dict[str, tuple[int, ...]] = dict(ANSWER_SHAPES) if models == "ensemble" else {"probabilities": (len(CLASSES),)}
    for output in model.graph.output:
        if output.name in shapes:
            shape: list[str | int | None] = [BATCH, *shapes[output.name]]
            output.CopyFrom(onnx.helper.make_tensor_value_info(output.name, onnx.TensorProto.FLOAT, shape))


def strip_metadata(model: onnx.ModelProto) -> None:
    """Takes away doc strings, stack traces and intermediate shapes, and gives initialisers and nodes names of their own."""
    model.producer_name, model.producer_version, model.doc_string, model.domain = "blastscope", "", "", ""
    model.graph.name, model.graph.doc_string = "blastscope", ""
    del model.graph.value_info[:]
    for part in (*model.graph.node, *model.graph.initializer, *model.graph.input, *model.graph.output):
        part.doc_string = ""
        del part.metadata_props[:]
    _rename(model.graph)


def _rename(graph: onnx.GraphProto) -> None:
    """Nodes in their order, initialisers in the order of their use: the tracer counts on from one export to the next."""
    used = [name for node in graph.node for name in node.input]
    weights = {weight.name for weight in graph.initializer}
    ordered = [name for name in dict.fromkeys(used) if name in weights]
    new = {name: f"weight_{number}" for number, name in enumerate(ordered)}
    kept = {value.name for value in (*graph.input, *graph.output)}
    for number, node in enumerate(graph.node):
        for output in node.output:
            if output and output not in kept:
                new[output] = f"{node.op_type.lower()}_{number}" if output == node.output[0] else f"{output}_{number}"
        node.name = f"{node.op_type}_{number}"
    for node in graph.node:
        node.input[:] = [new.get(name, name) for name in node.input]
        node.output[:] = [new.get(name, name) for name in node.output]
    by_name = {weight.name: weight for weight in graph.initializer}
    fresh = [onnx.TensorProto.FromString(by_name[name].SerializeToString()) for name in ordered]
    del graph.initializer[:]
    for weight in fresh:
        weight.name = new[weight.name]
        graph.initializer.append(weight)


@contextmanager
def silence_exporter() -> Iterator[None]:
    """The exporter says that it is the older one, the tracer that sizes become constants: both are meant.

    Where the exporter fails it would print the whole graph.
    """
    log = getattr(torch._C, "_jit_onnx_log", None)
    with warnings.catch_warnings():
        if log is not None:
            setattr(torch._C, "_jit_onnx_log", lambda *_: None)  # noqa: B010
        for category in (DeprecationWarning, FutureWarning, torch.jit._trace.TracerWarning):
            warnings.simplefilter("ignore", category)
        warnings.filterwarnings("ignore", category=UserWarning, module=r"torch\.onnx")
        try:
            yield
        finally:
            if log is not None:
                setattr(torch._C, "_jit_onnx_log", log)  # noqa: B010


@contextmanager
def static_padding() -> Iterator[None]:
    """Lets timm's TensorFlow-like padding trace as fixed numbers.

    It is computed from the feature map's size, which depends on the side alone; traced as it stands it becomes thirty small
    nodes before each strided convolution, which no engine folds.
    """
    patched = [module for name, module in list(sys.modules.items()) if name.startswith("timm.") and hasattr(module, "pad_same")]
    before: list[Any] = [module.pad_same for module in patched]
    try:
        for module in patched:
            setattr(module, "pad_same", _pad_same)  # noqa: B010
        yield
    finally:
        for module, function in zip(patched, before, strict=True):
            setattr(module, "pad_same", function)  # noqa: B010


def _pad_same(x: Tensor, kernel: Any, stride: Any, dilation: Any = (1, 1), value: float = 0) -> Tensor:
    pads: list[int] = []
    for axis in (1, 0):  # the last dimension comes first
        size, step = int(x.shape[-2 + axis]), int(stride[axis])
        reach = (int(kernel[axis]) - 1) * int(dilation[axis]) + 1
        total = max((-(-size // step) - 1) * step + reach - size, 0)
        pads += [total // 2, total - total // 2]
    return functional.pad(x, pads, value=value) if any(pads) else x


class Decision(NamedTuple):
    """What the fused graph says of each cell.

    Attributes
    ----------
    probabilities : Tensor
        (N, 3, 2) float32, voters a, b, combined, classes hem, all.
    label : Tensor
        (N,) int32, index into `CLASSES`.
    probability : Tensor
        (N,) float32, the deciding voter's, of the label.
    voter : Tensor
        (N,) int32 index into VOTERS.
    """

    probabilities: Tensor
    label: Tensor
    probability: Tensor
    voter: Tensor


class NoveltyDecision(NamedTuple):
    """The same from an ensemble that also says how far a cell is from the training's.

    Attributes
    ----------
    probabilities : Tensor
        (N, 3, 2) float32, voters a, b, combined, classes hem, all.
    label : Tensor
        (N,) int32, index into `CLASSES`.
    probability : Tensor
        (N,) float32, the deciding voter's, of the label.
    voter : Tensor
        (N,) int32, index into `VOTERS`.
    novelty : Tensor
        (N,) float32.
    answers : Tensor
        (N, 4, 2) float32: the probabilities, and in a fourth row the novelty twice.
    """

    probabilities: Tensor
    label: Tensor
    probability: Tensor
    voter: Tensor
    novelty: Tensor
    answers: Tensor


class NoveltyGraph(nn.Module):
    """A `TrunkEnsemble` with softmax, vote and novelty: crops (N, S, S, 3) uint8 to a `NoveltyDecision`."""

    def __init__(self, ensemble: TrunkEnsemble) -> None:
        super().__init__()
        self.ensemble = ensemble

    def forward(self, crops: Tensor) -> NoveltyDecision:
        """The decision on each crop, and its novelty."""
        logits, novelty = self.ensemble.judge(crops)
        decision = decide(logits)
        last = novelty.reshape(-1, 1, 1).expand(-1, 1, len(CLASSES))
        return NoveltyDecision(*decision, novelty, torch.cat([decision.probabilities, last], dim=1))


class FusedGraph(nn.Module):
    """An `Ensemble` with softmax and vote: crops (N, S, S, 3) uint8 to a `Decision`."""

    def __init__(self, ensemble: nn.Module) -> None:
        super().__init__()
        self.ensemble = ensemble

    def forward(self, crops: Tensor) -> Decision:
        """The decision on each crop."""
        return decide(self.ensemble(crops))


class SingleGraph(nn.Module):
    """One voter with softmax: crops (N, S, S, 3) uint8 to probabilities (N, 2) float32."""

    def __init__(self, voter: nn.Module) -> None:
        super().__init__()
        self.voter = voter

    def forward(self, crops: Tensor) -> Tensor:
        """The voter's probabilities of each crop."""
        return torch.softmax(self.voter(crops).float(), dim=1)


def decide(logits: Tensor) -> Decision:
    """Softmax and vote of `logits` (N, 3, 2). Equal margins: ALL before HEM, then a, b, combined.

    Written with operators that every engine has: no gather by a computed index, no sort.
    """
    logits = logits.float()
    probabilities = torch.softmax(logits, dim=2)
    margin = (logits[:, :, 1] - logits[:, :, 0]).clamp(-LARGEST_MARGIN, LARGEST_MARGIN)  # (N, 3), positive: ALL
    size = margin.abs()
    strongest = (size == size.amax(dim=1, keepdim=True)).float()
    malignant = (margin >= 0).float()
    # 2 for the strongest that say ALL, 1 for the strongest that say HEM, 0 for the rest; less a little for each place, so that
    # no two are equal and the largest is the first of equals, whatever an engine's argmax does with ties
    rank = strongest * (1 + malignant) - 0.125 * torch.arange(len(VOTERS), device=margin.device, dtype=torch.float32)
    chosen = (rank == rank.amax(dim=1, keepdim=True)).float()  # (N, 3), a single 1
    label = (chosen * malignant).sum(dim=1)
    pair = (chosen.unsqueeze(2) * probabilities).sum(dim=1)  # (N, 2), the deciding voter's
    probability = torch.where(label > 0.5, pair[:, 1], pair[:, 0])
    return Decision(probabilities, label.to(torch.int32), probability, rank.argmax(dim=1).to(torch.int32))


def make_graph(ensemble: AnyEnsemble, models: GraphModels) -> nn.Module:
    """The graph of all three voters (`fused`) or of one, in eval mode. It shares its weights with `ensemble`."""
    if models != "ensemble":
        return SingleGraph(ensemble.voter(models)).eval()
    return (NoveltyGraph(ensemble) if isinstance(ensemble, TrunkEnsemble) else FusedGraph(ensemble)).eval()


def output_names(graph: nn.Module) -> tuple[str, ...]:
    """Names of the outputs of what `make_graph` gives, in order."""
    if isinstance(graph, SingleGraph):
        return SINGLE_OUTPUTS
    return NOVELTY_OUTPUTS if isinstance(graph, NoveltyGraph) else FUSED_OUTPUTS
