"""The verbs that `breaking` disturbs, each on a small bundle of drawn cells, and how what they write is judged."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from safetensors.numpy import load_file
from trained_bundle import make_trained_bundle

from blastscope.calibration.calibrate import calibrate
from blastscope.calibration.config import CalibrationConfig
from blastscope.export.exporter import export_run
from blastscope.export.onnx_writer import ExportConfig
from blastscope.runtime.backends.tensorrt.engine_store import find_engine, obtain_engine
from blastscope.runtime.backends.tensorrt.key import EngineKey, engine_key, library_version
from blastscope.runtime.bundle import pack, read_bundle
from blastscope.runtime.bundle.opening import unpack
from blastscope.runtime.crop import CropSpecification
from blastscope.runtime.io.cnmc import scan_dataset
from blastscope.runtime.io.hashing import file_sha256
from blastscope.runtime.io.synthetic import synthetic_cell, write_synthetic_dataset
from blastscope.runtime.session import open_bundle
from blastscope.train import pipeline
from blastscope.train.config import TrainConfig
from blastscope.train.data_loader import cache_crops

SIDE_PX = 32
TRAINING = TrainConfig.model_validate(
    {
        "data": {"validation_share": 0.3},
        "crop": {"side_px": SIDE_PX},
        "network": {"backbone": "test_efficientnet", "weights": "none"},
        "stage1": {"epochs": 2, "batch_size": 8},
        "stage2": {"epochs": 2, "batch_size": 8, "hidden": 16, "augmented_copies": 1},
        "compute": {"device": "cpu", "precision": "fp32"},
    }
)
EXPORT = ExportConfig(precisions=("fp32",), parity_cells=8, golden_cells=8, drawn=True)
LENIENT = CalibrationConfig(method="minmax", cells=8, max_flip_rate=1.0, max_f1_drop_points=100, draws=20)
CLOSE = 1e-5  # the order of sums may differ


class Broken(Exception):
    """What was found is neither the old nor the new."""


def need(found: bool, told: str) -> None:
    """Raises `Broken` unless `found`."""
    if not found:
        raise Broken(told)


class Verb(NamedTuple):
    """One way to write, in a folder of its own. `base` holds what `prepare` made."""

    begin: Callable[[Path, Path], object]  # (base, place): lays down what stood before
    act: Callable[[Path, Path], object]  # the work
    check: Callable[[Path, Path], object]  # after a disturbance: raises unless all is old or all is new
    finish: Callable[[Path, Path], object]  # after an undisturbed end: raises unless the result is right


def prepare(base: Path) -> None:
    """Cells, a run, a bundle, a zip and answers, of which the verbs begin and with which they are compared."""
    data = write_synthetic_dataset(base / "data", patients=6, cells_each=4, size_px=96)
    pipeline.train_ensemble(data, TRAINING, base / "run", cache=base / "crops")
    made = make_trained_bundle(base / "trained")
    made.path.rename(base / "bundle")  # a run so short calls all cells alike, which is no bundle
    shutil.copytree(base / "bundle", base / "int8")
    calibrate(base / "int8", base / "trained" / "data", LENIENT)
    pack(read_bundle(base / "bundle"), base / "old.zip")
    pack(read_bundle(base / "int8"), base / "new.zip")
    np.save(base / "answer.npy", _answer(base, base / "cache"))


def _answer(base: Path, cache: Path) -> Any:
    with open_bundle(base / "bundle", device="cpu", cache_dir=cache, allow_ungated=True) as scope:
        return np.array(scope.classify(synthetic_cell(seed=3, size_px=96)).probabilities)


def _alone(place: Path, *names: str) -> None:
    left = sorted(path.name for path in place.iterdir() if path.name not in (*names, "cache"))
    need(not left, f"left behind: {left}")


def _train(base: Path, place: Path) -> None:
    pipeline.train_ensemble(base / "data", TRAINING, place / "run", resume=(place / "run").exists(), cache=place / "crops")


def _trained(base: Path, place: Path) -> None:
    ours, theirs = (load_file(run / "ensemble.safetensors") for run in (place / "run", base / "run"))
    need(ours.keys() == theirs.keys(), "other tensors than an undisturbed training's")
    for name, values in ours.items():
        need(np.allclose(values, theirs[name], rtol=1e-3, atol=CLOSE), f"{name} differs from an undisturbed training's")
    _alone(place, "crops", "run")


def _bundle_is_whole(base: Path, place: Path) -> None:
    read_bundle(place / "bundle")  # every digest is looked at


def _is_new(base: Path, place: Path) -> None:
    _bundle_is_whole(base, place)
    need(read_bundle(place / "bundle").digest != read_bundle(base / "bundle").digest, "the bundle is the old one")
    _alone(place, "bundle")


def _zip_is_whole(base: Path, place: Path) -> None:
    found = file_sha256(place / "c7.zip")
    need(found in [file_sha256(base / name) for name in ("old.zip", "new.zip")], "the zip is neither the old nor the new")


def _packed(base: Path, place: Path) -> None:
    need(file_sha256(place / "c7.zip") == file_sha256(base / "new.zip"), "the zip is not the new one")
    _alone(place, "c7.zip")


def _key(base: Path) -> tuple[Path, EngineKey]:
    bundle = read_bundle(base / "bundle")
    entry = bundle.graph("fp32")
    assert entry is not None
    return bundle.file(entry), engine_key(entry, "tensorrt-rtx", library_version("tensorrt-rtx"), targets=("sm86",))


def _unpack(base: Path, place: Path) -> None:
    unpack(base / "new.zip", place / "cache")


def _unpacked(base: Path, place: Path) -> None:
    found = [read_bundle(folder).digest for folder in (place / "cache" / "bundles").iterdir()]
    need(found == [read_bundle(base / "int8").digest], "the zip's bundle isn't in the cache, or not it alone")


def _build(base: Path, place: Path) -> None:
    obtain_engine(place / "cache", *_key(base))


def _built(base: Path, place: Path) -> None:
    need(find_engine(place / "cache", _key(base)[1]) is not None, "no engine is kept")


def _engine_is_whole(base: Path, place: Path) -> None:
    find_engine(place / "cache", _key(base)[1])  # gives out what has the right digest, or nothing


def _open(base: Path, place: Path) -> None:
    need(np.allclose(_answer(base, place / "cache"), np.load(base / "answer.npy"), atol=0.05), "another answer")


def _crop(base: Path, place: Path) -> None:
    cache_crops(scan_dataset(base / "data"), CropSpecification(side_px=SIDE_PX), place / "cache", workers=2)


def _cropped(base: Path, place: Path) -> None:
    ours, theirs = (next(folder.glob("crops-*/crops.npy")) for folder in (place / "cache", base / "crops"))
    need(ours.read_bytes() == theirs.read_bytes(), "other crops than an undisturbed training's")
    need(len(list((place / "cache").glob("crops-*"))) == 1, "more than one folder of crops")


def _nothing(base: Path, place: Path) -> None:
    """Nothing stood there, or the next attempt finds out."""


def _old_bundle(base: Path, place: Path) -> None:
    shutil.copytree(base / "bundle", place / "bundle")


VERBS = {
    "train": Verb(_nothing, _train, _nothing, _trained),
    "export": Verb(
        _old_bundle,
        lambda base, place: export_run(base / "trained" / "run", place / "bundle", config=EXPORT),
        _bundle_is_whole,
        _is_new,
    ),
    "calibrate": Verb(
        _old_bundle,
        lambda base, place: calibrate(place / "bundle", base / "trained" / "data", LENIENT),
        _bundle_is_whole,
        _is_new,
    ),
    "pack": Verb(
        lambda base, place: shutil.copy(base / "old.zip", place / "c7.zip"),
        lambda base, place: pack(read_bundle(base / "int8"), place / "c7.zip"),
        _zip_is_whole,
        _packed,
    ),
    "unpack": Verb(_nothing, _unpack, _nothing, _unpacked),
    "build": Verb(_nothing, _build, _engine_is_whole, _built),
    "open": Verb(_nothing, _open, _nothing, _nothing),
    "crop": Verb(_nothing, _crop, _nothing, _cropped),
}
