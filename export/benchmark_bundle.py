"""Benchmark bundles: networks with random weights in every precision, whose gate is waived, since no gate can judge them.

Right then means: as another engine answers to the same graph file. So the golden set holds crops that every graph calls alike.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from numpy.typing import NDArray

from blastscope.calibration.acceptance.drift_metric import leads
from blastscope.calibration.acceptance.evaluation import GraphAnswers
from blastscope.calibration.acceptance.trial import LEAST_TOLERANCE, MARGIN
from blastscope.calibration.config import CalibrationConfig
from blastscope.calibration.quantisation.quantizer import make_int8
from blastscope.export.config import ExportConfig
from blastscope.export.exporter import bundle_of, golden_entry, training_provenance
from blastscope.export.onnx_export import graph_of
from blastscope.export.onnx_writer import GraphFile, export_graphs, graph_path
from blastscope.export.parity import bf16_answers, distance, torch_answers
from blastscope.runtime.bundle import Bundle, Golden, describe_file
from blastscope.runtime.bundle.manifest import GraphEntry, Manifest
from blastscope.runtime.errors import EngineError
from blastscope.train.ensemble_checkpoint import TrainedEnsemble

GOLDEN = 8
RANGES = 16  # crops that set the int8 ranges
CANDIDATES = 24  # crops among which the golden set is chosen: each costs five passes


def waived_bundle(
    trained: TrainedEnsemble, crops: NDArray[np.uint8], out: Path, *, tell: Callable[[str], None] | None = None
) -> Bundle:
    """A bundle at `out` of the fused graph in fp32, fp16 and int8, marked `gate: "waived: benchmark"`.

    For networks with random weights whose batch-norm statistics fit `crops` (N, S, S, 3), as `random_ensemble` makes them.
    """
    say = tell or (lambda _: None)
    with TemporaryDirectory(prefix="blastscope-") as folder:
        say("exporting fp32 and fp16")
        files = export_graphs(trained.ensemble, "fused", crops[:RANGES], Path(folder), ExportConfig())
        say("quantising to int8")
        small = Path(folder) / graph_path("fused", "int8")
        small.parent.mkdir()
        make_int8(files[0].path, small, crops[:RANGES], CalibrationConfig(method="minmax"))
        say("choosing the golden set")
        golden, int8 = _golden(trained, crops[:CANDIDATES], [*(file.path for file in files), small])
        parent = files[0].entry
        entry = GraphEntry(
            **describe_file(small, graph_path("fused", "int8")).model_dump(),
            models="fused",
            precision="int8",
            parent=parent.sha256,
            tolerances={"int8": min(max(MARGIN * int8, LEAST_TOLERANCE), 1.0)},
            passes=parent.passes,
        )
        files.append(GraphFile(small, entry))
        manifest = Manifest(
            name=f"benchmark {trained.config.network.backbone}"[:80],
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            backbone=trained.config.network.backbone,
            crop=trained.config.crop,
            gate="waived: benchmark",
            graphs=tuple(file.entry for file in files),
            golden=golden_entry(golden, "drawn"),
            training=training_provenance(trained.provenance),
        )
        return bundle_of(Path(out), manifest, files, golden)


def _golden(trained: TrainedEnsemble, crops: NDArray[np.uint8], graphs: list[Path]) -> tuple[Golden, float]:
    """The crops that all graphs call alike and most clearly, and how far the last graph's answers to them are off."""
    network = graph_of(trained.ensemble, "fused")
    reference = torch_answers(network, crops)
    answers = [
        bf16_answers(network, crops),
        *(GraphAnswers(path).probabilities(crops) for path in graphs),
    ]
    all_leads = np.stack([leads(found) for found in (reference, *answers)])
    alike = (np.sign(all_leads) == np.sign(all_leads[0])).all(axis=0)
    rows = np.flatnonzero(alike)
    if not len(rows):
        raise EngineError("no crop is called alike in every precision: try other crops or another seed")
    clear = rows[np.argsort(-np.abs(all_leads[:, rows]).min(axis=0), kind="stable")][:GOLDEN]
    golden = Golden(np.ascontiguousarray(crops[clear]), np.ascontiguousarray(reference[clear]))
    return golden, distance(answers[-1][clear], reference[clear])
