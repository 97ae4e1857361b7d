"""The cache of a frozen trunk's features."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import numpy as np

from blastscope.runtime.io.cnmc import scan_dataset
from blastscope.runtime.io.synthetic import write_synthetic_dataset
from blastscope.train.config import TrainConfig
from blastscope.train.data_loader import cache_crops
from blastscope.train.progress import TrainingProgress
from blastscope.train.stages import FeatureTable, trunk_features
from blastscope.train.trunk import make_trunk_ensemble

CONFIG = TrainConfig.model_validate(
    {
        "network": {"backbone": "test_efficientnet", "weights": "none"},
        "crop": {"side_px": 32},
        "trunk": {"stages": [1, 2], "covariances": [1]},
        "compute": {"device": "cpu", "precision": "fp32"},
    }
)


def test_what_killed_trainings_left_in_the_cache_is_cleared(tmp_path: Path) -> None:
    folder = scan_dataset(write_synthetic_dataset(tmp_path / "cells", patients=2, cells_each=2, size_px=96))
    cache, trunk = tmp_path / "cache", make_trunk_ensemble(CONFIG)[0].trunk.eval()
    for attempt in range(2):
        trunk_features(cache_crops(folder, CONFIG.crop, cache), trunk, CONFIG, cache, TrainingProgress())
        kept = sorted(path.name for path in cache.iterdir())
        assert [name.partition("-")[0] for name in kept] == ["crops", "features"]
        for name in (*kept, "crops-0123", "features-0123.safetensors"):  # of these cells, and of others
            for kind in ("lock", *(["crops.lock"] if name.startswith("crops") else ["0.new"])):
                if not attempt:
                    (cache / f".{name}.{kind}").touch()


def test_features_that_were_damaged_are_computed_anew(tmp_path: Path) -> None:
    folder = scan_dataset(write_synthetic_dataset(tmp_path / "cells", patients=2, cells_each=2, size_px=96))
    store = cache_crops(folder, CONFIG.crop, tmp_path / "cache")
    trunk = make_trunk_ensemble(CONFIG)[0].trunk.eval()

    def computed() -> FeatureTable:
        return trunk_features(store, trunk, CONFIG, tmp_path / "cache", TrainingProgress())

    wanted = computed()
    (place,) = (tmp_path / "cache").glob("features-*.safetensors")
    content = place.read_bytes()
    place.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    again = computed()
    for name in ("features", "shape", "lightness"):
        np.testing.assert_array_equal(getattr(again, name), getattr(wanted, name))
    assert place.read_bytes() == content
    if os.name != "nt":
        assert stat.S_IMODE(place.stat().st_mode) == 0o600
    place.write_bytes(b"")
    computed()
    assert place.read_bytes() == content
