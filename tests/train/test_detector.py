"""Training of the detector: pictures and targets, losses, leaving sources out, and a small run from files to a bundle."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from typer.testing import CliRunner

from blastscope import SHIPPED_BUNDLE, open_bundle
from blastscope.cli import app
from blastscope.runtime.bundle import read_bundle, update_bundle
from blastscope.runtime.errors import DataError, GoldenMismatch
from blastscope.runtime.frames.detection.detector import WHITE, decode_detections
from blastscope.runtime.frames.detection.loading import load_detector
from blastscope.runtime.frames.types import GROUPS as RUNTIME_GROUPS
from blastscope.train.detector.composites import drawn_cell, prepare_cell
from blastscope.train.detector.config import SHIPPED, DetectorConfig, HeadConfig, PictureConfig
from blastscope.train.detector.evaluation import DetectorReport
from blastscope.train.detector.fit import FINISHED, TargetBatch, fit, losses_of
from blastscope.train.detector.network import (
    BACKGROUND,
    BOX_UNIT,
    GAINS,
    Detector,
    DetectorHead,
    Targets,
    encode,
    white_balanced,
)
from blastscope.train.detector.pictures import Sample, draw_sample, drawn_picture, prepare
from blastscope.train.detector.pool import SAME_SOURCE, SOURCES, Shard, read_pool
from blastscope.train.detector.run import load_detector_run
from blastscope.train.detector.sources import GROUPS, RED, bccd_frames, pbc_cells, txl_frames
from blastscope.train.detector.stains import USUAL, random_nucleus, random_red, render, restain
from blastscope.train.detector.stress import NAMES
from blastscope.train.fit_checkpoint import read_tensors
from blastscope.train.progress import TrainingProgress

SMALL = """
[pool]
bccd = 2
raabin = 2
pbc = 2
pbc_cells = 2
cnmc = 2
drawn_cells = 4
shard = 2
[picture]
side_px = 96
[head]
channels = 8
depth = 1
ensemble_size = 2
[fit]
epochs = 1
batch_size = 2
"""
XML = "<object><name>{}</name><bndbox><xmin>{}</xmin><ymin>{}</ymin><xmax>{}</xmax><ymax>{}</ymax></bndbox></object>"


def picture(seed: int) -> NDArray[np.uint8]:
    return cv2.resize(drawn_picture(seed, (96, 128)), (640, 480)).astype(np.uint8)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Drawn pictures in the folders and tables of the real ones."""
    root = tmp_path_factory.mktemp("data")
    for folder in ("bccd/JPEGImages", "bccd/Annotations", "txl/raabin", "txl/pbc", "pbc/lymphocyte", "pbc/platelet"):
        (root / folder).mkdir(parents=True)
    for number, split in enumerate(("train", "val")):
        cv2.imwrite(str(root / f"bccd/JPEGImages/frame{number}.jpg"), picture(number))
        (root / f"bccd/Annotations/frame{number}.xml").write_text(
            f"<annotation>{XML.format('WBC', 100, 120, 260, 290)}{XML.format('RBC', 300, 120, 410, 230)}</annotation>"
        )
        (root / f"bccd/{split}.txt").write_text(f"frame{number}\n")
    rows = []
    for source in ("raabin", "pbc"):
        cv2.imwrite(str(root / f"txl/{source}/one.jpg"), picture(5))
        rows += [(f"txl/{source}/one.jpg".removeprefix("txl/"), 40 * n, 30, 40 * n + 80, 110, "rbc") for n in range(1, 5)]
        rows.append((f"{source}/one.jpg", 200, 150, 330, 300, "wbc"))
    with (root / "txl/boxes.csv").open("w", newline="") as stream:
        csv.writer(stream).writerows([("path", "x0", "y0", "x1", "y1", "label"), *rows])
    for kind in ("lymphocyte", "platelet"):
        cv2.imwrite(str(root / f"pbc/{kind}/one.jpg"), picture(7)[:363, :360])
    cells = root / "cnmc/C-NMC_training_data/fold_0/all"
    cells.mkdir(parents=True)
    cv2.imwrite(str(cells / "UID_1_1_1_all.bmp"), drawn_cell(3))
    return root


@pytest.fixture(scope="module")
def run(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of a detector that has learnt next to nothing."""
    folder = tmp_path_factory.mktemp("run")
    (folder / "small.toml").write_text(SMALL)
    out = folder / "run"
    done = CliRunner().invoke(app, ["train-detector", str(data), "--config", str(folder / "small.toml"), "--out", str(out)])
    assert done.exit_code == 0, done.output
    assert "raabin" in done.stdout
    return out


def sample(seed: int, *, white: bool = True) -> Sample:
    config = PictureConfig()
    cells = [prepare_cell(drawn_cell(number), config) for number in range(4)] if white else []
    rng = np.random.default_rng(seed)
    while True:
        found = draw_sample(None, cells or [prepare_cell(drawn_cell(1), config)], config, rng)
        if len(found.boxes.labels) and (found.boxes.labels == WHITE).any():
            return found


def test_the_shipped_recipe_is_the_default() -> None:
    assert DetectorConfig.from_toml(SHIPPED) == DetectorConfig()


def test_groups_are_those_of_the_runtime() -> None:
    assert GROUPS == RUNTIME_GROUPS


@pytest.mark.parametrize("seed", range(6))
def test_boxes_of_a_picture_lie_in_it_and_targets_peak_in_them(seed: int) -> None:
    drawn = sample(seed)
    side = drawn.picture.shape[0]
    corners = drawn.boxes.corners
    assert (corners >= 0).all()
    assert (corners <= side).all()
    heat = encode(drawn).heat[0]
    for box, label in zip(corners, drawn.boxes.labels, strict=True):
        if min(box[2] - box[0], box[3] - box[1]) >= 2:
            x, y = (int(v) for v in np.minimum((box[:2] + box[2:]) / 2 / 8, side // 8 - 1))
            assert heat[label, max(y - 1, 0) : y + 2, max(x - 1, 0) : x + 2].max() > 0.99


def test_maps_that_are_the_targets_give_back_the_boxes() -> None:
    drawn = sample(1)
    targets = encode(drawn)
    groups = np.full((1, 3, *targets.heat.shape[2:]), 1 / 3, np.float32)
    maps = np.concatenate([targets.heat, targets.box, groups], axis=1)[0].astype(np.float32)
    found = decode_detections(maps, WHITE, 0.9)
    wanted = drawn.boxes.corners[drawn.boxes.labels == WHITE]
    near = np.abs(found.boxes[:, None] - wanted[None]).max(axis=2).min(axis=1)
    assert len(found.boxes)
    assert near.max() < 0.6  # half floats


def test_losses_of_perfect_maps_are_small_and_of_empty_ones_large() -> None:
    targets = encode(sample(2))
    batch = TargetBatch(*(torch.from_numpy(np.asarray(a, np.float32) if a.dtype == np.float16 else a) for a in targets))
    heat = torch.logit(batch.heat.clamp(1e-5, 1 - 1e-5))
    reach = (batch.box.clamp(min=0.5) / BOX_UNIT).log()
    perfect = torch.cat([heat, reach, torch.zeros(1, 3, *heat.shape[2:])], dim=1)
    empty = torch.cat([torch.full_like(heat, -8), torch.zeros_like(reach), torch.zeros(1, 3, *heat.shape[2:])], dim=1)
    good, bad = losses_of(perfect, batch), losses_of(empty, batch)
    assert good.box < 0.05
    assert good.heat < 0.2 * bad.heat


def test_restaining_moves_both_stains_to_the_colours_asked_for() -> None:
    rng = np.random.default_rng(0)
    red = random_red(rng)
    nucleus = random_nucleus(rng, red)
    dense = np.stack([USUAL.red, USUAL.nucleus, 0.5 * USUAL.red])[None]
    moved = restain(dense, USUAL, red, nucleus)[0]
    np.testing.assert_allclose(moved, [red, nucleus, 0.5 * red], atol=1e-5)
    assert (nucleus - red)[:2].sum() >= 0.49
    assert render(np.zeros((1, 1, 3), np.float32), USUAL.glass).tolist() == [[[235, 225, 215]]]


def test_no_picture_of_a_source_that_is_left_out_is_read(run: Path) -> None:
    config = DetectorConfig.from_toml(run.parent / "small.toml")
    for left_out, without in SAME_SOURCE.items():
        assert sorted(source for source, _ in read_pool(config, run / "pool", left_out)) == sorted(set(SOURCES) - {*without})
    assert "pbc_cells" in SAME_SOURCE["pbc"]  # they share pictures


def test_left_out_sources_are_judged_under_every_change_too(run: Path) -> None:
    report = DetectorReport.model_validate_json((run / "report/report.json").read_bytes())
    page = (run / "report/index.html").read_text("utf-8")
    for source in report.sources:
        assert [change.name for change in source.stress] == (list(NAMES) if source.left_out else [])
        assert all(change.frames == 1 for change in source.stress)  # of so few frames, the first
    assert all(f"<td>{name}</td>" in page for name in NAMES)


def test_frames_are_scaled_by_their_red_cells(data: Path) -> None:
    (frame,) = txl_frames(data / "txl", "raabin")
    assert frame.red_cell_px == 80
    assert (frame.labels == RED).sum() == 4
    prepared = prepare(frame, PictureConfig())
    assert prepared.picture.shape[1] == round(640 * 28 * 1.7 / 80)


def test_types_of_single_cells_are_groups_and_platelets_are_none(data: Path) -> None:
    assert [(frame.group, frame.single) for frame in pbc_cells(data / "pbc")] == [(0, True), (None, True)]


def test_data_without_its_tables_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"train\.txt"):
        bccd_frames(tmp_path, "train")


def shard(seed: int) -> Shard:
    rng = np.random.default_rng(seed)
    fine, coarse = rng.normal(size=(4, 6, 12, 12)), rng.normal(size=(4, 5, 6, 6))
    targets = [encode(sample(number)) for number in range(4)]
    cut = Targets(*(np.concatenate([part[field] for part in targets])[..., :12, :12] for field in range(5)))
    return Shard(fine.astype(np.float16), coarse.astype(np.float16), cut)


def test_a_fit_that_was_broken_off_ends_as_one_that_was_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = DetectorConfig.model_validate({"fit": {"epochs": 2, "batch_size": 2}, "head": {"channels": 8, "depth": 1}})

    def head() -> DetectorHead:
        torch.manual_seed(0)
        return DetectorHead((6, 5), HeadConfig(channels=8, depth=1))

    class Stopped(Exception):
        pass

    class StopsAfterOne(TrainingProgress):
        def say(self, text: str) -> None:
            if "1/2" not in text:
                raise Stopped

    fit(head(), [shard(0)], config, tmp_path / "whole", TrainingProgress(), name="x")
    with pytest.raises(Stopped):
        fit(head(), [shard(0)], config, tmp_path / "broken", StopsAfterOne(), name="x")
    fit(head(), [shard(0)], config, tmp_path / "broken", TrainingProgress(), name="x")
    whole, broken = (read_tensors(tmp_path / name / FINISHED)[0] for name in ("whole", "broken"))
    for name, tensor in whole.items():
        torch.testing.assert_close(broken[name], tensor)


def test_a_run_goes_on_only_with_its_own_configuration(run: Path, data: Path, tmp_path: Path) -> None:
    again = CliRunner().invoke(app, ["train-detector", str(data), "--out", str(run)])
    assert again.exit_code == 2
    other = CliRunner().invoke(app, ["train-detector", str(data), "--out", str(run), "--resume"])
    assert other.exit_code == 2
    assert "another configuration" in other.stderr


def test_an_ensembles_heads_are_trained_with_seeds_of_their_own(run: Path) -> None:
    for name in ("head", "without-bccd"):
        first, second = (read_tensors(run / folder / FINISHED)[0] for folder in (name, f"{name}-2"))
        assert not torch.equal(first["out.weight"], second["out.weight"])
        assert (run / name / "scores.json").is_file()
    assert len(load_detector_run(run).network.heads) == 2
    assert not (run / "head-3").exists()


def test_a_run_that_was_broken_off_trains_the_missing_heads_alone(run: Path, data: Path, tmp_path: Path) -> None:
    broken = tmp_path / "run"
    shutil.copytree(run, broken)
    shutil.rmtree(broken / "head-2")
    shutil.rmtree(broken / "report")
    with pytest.raises(DataError, match="isn't finished"):
        load_detector_run(broken)
    kept = broken / "head" / FINISHED
    before = kept.stat().st_mtime_ns
    words = ["train-detector", str(data), "--config", str(run.parent / "small.toml"), "--out", str(broken), "--resume"]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    assert kept.stat().st_mtime_ns == before
    mended, whole = (read_tensors(folder / "head-2" / FINISHED)[0] for folder in (broken, run))
    for name, tensor in whole.items():
        torch.testing.assert_close(mended[name], tensor)


def test_an_earlier_versions_run_has_one_head_and_no_white_balance(run: Path, tmp_path: Path) -> None:
    earlier = tmp_path / "run"
    shutil.copytree(run, earlier, ignore=shutil.ignore_patterns("pool", "*-2"))
    for name, keys in (("run.json", ("config",)), ("report/report.json", ("run", "config"))):
        record = inner = json.loads((earlier / name).read_text("utf-8"))
        for key in keys:
            inner = inner[key]
        del inner["head"]["ensemble_size"]
        del inner["picture"]["white_balance"]
        (earlier / name).write_text(json.dumps(record), "utf-8")
    assert load_detector_run(run).network.trunk.white_balance
    network = load_detector_run(earlier).network
    assert not network.trunk.white_balance
    (head,) = network.heads
    for name, tensor in read_tensors(run / "head" / FINISHED)[0].items():
        torch.testing.assert_close(head.state_dict()[name], tensor)


def test_white_balance_brings_channels_to_one_level_within_its_gains() -> None:
    picture = drawn_picture(7, (64, 48)).astype(np.float64)
    for light in ((0.8, 0.6, 0.9), (1.0, 1.0, 1.0), (0.1, 0.7, 0.2)):  # the last one is darker than it may be lifted
        lit = picture * light
        levels = np.mean(lit**6, axis=(0, 1)) ** (1 / 6)
        expected = np.minimum(lit * np.clip(BACKGROUND / levels, *GAINS), 255)
        balanced = white_balanced(torch.from_numpy(lit).float().permute(2, 0, 1)[None])
        np.testing.assert_allclose(balanced[0].permute(1, 2, 0).numpy(), expected, rtol=1e-4, atol=1e-3)
    black = white_balanced(torch.zeros((1, 3, 16, 16)))
    assert black.abs().max() == 0


def test_an_ensemble_has_at_least_one_head() -> None:
    for size in (0, 9):
        with pytest.raises(ValueError, match="ensemble_size"):
            HeadConfig(ensemble_size=size)


def test_a_run_becomes_a_bundles_detector_that_both_backends_answer_alike(run: Path, tmp_path: Path) -> None:
    bundle = tmp_path / "bundle"
    shutil.copytree(SHIPPED_BUNDLE, bundle)
    done = CliRunner().invoke(app, ["add-detector", str(bundle), "--run", str(run)])
    assert done.exit_code == 0, done.output
    found = read_bundle(bundle)
    assert found.manifest.detector is not None
    frame = drawn_picture(3, (96, 128))
    maps = []
    for backend in ("openvino", "onnxruntime"):
        detector = load_detector(found, backend=backend, threads=1)
        assert detector is not None
        maps.append(detector.network.infer(frame))
        detector.network.close()
    np.testing.assert_allclose(maps[0][:3], maps[1][:3], atol=1e-3)
    with open_bundle(bundle) as scope:
        report = scope.examine(frame)
    assert report.refusal is None


def test_a_detector_that_answers_otherwise_is_refused(run: Path, tmp_path: Path) -> None:
    bundle = tmp_path / "bundle"
    shutil.copytree(SHIPPED_BUNDLE, bundle)
    assert CliRunner().invoke(app, ["add-detector", str(bundle), "--run", str(run)]).exit_code == 0
    found = read_bundle(bundle)
    entry = found.manifest.detector
    assert entry is not None
    strict = found.manifest.model_copy(update={"detector": entry.model_copy(update={"tolerance": 0.0})})
    broken = type(found)(found.path, strict, found.digest)
    # a tolerance of nothing at all: PyTorch and OpenVINO round differently
    with pytest.raises(GoldenMismatch, match="differs from the trained detector"):
        load_detector(broken, backend="openvino", threads=1)


def test_a_detector_is_copied_from_another_bundle(tmp_path: Path) -> None:
    bundle, without = tmp_path / "bundle", tmp_path / "without"
    shutil.copytree(SHIPPED_BUNDLE, without)
    shipped = read_bundle(without)
    plain = update_bundle(shipped, shipped.manifest.model_copy(update={"detector": None}), {})
    shutil.copytree(without, bundle)
    done = CliRunner().invoke(app, ["add-detector", str(bundle), "--from", str(SHIPPED_BUNDLE)])
    assert done.exit_code == 0, done.output
    found, wanted = read_bundle(bundle), read_bundle(SHIPPED_BUNDLE)
    assert found.manifest.detector == wanted.manifest.detector
    assert found.manifest.detector is not None
    assert found.read(found.manifest.detector.graph) == wanted.read(found.manifest.detector.graph)
    refused = CliRunner().invoke(app, ["add-detector", str(bundle), "--from", str(plain.path)])
    assert refused.exit_code == 3
    assert "has no detector" in refused.stderr
    assert CliRunner().invoke(app, ["add-detector", str(bundle)]).exit_code == 2


def test_the_network_takes_any_size_that_halves_four_times(run: Path) -> None:
    network: Detector = load_detector_run(run).network
    with torch.inference_mode():
        maps = network(torch.zeros((1, 64, 96, 3), dtype=torch.uint8))
    assert maps.shape == (1, 10, 8, 12)
    assert (maps[:, 3:7] > 0).all()


def test_missing_data_leave_no_folder_behind(tmp_path: Path) -> None:
    (tmp_path / "small.toml").write_text(SMALL)
    words = [
        "train-detector",
        str(tmp_path / "nothing"),
        "--out",
        str(tmp_path / "out"),
        "--config",
        str(tmp_path / "small.toml"),
    ]
    result = CliRunner().invoke(app, words)
    assert (result.exit_code, result.stdout) == (2, "")
    assert "must hold bccd/, txl/, pbc/ and cnmc/" in result.stderr
    assert not (tmp_path / "out").exists()


def test_a_folder_that_is_no_run_is_named_once(tmp_path: Path) -> None:
    (tmp_path / "bundle").symlink_to(SHIPPED_BUNDLE)
    result = CliRunner().invoke(app, ["add-detector", str(tmp_path / "bundle"), "--run", str(tmp_path / "nothing")])
    assert result.exit_code == 2
    assert result.stderr == f"blastscope: '{tmp_path / 'nothing'}': no run.json: not the folder of a run of 'train-detector'\n"
