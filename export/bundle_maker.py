"""`export_run`: a training run in, a bundle with fp32 and fp16 graphs out."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

from blastscope.calibration.opened import check_beside
from blastscope.export.check_crops import cells_to_check
from blastscope.export.config import ExportConfig
from blastscope.export.golden_set import choose_golden
from blastscope.export.graph import graph_of
from blastscope.export.graph_files import GraphFile, export_graphs
from blastscope.export.parity import torch_answers
from blastscope.runtime.bundle import Bundle, describe_file, golden_bytes, write_bundle
from blastscope.runtime.bundle.golden import Golden
from blastscope.runtime.bundle.manifest import GoldenEntry, GraphModels, Manifest, TrainingProvenance
from blastscope.runtime.bundle.pack import check_bundle_place
from blastscope.runtime.classes import VOTERS
from blastscope.train.checkpoint import RunProvenance, load_ensemble

GOLDEN_FILE = "golden.safetensors"
Tell = Callable[[str], None]


def export_run(
    run: Path, out: Path, *, data: Path | None = None, config: ExportConfig | None = None, tell: Tell | None = None
) -> Bundle:
    """The bundle at `out` of the ensemble in the folder `run`, each graph checked against PyTorch.

    Golden set and check are made on validation cells found below `data`; on drawn cells without `data`, when the
    configuration asks for it, and when the run kept no cells for validation. Raises `DataError` for a run or data that don't
    serve, `EngineError` where a graph and PyTorch disagree. `tell` hears what is being done.
    """
    config = config or ExportConfig()
    say = tell or (lambda _: None)
    check_bundle_place(Path(out))
    check_beside(Path(out))
    trained = load_ensemble(run)
    checked = cells_to_check(trained, data, config, say)
    answers = torch_answers(graph_of(trained.ensemble, "fused"), checked.crops)
    where = Path(run) if data is None else Path(data)
    golden = choose_golden(checked.crops, answers, count=config.golden_cells, seed=config.seed, source=where)
    models: tuple[GraphModels, ...] = ("fused",) if config.fused_only else ("fused", *VOTERS)
    with TemporaryDirectory(prefix="blastscope-") as folder:
        files: list[GraphFile] = []
        for name in models:
            say(f"exporting {name}")
            files += export_graphs(trained.ensemble, name, checked.crops[: config.parity_cells], Path(folder), config)
        manifest = Manifest(
            name=config.name or Path(run).resolve().name[:80] or "run",
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            backbone=trained.config.network.backbone,
            crop=trained.config.crop,
            graphs=tuple(file.entry for file in files),
            golden=golden_entry(golden, checked.source),
            training=training_provenance(trained.provenance),
        )
        return bundle_of(Path(out), manifest, files, golden)


def golden_entry(golden: Golden, source: Literal["drawn", "validation"]) -> GoldenEntry:
    """The manifest's entry of `golden`."""
    return GoldenEntry(**describe_file(golden_bytes(golden), GOLDEN_FILE).model_dump(), count=len(golden.crops), source=source)


def training_provenance(run: RunProvenance) -> TrainingProvenance:
    """What the manifest says of the training."""
    return TrainingProvenance(
        data_sha256=run.data_sha256,
        split=run.split,
        seed=run.seed,
        config=run.config.model_dump(mode="json"),
        versions=run.versions,
        patients=run.patients,
    )


def bundle_of(out: Path, manifest: Manifest, files: list[GraphFile], golden: Golden) -> Bundle:
    """Writes the bundle of `files` and `golden` at `out`."""
    sources: dict[str, Path | bytes] = {file.entry.file: file.path for file in files}
    return write_bundle(out, manifest, {**sources, manifest.golden.file: golden_bytes(golden)})
