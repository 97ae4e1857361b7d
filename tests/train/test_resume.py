"""A training that is killed at any moment goes on, and ends with the result of one that wasn't."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import load_file

from blastscope.runtime.errors import ConfigError, DataError
from blastscope.runtime.io.synthetic import write_synthetic_dataset
from blastscope.train.config import TrainConfig
from blastscope.train.network import VoterNetwork
from blastscope.train.pipeline import train_ensemble

TINY = {
    "data": {"validation_share": 0.3},
    "crop": {"side_px": 32},
    "network": {"backbone": "test_efficientnet", "weights": "none", "dropout": 0.2},
    "augment": {"stain": 0.3, "scale": 0.05},
    "stage1": {"epochs": 2, "batch_size": 8, "ema_decay": 0.8, "optimiser": "adamw"},
    "stage2": {"epochs": 2, "batch_size": 8, "hidden": 16, "augmented_copies": 1},
    "compute": {"device": "cpu", "precision": "fp32"},
}

# Imports once, then forks a child for each attempt and kills it after a random while, until one lives to the end.
KILLER = """
import json, os, random, select, signal, sys
from pathlib import Path
import lightning_fabric
from blastscope.train import pipeline
from blastscope.train.config import TrainConfig
from blastscope.train.backbone import import_timm
import_timm()
data, out, cache, config = sys.argv[1:]
pipeline._report = lambda *_: None
chance, kills = random.Random(7), 0
while True:
    child = os.fork()
    if child == 0:
        pipeline.train_ensemble(Path(data), TrainConfig.model_validate_json(config), Path(out), resume=True, cache=Path(cache))
        os._exit(0)
    handle = os.pidfd_open(child)  # can be read once the child has ended
    if select.select([handle], [], [], chance.uniform(0.05, 0.3 + 0.5 * kills))[0]:
        sys.exit(kills if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0 else 99)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    os.close(handle)
    kills += 1
"""


@pytest.fixture(scope="module")
def cells(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_synthetic_dataset(tmp_path_factory.mktemp("cells"), patients=6, cells_each=4, size_px=96)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def config() -> TrainConfig:
    return TrainConfig.model_validate(TINY)


@pytest.fixture(scope="module")
def whole(cells: Path, cache: Path, config: TrainConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing interrupted."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("blastscope.train.pipeline._report", lambda *_: None)
        return train_ensemble(cells, config, tmp_path_factory.mktemp("runs") / "whole", cache=cache)


def test_a_run_with_another_recorded_split_is_refused_unchanged(
    whole: Path, cells: Path, cache: Path, config: TrainConfig, tmp_path: Path
) -> None:
    out = tmp_path / "old"
    shutil.copytree(whole, out)
    record = json.loads((out / "run.json").read_text())
    parts = record["patients"]  # as when each id was split for itself
    moved = parts["training"].pop()
    parts["validation"] = sorted([*parts["validation"], moved])
    record["state"] = "running"
    (out / "run.json").write_text(json.dumps(record))
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file() and path.name != ".lock"}
    with pytest.raises(DataError, match="ids that are one person"):
        train_ensemble(cells, config, out, resume=True, cache=cache)
    assert {path: path.read_bytes() for path in before} == before


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork to start many children quickly")
def test_a_run_killed_at_random_moments_ends_like_one_that_was_not(
    whole: Path, cells: Path, cache: Path, config: TrainConfig, tmp_path: Path
) -> None:
    out = tmp_path / "killed"
    arguments = [str(cells), str(out), str(cache), config.model_dump_json()]
    done = subprocess.run([sys.executable, "-c", KILLER, *arguments], capture_output=True, text=True, timeout=300, check=False)
    assert 0 < done.returncode < 99, done.stderr[-3000:]  # how often it was killed
    for name in ("ensemble.safetensors", "validation.safetensors"):
        interrupted, uninterrupted = load_file(out / name), load_file(whole / name)
        assert interrupted.keys() == uninterrupted.keys()
        for key, tensor in uninterrupted.items():
            assert tensor == pytest.approx(interrupted[key], rel=1e-5, abs=1e-6), key  # the order of sums may differ
    histories = [json.loads((run / "history.json").read_text()) for run in (out, whole)]
    for ours, theirs in zip(*(history["a"] + history["b"] + history["combined"] for history in histories), strict=True):
        assert ours | {"seconds": 0} == pytest.approx(theirs | {"seconds": 0}, rel=1e-4)
    assert not list(out.rglob(".*"))  # no leftovers of broken writes


def test_a_folder_with_files_is_not_trained_into(whole: Path, cells: Path, config: TrainConfig, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is not empty: go on with --resume"):
        train_ensemble(cells, config, whole)
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(DataError, match=r"no run\.json: not a run to go on with"):
        train_ensemble(cells, config, tmp_path, resume=True)


def test_another_configuration_is_refused_by_the_name_of_what_differs(whole: Path, cells: Path, config: TrainConfig) -> None:
    other = config.model_copy(update={"stage1": config.stage1.model_copy(update={"lr": 0.5})})
    with pytest.raises(DataError, match=r"stage1\.lr was 0\.001, is 0\.5"):
        train_ensemble(cells, other, whole, resume=True)


def test_other_cells_are_refused(whole: Path, config: TrainConfig, tmp_path: Path) -> None:
    others = write_synthetic_dataset(tmp_path / "others", patients=6, cells_each=2, size_px=96, seed=5)
    with pytest.raises(DataError, match="the data: digest"):
        train_ensemble(others, config, whole, resume=True)


def test_more_threads_are_no_other_configuration(
    whole: Path, cells: Path, cache: Path, config: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("blastscope.train.pipeline._report", lambda *_: None)
    other = config.model_copy(update={"compute": config.compute.model_copy(update={"workers": 3})})
    before = (whole / "ensemble.safetensors").stat().st_mtime_ns
    train_ensemble(cells, other, whole, resume=True, cache=cache)  # finished: nothing to do
    assert (whole / "ensemble.safetensors").stat().st_mtime_ns == before


def test_a_network_that_cannot_be_built_is_an_error_before_cropping(
    cells: Path, config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("blastscope.train.data_loader.cache_crops", lambda *_, **__: pytest.fail("crops cells for nothing"))
    network = config.network.model_copy(update={"drop_path": 0.1, "backbone": "densenet121"})
    stage1 = config.stage1.model_copy(update={"frozen": ("nobody",)})
    for change, problem in (({"network": network}, "no stochastic depth"), ({"stage1": stage1}, "has no layer 'nobody'")):
        with pytest.raises(ConfigError, match=problem):
            train_ensemble(cells, config.model_copy(update=change), tmp_path / "out", cache=tmp_path)
    assert not (tmp_path / "out").exists()


def test_a_finished_run_needs_no_weights_to_start_from(
    whole: Path, cells: Path, config: TrainConfig, cache: Path, tmp_path: Path
) -> None:
    out = shutil.copytree(whole, tmp_path / "out")
    wanted = config.model_copy(update={"network": config.network.model_copy(update={"weights": str(tmp_path / "none")})})
    text = (out / "run.json").read_text().replace('"weights": "none"', f'"weights": {json.dumps(str(tmp_path / "none"))}')
    (out / "run.json").write_text(text)
    assert train_ensemble(cells, wanted, out, resume=True, cache=cache) == out


def test_only_a_run_that_begins_is_rehearsed(
    cells: Path, config: TrainConfig, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("blastscope.train.pipeline._report", lambda *_: None)
    seen: list[tuple[int, ...]] = []

    def rehearse(voter: VoterNetwork, crops: NDArray[np.uint8]) -> str:
        seen.append(crops.shape)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_ensemble(cells, config, tmp_path / "out", cache=cache, rehearse=rehearse)
    assert seen == [(2, 32, 32, 3)]
    train_ensemble(cells, config, tmp_path / "out", resume=True, cache=cache)
    train_ensemble(cells, config, tmp_path / "out", resume=True, cache=cache, rehearse=rehearse)
    assert len(seen) == 1
