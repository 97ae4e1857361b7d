"""Benchmark bundles: networks with random weights in every precision, whose gate is waived, since no gate can judge them.

An engine is right when it predicts what another engine predicts with the same graph file. So the golden set holds crops whose
label is the same in every precision.
"""

from __future__ import annotations

import logging
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from numpy.typing import NDArray

from blastscope.calibration.acceptance.trial import LEAST_TOLERANCE, MARGIN
from blastscope.calibration.config import CalibrationConfig
from blastscope.calibration.evaluation import ReferenceRunner, signed_vote_margins
from blastscope.calibration.quantisation.quantizer import make_int8
from blastscope.export.exporter import golden_entry, write_export_bundle
from blastscope.export.onnx_export import make_graph
from blastscope.export.onnx_writer import ExportConfig, GraphFile, export_graphs, graph_path
from blastscope.export.parity import bf16_probabilities, max_difference, torch_probabilities
from blastscope.runtime.bundle import Bundle, Golden, describe_file
from blastscope.runtime.bundle.manifest import GraphEntry, Manifest
from blastscope.runtime.errors import EngineError
from blastscope.train.ensemble_checkpoint import TrainedEnsemble

logger = logging.getLogger(__name__)

GOLDEN_CROPS = 8
CALIBRATION_CROPS = 16  # that set the int8 ranges
CANDIDATE_CROPS = 24  # among which the golden set is chosen: each costs five passes


def make_benchmark_bundle(trained: TrainedEnsemble, crops: NDArray[np.uint8], out: Path) -> Bundle:
    """Writes a bundle of the fused graph in fp32, fp16 and int8, marked `gate: "waived"`.

    Parameters
    ----------
    trained
        Networks with random weights whose batch-norm statistics fit `crops`, as `random_ensemble` makes them.
    crops
        Uint8 (N, S, S, 3) RGB: the first 16 set the int8 ranges, and the golden set is chosen among the first 24.
    out
        Folder of the bundle.

    Returns
    -------
    Bundle
        The bundle, opened.

    Raises
    ------
    EngineError
        No crop has the same label in every precision.
    """
    with TemporaryDirectory(prefix="blastscope-") as folder:
        logger.info("exporting fp32 and fp16")
        files = export_graphs(trained.ensemble, "ensemble", crops[:CALIBRATION_CROPS], Path(folder), ExportConfig())
        logger.info("quantising to int8")
        int8_path = Path(folder) / graph_path("ensemble", "int8")
        int8_path.parent.mkdir()
        make_int8(files[0].path, int8_path, crops[:CALIBRATION_CROPS], CalibrationConfig(method="minmax"))
        logger.info("choosing the golden set")
        golden, int8_distance = _choose_golden(trained, crops[:CANDIDATE_CROPS], [*(file.path for file in files), int8_path])
        parent = files[0].entry
        entry = GraphEntry(
            **describe_file(int8_path, graph_path("ensemble", "int8")).model_dump(),
            models="ensemble",
            precision="int8",
            parent=parent.sha256,
            tolerances={"int8": min(max(MARGIN * int8_distance, LEAST_TOLERANCE), 1.0)},
            passes=parent.passes,
        )
        files.append(GraphFile(int8_path, entry))
        manifest = Manifest(
            name=f"benchmark {trained.config.network.backbone}"[:80],
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            backbone=trained.config.network.backbone,
            crop=trained.config.crop,
            gate="waived",
            graphs=tuple(file.entry for file in files),
            golden=golden_entry(golden, "drawn"),
            training=trained.provenance.for_manifest(),
        )
        return write_export_bundle(Path(out), manifest, files, golden)


def _choose_golden(trained: TrainedEnsemble, crops: NDArray[np.uint8], graphs: list[Path]) -> tuple[Golden, float]:
    """The crops with the same label and the largest margins in all graphs, and the last graph's largest error on them."""
    network = make_graph(trained.ensemble, "ensemble")
    reference = torch_probabilities(network, crops)
    predictions = [
        bf16_probabilities(network, crops),
        *(ReferenceRunner(path).probabilities(crops) for path in graphs),
    ]
    margins = np.stack([signed_vote_margins(found) for found in (reference, *predictions)])
    alike = (np.sign(margins) == np.sign(margins[0])).all(axis=0)
    rows = np.flatnonzero(alike)
    if not len(rows):
        raise EngineError("no crop has the same label in every precision: try other crops or another seed")
    clear = rows[np.argsort(-np.abs(margins[:, rows]).min(axis=0), kind="stable")][:GOLDEN_CROPS]
    golden = Golden(np.ascontiguousarray(crops[clear]), np.ascontiguousarray(reference[clear]))
    return golden, max_difference(predictions[-1][clear], reference[clear])
