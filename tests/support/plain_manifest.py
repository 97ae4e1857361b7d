"""The manifest of a bundle with one graph, and the files that it lists."""

from __future__ import annotations

from typing import Any

from blastscope.runtime.bundle import Manifest, describe_file
from blastscope.runtime.bundle.manifest import GoldenEntry, GraphEntry, Patients, TrainingProvenance
from blastscope.runtime.crop.specification import CropSpecification

GRAPH, GOLDEN = "fp32/ensemble.onnx", "golden.safetensors"
FILES = {GRAPH: bytes(range(256)) * 40, GOLDEN: b"golden " * 30}


def provenance(**changed: Any) -> TrainingProvenance:
    values: dict[str, Any] = {"data_sha256": None, "split": "none", "seed": 0, "config": {}, "versions": {}}
    return TrainingProvenance(**{**values, "patients": Patients(training=(), validation=()), **changed})


def manifest(**changed: Any) -> Manifest:
    graph = GraphEntry(
        **dict(describe_file(FILES[GRAPH], GRAPH)), models="ensemble", precision="fp32", tolerances={"f32": 1e-4}
    )
    golden = GoldenEntry(**dict(describe_file(FILES[GOLDEN], GOLDEN)), count=1, source="drawn")
    values: dict[str, Any] = {
        "name": "c7",
        "created": "2026-11-23T01:00:00Z",
        "backbone": "tf_efficientnet_lite0",
        "crop": CropSpecification(),
    }
    return Manifest(**{**values, "graphs": (graph,), "golden": golden, "training": provenance(), **changed})
