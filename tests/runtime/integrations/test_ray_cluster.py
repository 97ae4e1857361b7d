"""Ray: a cluster on this machine loses a worker in mid-run, and no image; a run is gone on with; answers are as without it."""

from __future__ import annotations

import gc
import os
import signal
from collections import Counter
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from blastscope.runtime.bundle import read_bundle
from blastscope.runtime.errors import DataError, DeviceError, UsageError
from blastscope.runtime.frames.types import CellRow, FrameRow
from blastscope.runtime.integrations.ray_cluster import PartFolder
from blastscope.runtime.io.synthetic import synthetic_cell
from blastscope.runtime.session import open_bundle
from blastscope.runtime.types import PredictionRow

pytest.importorskip("ray", reason="the extra ray is not installed")
parquet = pytest.importorskip("pyarrow.parquet", reason="the extra ray is not installed")

from blastscope.runtime.integrations import ray_cluster  # noqa: E402
from blastscope.runtime.integrations.ray_cluster import SCHEMAS, Answered, RayRun, Work  # noqa: E402

SCHEMA = {"label": "string", "refusal": "string"}


def rows_in(folder: Path) -> list[dict[str, Any]]:
    return [row for part in sorted(folder.glob("*.parquet")) for row in parquet.read_table(part).to_pylist()]


# ---- the folder of parts


def test_what_stands_in_a_part_is_done_until_the_file_changes(tmp_path: Path) -> None:
    files = [tmp_path / name for name in ("a", "b", "c")]
    for file in files:
        file.write_text("cell", encoding="utf-8")
    parts = PartFolder(tmp_path / "out", SCHEMA, {"bundle": "x"})
    parts.write(files[:2], [{"label": "all", "refusal": None}, {"label": None, "refusal": "empty"}])
    parts.write(files[:2], [{"label": "all", "refusal": None}, {"label": None, "refusal": "empty"}])  # once more: one part
    assert Counter(row["path"] for row in rows_in(tmp_path / "out")) == Counter(map(str, files[:2]))
    files[0].write_text("another cell", encoding="utf-8")
    again = PartFolder(tmp_path / "out", SCHEMA, {"bundle": "x"})
    assert [again.is_done(file) for file in files] == [False, True, False]
    assert again.refused(files) == 1


def test_a_folder_goes_with_one_bundle_and_holds_nothing_but_parts(tmp_path: Path) -> None:
    out = tmp_path / "out"
    PartFolder(out, SCHEMA, {"bundle": "x", "task": "classify"}).write([tmp_path / "a"], [{"label": "hem", "refusal": None}])
    with pytest.raises(UsageError, match="begun with another bundle"):
        PartFolder(out, SCHEMA, {"bundle": "y", "task": "classify"})
    (out / "part-0.parquet").write_bytes(b"PAR1 of no table")
    with pytest.raises(DataError, match="part-0"):
        PartFolder(out, SCHEMA, {"bundle": "x", "task": "classify"})


def test_a_row_of_the_results_has_the_keys_of_a_line_of_json() -> None:
    assert set(SCHEMAS["classify"]) == set(PredictionRow.__annotations__)
    assert {"path", *SCHEMAS["examine"]} == set(FrameRow.__annotations__)
    assert set(SCHEMAS["examine"]["cells"][0]) == set(CellRow.__annotations__)


def test_a_frame_with_its_cells_comes_back_from_a_part(shared_data: Path, tmp_path: Path) -> None:
    frame = sorted((shared_data / "bccd" / "JPEGImages").glob("*.jpg"))[0]
    with open_bundle(device="cpu", threads=1) as scope:
        (report,) = scope.examine_files([frame])
    row = report.row()
    assert row["cells"]
    PartFolder(tmp_path, SCHEMAS["examine"], {}).write([frame], [dict(row)])
    (back,) = rows_in(tmp_path)
    assert {name: value for name, value in back["groups"].items() if value is not None} == row["groups"]
    assert [back[name] for name in row if name != "groups"] == [row[name] for name in row if name != "groups"]  # type: ignore[literal-required]


# ---- a cluster


@pytest.fixture
def work(tiny_bundle: Any, tmp_path: Path) -> Work:
    bundle = tiny_bundle.make()
    engine = {"device": "cpu", "threads": 1, "cache_dir": str(tmp_path / "cache")}
    return Work("classify", bundle, read_bundle(bundle).digest, engine)


@pytest.fixture
def images(tmp_path: Path) -> Iterator[list[Path]]:
    folder = tmp_path / "images"
    folder.mkdir()
    paths = [folder / f"{number:03}.png" for number in range(48)]
    cells = [Image.fromarray(synthetic_cell(seed)) for seed in range(5)]
    for number, path in enumerate(paths[:-1]):
        cells[number % 5].save(path, compress_level=1)
    paths[-1].write_bytes(b"no image")
    return paths


def started(work: Work, out: Path, *, actors: int) -> RayRun:
    try:
        return RayRun("local", work, out, actors=actors)
    except DeviceError as error:
        if "timed out during startup" not in str(error):
            raise
    gc.collect()  # what Ray holds of the node's processes, while the warning of that is filtered
    pytest.skip("Ray gives a node 30 seconds to come up, which this busy machine doesn't keep")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:subprocess .* is still running:ResourceWarning")  # of a node that came up too late
def test_a_cluster_that_loses_a_worker_loses_no_image_and_doubles_none(
    work: Work, images: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.setitem(ray_cluster.CHUNK, "classify", 4)
    out, found = tmp_path / "out", list[Answered]()
    ray = import_module("ray")
    request.addfinalizer(ray.shutdown)
    with monkeypatch.context() as kept, started(work, out, actors=2) as run:
        kept.setattr(ray, "shutdown", lambda: None)  # the second run below is on the same cluster, which takes long to begin
        answers = run.answers(images)
        found.append(next(answers))
        os.kill(run.processes[0], signal.SIGKILL)
        found += answers
        assert run.lost >= 1
    assert Counter(path for path, _ in found) == Counter(images)
    rows = rows_in(out)
    assert Counter(row["path"] for row in rows) == Counter(map(str, images))
    with open_bundle(work.bundle, device="cpu", threads=1, workload="throughput") as scope:
        alone = {str(path): prediction.row() for path, prediction in scope.classify_files(images)}
    for row in rows:
        own = alone[row["path"]]
        assert (row["label"], row["refusal"], row["detail"], row["box"]) == (
            own["label"],
            own["refusal"],
            own["detail"],
            own["box"],
        )
        assert row["score"] == pytest.approx(own["score"], abs=1e-6)
        assert row["audit"]["bundle"] == work.digest
    assert [row["refusal"] for row in rows if row["path"] == str(images[-1])] == ["undecodable"]
    # the same command again has nothing left to do but what is new
    fresh = images[0].with_name("new.png")
    Image.fromarray(np.asarray(synthetic_cell(9))).save(fresh)
    monkeypatch.setattr(ray, "init", lambda **_: None)
    with started(work, out, actors=1) as run:
        assert run.refused_before(images) == 1
        assert [path for path, _ in run.answers([*images, fresh])] == [fresh]
    assert not ray.is_initialized()
    assert Counter(row["path"] for row in rows_in(out)) == Counter(map(str, [*images, fresh]))
