"""A small ensemble with clear calls, without training: random backbones whose last layers are solved for the labels."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import torch

from blastscope.calibration.calibration_data import crop_cells
from blastscope.export.exporter import export_run
from blastscope.export.onnx_writer import ExportConfig
from blastscope.runtime.bundle.manifest import Patients
from blastscope.runtime.io.cnmc import scan_dataset
from blastscope.runtime.io.synthetic import write_synthetic_dataset
from blastscope.runtime.types import CLASSES
from blastscope.train.config import TrainConfig
from blastscope.train.ensemble_checkpoint import TrainedEnsemble, ValidationCell, random_ensemble, save_ensemble

TRAINING, VALIDATION = ("H1", "2"), ("H3", "4", "H5", "6")


class TrainedBundle(NamedTuple):
    """A bundle in fp32, fused and single graphs, and the drawn cells that it was made from."""

    path: Path
    data: Path

    @classmethod
    def below(cls, place: Path) -> TrainedBundle:
        """The one that `make_trained_bundle` made there."""
        return cls(place / "bundle", place / "data")


def make_trained_bundle(place: Path) -> TrainedBundle:
    """Made below `place`, with one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        made = TrainedBundle.below(place)
        write_synthetic_dataset(made.data, patients=6, cells_each=8, size_px=160)
        save_ensemble(place / "run", trained_networks(made.data))
        config = ExportConfig(precisions=("fp32",), parity_cells=8, golden_cells=8)
        export_run(place / "run", made.path, data=made.data, config=config)
        return made
    finally:
        torch.set_num_threads(threads)


def trained_networks(folder: Path, *, backbone: str = "test_resnet", side_px: int = 32) -> TrainedEnsemble:
    """Random backbones whose last layers are solved for the labels of the cells below `folder`: clear calls, no training."""
    config = TrainConfig.model_validate(
        {"network": {"backbone": backbone, "weights": "none"}, "crop": {"side_px": side_px}, "stage2": {"hidden": 16}}
    )
    cells = scan_dataset(folder).cells
    sample = crop_cells(cells, config.crop)
    trained = random_ensemble(config, sample.crops)
    ensemble = trained.ensemble
    crops = torch.from_numpy(sample.crops)
    wanted = torch.tensor([[-2.0, 2.0] if CLASSES.index(cell.label) else [2.0, -2.0] for cell in sample.cells])
    with torch.no_grad():
        features = [voter.backbone(voter.normalise(crops)) for voter in (ensemble.a, ensemble.b)]
        hidden = ensemble.head.layers[:-1](
            torch.cat([ensemble.head.norm_a(features[0]), ensemble.head.norm_b(features[1])], dim=1)
        )
        for layer, seen in zip(
            (ensemble.a.classify, ensemble.b.classify, ensemble.head.layers[-1]), (*features, hidden), strict=True
        ):
            wide = torch.cat([seen, torch.ones(len(seen), 1)], dim=1).double()
            ridge = wide.T @ wide + 1e-2 * torch.eye(wide.shape[1]).double()
            solved = torch.linalg.solve(ridge, wide.T @ wanted.double()).float()
            layer.weight.copy_(solved[:-1].T)
            layer.bias.copy_(solved[-1])
    known = tuple(
        ValidationCell(file=cell.path.name, label=cell.label, patient=cell.patient)
        for cell in cells
        if cell.patient in VALIDATION
    )
    facts = {"split": "patient", "patients": Patients(training=TRAINING, validation=VALIDATION), "validation": known}
    return TrainedEnsemble(ensemble, trained.config, trained.provenance.model_copy(update=facts))
