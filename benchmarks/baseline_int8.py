"""The baselines' graphs: fp32, and int8 by ONNX Runtime's quantiser."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from filelock import FileLock

from blastscope.benchmarks.models import Contender, Tell, crops_for
from blastscope.benchmarks.schema import this_machine
from blastscope.runtime.bundle import read_bundle

CELLS = 8  # that set the ranges
VNNI = ("avx512_vnni", "avx_vnni", "amx_int8")


class PeerGraphs(NamedTuple):
    """Two ONNX files of the fused network."""

    fp32: Path
    int8: Path  # quantised by ONNX Runtime's tool, as its documentation advises for this CPU


def peer_graphs(contender: Contender, data: Path | None, tell: Tell) -> PeerGraphs:
    """The files of `contender`, made when they are first asked for: Inception-ResNet-v2 takes minutes."""
    place = (contender.cache or contender.run.parent) / "peers"
    place.mkdir(parents=True, exist_ok=True)
    bundle = read_bundle(contender.bundle)
    entry = bundle.graph("fp32") if contender.same_weights else None
    graphs = PeerGraphs(bundle.file(entry) if entry else place / "fp32.onnx", place / "int8.onnx")
    with FileLock(place / "lock"):
        for path, make in ((graphs.fp32, _export), (graphs.int8, _quantise)):
            if not path.exists():
                tell(f"{contender.name}: making the {path.stem} graph for the peers, once, in '{place}'")
                fresh = path.with_suffix(".new")
                make(contender, graphs, fresh, data)
                fresh.replace(path)
    return graphs


def _export(contender: Contender, graphs: PeerGraphs, out: Path, data: Path | None) -> None:
    from blastscope.export.config import ExportConfig
    from blastscope.export.onnx_writer import export_graphs
    from blastscope.train.ensemble_checkpoint import load_ensemble

    trained = load_ensemble(contender.run)
    crops = crops_for(trained.config.crop, data)[:CELLS]
    with TemporaryDirectory(dir=out.parent) as folder:
        files = export_graphs(trained.ensemble, "fused", crops, Path(folder), ExportConfig(precisions=("fp32",)))
        files[0].path.replace(out)


def _quantise(contender: Contender, graphs: PeerGraphs, out: Path, data: Path | None) -> None:
    """The steps of ONNX Runtime's page on quantisation: pre-process, calibrate, QDQ with unsigned activations.

    7 bits for weights where the CPU has no VNNI, since its sums of two products would saturate there.
    """
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    crops = crops_for(read_bundle(contender.bundle).manifest.crop, data)[:CELLS]
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
            reduce_range=not set(VNNI) & set(this_machine().features),
            nodes_to_exclude=_outside(prepared),  # normalisation and vote: in 8 bits the vote would mean nothing
        )


def _outside(graph: Path) -> list[str]:
    import onnx

    from blastscope.calibration.quantisation.qdq_placement import find_regions

    model = onnx.load(graph, load_external_data=False)
    inside = set(find_regions(model).networks)
    return [node.name for node in model.graph.node if node.name not in inside]
