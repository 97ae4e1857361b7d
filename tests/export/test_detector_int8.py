"""The detector in int8: made, admitted or refused, told of, and left alone where a CPU is no faster with it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from blastscope import SHIPPED_BUNDLE
from blastscope.cli import app
from blastscope.export import detector_int8
from blastscope.runtime.bundle import read_bundle, update_bundle
from blastscope.runtime.evaluation.detection import match_boxes
from blastscope.runtime.frames.detection import loading
from blastscope.runtime.frames.detection.loading import load_detector
from blastscope.train.detector.sources import bccd_frames, read_rgb


@pytest.fixture(scope="module")
def few_frames(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The real frames, but BCCD's held-out ones only a few."""
    root, real = tmp_path_factory.mktemp("frames"), shared_data
    (root / "txl").symlink_to(real / "txl")
    (root / "bccd").mkdir()
    for name in ("JPEGImages", "Annotations", "train.txt"):
        (root / "bccd" / name).symlink_to(real / "bccd" / name)
    names = (real / "bccd" / "val.txt").read_text("utf-8").split()
    (root / "bccd" / "val.txt").write_text("\n".join(names[:8]), "utf-8")
    return root


def without_int8(folder: Path) -> Path:
    """A copy of the shipped bundle whose detector is fp32 alone."""
    shutil.copytree(SHIPPED_BUNDLE, folder)
    found = read_bundle(folder)
    assert found.manifest.detector is not None
    detector = found.manifest.detector.model_copy(update={"int8": None})
    update_bundle(found, found.manifest.model_copy(update={"detector": detector}), {})
    return folder


def test_an_int8_detector_is_admitted_where_it_finds_the_same_cells(
    few_frames: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(detector_int8, "MOST_FRAMES", 40)  # of few one cell more or less decides
    bundle = without_int8(tmp_path / "bundle")
    done = CliRunner().invoke(app, ["calibrate-detector", str(bundle), "--data", str(few_frames), "--json"])
    assert done.exit_code == 0, done.output
    told, entry = json.loads(done.stdout), read_bundle(bundle).manifest.detector
    assert entry is not None
    assert entry.int8 is not None
    assert [gate["engine"] for gate in told["gates"]] == ["openvino", "onnxruntime"]
    assert {gate["frames"] for gate in told["gates"]} == {128}
    assert entry.int8.gate.model_dump() in told["gates"]
    assert entry.int8.pictures == detector_int8.PICTURES
    assert entry.int8.graph.size < entry.graph.size / 3


def test_an_int8_detector_that_answers_otherwise_is_refused(
    few_frames: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"PICTURES": 3, "MOST_FRAMES": 1, "MOST_TOLERANCE": 0.0}.items():
        monkeypatch.setattr(detector_int8, name, value)
    bundle = without_int8(tmp_path / "bundle")
    before = read_bundle(bundle).digest
    done = CliRunner().invoke(app, ["calibrate-detector", str(bundle), "--data", str(few_frames)])
    assert done.exit_code == 1
    assert "refused: the bundle is as it was" in done.stdout
    assert read_bundle(bundle).digest == before


def test_calibrating_a_detector_says_what_is_missing(tmp_path: Path) -> None:
    bundle = without_int8(tmp_path / "bundle")
    found = read_bundle(bundle)
    update_bundle(found, found.manifest.model_copy(update={"detector": None}), {})
    for name in ("bccd", "txl"):
        (tmp_path / "data" / name).mkdir(parents=True)
    none = CliRunner().invoke(app, ["calibrate-detector", str(bundle), "--data", str(tmp_path / "data")])
    assert none.exit_code == 3
    assert "add-detector" in none.stderr
    empty = CliRunner().invoke(app, ["calibrate-detector", str(without_int8(tmp_path / "b")), "--data", str(tmp_path / "data")])
    assert empty.exit_code == 2
    assert "BCCD's split is missing" in empty.stderr


@pytest.mark.parametrize("backend", ["openvino", "onnxruntime"])
def test_the_shipped_int8_detector_finds_what_the_fp32_one_does(backend: str, shared_data: Path) -> None:
    bundle = read_bundle(SHIPPED_BUNDLE)
    detectors = [load_detector(bundle, backend=backend, threads=1, precision=one) for one in ("fp32", "int8")]
    for frame in bccd_frames(shared_data / "bccd", "val")[::9]:
        picture = read_rgb(frame.path)
        um = 7.5 / frame.red_cell_px
        white = [detector.find(picture, um).white.boxes for detector in detectors if detector]
        pairs = match_boxes(*([(*map(round, box.tolist()),) for box in boxes] for boxes in white))
        assert len(white[0]) == len(white[1]) == len(pairs)
    for detector in detectors:
        assert detector
        detector.network.close()


def test_verify_and_inspect_tell_of_the_detector(tmp_path: Path) -> None:
    told = CliRunner().invoke(app, ["inspect"]).stdout
    assert "white cells from a score of" in told
    assert "found by both graphs" in " ".join(told.split())
    bundle = tmp_path / "bundle"
    shutil.copytree(SHIPPED_BUNDLE, bundle)
    found = read_bundle(bundle)
    assert found.manifest.detector is not None
    strict = found.manifest.detector.model_copy(update={"tolerance": 1e-9})
    update_bundle(found, found.manifest.model_copy(update={"detector": strict}), {})
    for place, code in ((SHIPPED_BUNDLE, 0), (bundle, 1)):
        done = CliRunner().invoke(app, ["verify", str(place), "--json"])
        rows = json.loads(done.stdout)["detectors"]
        assert done.exit_code == code
        assert [(row["backend"], row["precision"]) for row in rows] == [
            (backend, precision) for backend in ("openvino", "onnxruntime") for precision in ("fp32", "int8")
        ]
        assert [row["passed"] for row in rows] == [code == 0, True] * 2
        assert all(row["difference"] > 0 for row in rows)


def test_a_cpu_without_fast_int8_keeps_the_fp32_detector(monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = read_bundle(SHIPPED_BUNDLE)
    opened: list[Path] = []
    open_network = loading.open_network

    def noted(content: bytes, graph: Path, *, backend: str, threads: int, int8: bool) -> loading.Network:
        opened.append(graph)
        return open_network(content, graph, backend=backend, threads=threads, int8=int8)

    monkeypatch.setattr(loading, "open_network", noted)
    for features, precision in (({"avx2"}, None), (set[str](), None), ({"avx2"}, "fp32"), (set[str](), "int8")):
        monkeypatch.setattr(loading, "cpu_features", lambda features=features: features)
        found = load_detector(bundle, backend="openvino", threads=1, precision=precision)  # type: ignore[arg-type]
        assert found
        found.network.close()
    assert [graph.name for graph in opened] == ["int8.onnx", "detector.onnx", "detector.onnx", "int8.onnx"]
