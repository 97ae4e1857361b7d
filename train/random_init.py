"""`random_ensemble`: an untrained ensemble for benchmarks, with batch-norm statistics of real cells."""

from __future__ import annotations

from datetime import UTC, datetime

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from blastscope.runtime.bundle.manifest import Patients
from blastscope.train.config import TrainConfig
from blastscope.train.data_loader import seed_of
from blastscope.train.ensemble_checkpoint import AnyEnsemble, RunProvenance, TrainedEnsemble, empty_ensemble, installed_versions

RANDOM = "random weights: the calls mean nothing"


def random_ensemble(config: TrainConfig, crops: NDArray[np.uint8]) -> TrainedEnsemble:
    """An ensemble of `config`'s shape with random weights, the same for the same seed.

    Every batch-norm's running statistics are set on `crops` (N, S, S, 3), N at least 2: with the initial ones activations would
    grow or vanish layer by layer, which no trained network does, and int8 ranges would be nonsense.
    """
    if len(crops) < 2:
        raise ValueError("batch-norm statistics need two crops at least")
    torch.manual_seed(seed_of(config.seed))
    bare = config.model_copy(update={"network": config.network.model_copy(update={"weights": "none"})})
    ensemble = empty_ensemble(bare)
    set_batch_norm_statistics(ensemble, crops, config.compute.batch)
    provenance = RunProvenance(
        state="finished",
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        data_sha256=None,
        split="none",
        seed=config.seed,
        patients=Patients(training=(), validation=()),
        training_cells=0,
        validation=(),
        duplicates=0,
        refused=(),
        weights="random",
        versions=dict(installed_versions()),
        device="cpu",
        precision="32-true",
        seconds=0.0,
        notes=(RANDOM,),
        config=bare,
    )
    return TrainedEnsemble(ensemble.eval(), bare, provenance)


@torch.inference_mode()
def set_batch_norm_statistics(ensemble: AnyEnsemble, crops: NDArray[np.uint8], batch: int) -> None:
    """Replaces the running statistics of every batch-norm by the means over `crops`.

    Twice over the crops: the head's statistics are of features as backbones in eval mode give them.
    """
    ensemble.eval()
    backbones: list[nn.modules.batchnorm._BatchNorm] = []
    head: list[nn.modules.batchnorm._BatchNorm] = []
    for name, module in ensemble.named_modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.track_running_stats:
            (head if name.startswith("head.") else backbones).append(module)
    for group in (backbones, head):
        for module in group:
            module.reset_running_stats()
            module.momentum = None  # the plain mean over batches
            module.train()
        parts = max(1, len(crops) // max(2, batch))  # no part of one crop, which has no spread
        for part in np.array_split(crops, parts):
            ensemble(torch.from_numpy(np.ascontiguousarray(part)))
        for module in group:
            module.momentum = 0.1
            module.eval()
