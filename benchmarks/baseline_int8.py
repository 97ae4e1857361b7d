"""The baselines' graphs: fp32, and int8 by ONNX Runtime's quantiser."""

from __future__ import annotations

import logging
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from filelock import FileLock

from blastscope.benchmarks.models import BenchmarkModel, sample_crops
from blastscope.benchmarks.schema import describe_machine
from blastscope.runtime.bundle import read_bundle

logger = logging.getLogger(__name__)

CALIBRATION_CELLS = 8  # that set the int8 ranges
VNNI_FEATURES = ("avx512_vnni", "avx_vnni", "amx_int8")


class BaselineGraphs(NamedTuple):
    """Two ONNX files of the fused network."""

    fp32: Path
    int8: Path  # quantised by ONNX Runtime's tool, as its documentation advises for this CPU


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
    graphs = BaselineGraphs(bundle.file(entry) if entry else folder / "fp32.onnx", folder / "int8.onnx")
    with FileLock(folder / "lock"):
        for path, make in ((graphs.fp32, _export_fp32), (graphs.int8, _quantise)):
            if not path.exists():
                logger.info("%s: making the %s graph for the baselines, once, in '%s'", model.name, path.stem, folder)
                temporary = path.with_suffix(".new")
                make(model, graphs, temporary, data)
                temporary.replace(path)
    return graphs


def _export_fp32(model: BenchmarkModel, graphs: BaselineGraphs, out: Path, data: Path | None) -> None:
    from blastscope.export.config import ExportConfig
    from blastscope.export.onnx_writer import export_graphs
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


def _nodes_outside_network(graph: Path) -> list[str]:
    import onnx

    from blastscope.calibration.quantisation.qdq_placement import find_regions

    loaded = onnx.load(graph, load_external_data=False)
    network = set(find_regions(loaded).networks)
    return [node.name for node in loaded.graph.node if node.name not in network]
