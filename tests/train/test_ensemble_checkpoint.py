"""Checkpoints, the crop cache and the run folder: what is written can be read, and says where it comes from."""

from __future__ import annotations

import errno
import json
import os
import shutil
import stat
import sys
import traceback
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file
from waiting import wait_until

from blastscope.runtime.crop import Crop, CropSpecification, crop_cell
from blastscope.runtime.errors import DataError
from blastscope.runtime.io.cnmc import scan_dataset
from blastscope.runtime.io.image import read_image
from blastscope.runtime.io.own_files import exclusive_lock
from blastscope.runtime.io.synthetic import write_synthetic_dataset
from blastscope.train.config import TrainConfig
from blastscope.train.data_loader import cache_crops
from blastscope.train.ensemble_checkpoint import load_ensemble, random_ensemble, save_ensemble
from blastscope.train.pipeline import check_run_folder, relative_name, train_ensemble

TINY = {
    "crop": {"side_px": 32},
    "network": {"backbone": "test_efficientnet", "weights": "none", "views": 2},
    "stage1": {"epochs": 1, "batch_size": 16, "all_logit_shift": 0.3},
    "stage2": {"epochs": 1, "batch_size": 16, "hidden": 16, "fine_tune": True},
    "compute": {"device": "cpu", "precision": "fp32"},
}


@pytest.fixture(scope="module")
def cells(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = write_synthetic_dataset(tmp_path_factory.mktemp("cells"), patients=6, cells_each=4, size_px=96)
    first = scan_dataset(root).cells[0].path
    black = first.with_name(first.name.replace("UID_", "UID_").replace(first.stem.split("_")[3], "999"))
    import cv2

    cv2.imwrite(str(black), np.zeros((96, 96, 3), np.uint8))  # a cell that has no crop
    return root


@pytest.fixture(scope="module")
def run(cells: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("blastscope.train.pipeline._report", lambda *_: None)
        folder = tmp_path_factory.mktemp("runs")
        return train_ensemble(cells, TrainConfig.model_validate(TINY), folder / "run", cache=folder / "cache")


def test_a_loaded_ensemble_repeats_the_validation_probabilities(run: Path, cells: Path, tmp_path: Path) -> None:
    trained = load_ensemble(run)
    assert trained.ensemble.passes == 8  # fine-tuned, two views
    store = cache_crops(scan_dataset(cells), trained.config.crop, tmp_path)
    rows = {cell.path.relative_to(cells).as_posix(): row for row, cell in enumerate(store.cells)}
    crops = store.crops[[rows[cell.file] for cell in trained.provenance.validation]]
    with torch.inference_mode():
        again = trained.ensemble(torch.from_numpy(crops)).softmax(dim=2).numpy()
    np.testing.assert_allclose(load_file(run / "validation.safetensors")["probabilities"], again, atol=1e-5)


def test_the_run_says_where_it_comes_from(run: Path, cells: Path) -> None:
    provenance = load_ensemble(run).provenance
    assert provenance.state == "finished"
    assert provenance.data_sha256 == scan_dataset(cells).sha256
    assert not set(provenance.patients.training) & set(provenance.patients.validation)
    assert {cell.patient for cell in provenance.validation} == set(provenance.patients.validation)
    assert [cell.file for cell in provenance.validation] == sorted(cell.file for cell in provenance.validation)
    assert provenance.versions.keys() >= {"python", "torch", "timm", "numpy"}
    assert len(provenance.refused) == 1
    assert "_999_" in provenance.refused[0][0]
    assert provenance.config == TrainConfig.model_validate(TINY)
    assert json.loads((run / "history.json").read_text())["combined"][0]["epoch"] == 1


def test_an_unfinished_run_is_not_loaded(run: Path, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "run")
    content = json.loads((tmp_path / "run" / "run.json").read_text())
    (tmp_path / "run" / "run.json").write_text(json.dumps(content | {"state": "running"}))
    with pytest.raises(DataError, match="isn't finished: go on with --resume"):
        load_ensemble(tmp_path / "run")


def test_a_file_of_another_run_is_noticed(run: Path, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "run")
    content = json.loads((tmp_path / "run" / "run.json").read_text())
    content["config"]["seed"] = 5
    (tmp_path / "run" / "run.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match="are of different runs"):
        load_ensemble(tmp_path / "run")


def test_a_missing_tensor_is_named(run: Path, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "run")
    path = tmp_path / "run" / "ensemble.safetensors"
    tensors = load_file(path)
    del tensors["b.classify.weight"]
    save_file(tensors, path, metadata={"config": load_ensemble(run).config.model_dump_json()})
    with pytest.raises(DataError, match=r"b\.classify\.weight"):
        load_ensemble(tmp_path / "run")


def test_a_truncated_file_is_an_error_and_no_crash(run: Path, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "run")
    path = tmp_path / "run" / "ensemble.safetensors"
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(DataError, match="can't be read as safetensors"):
        load_ensemble(tmp_path / "run")
    with pytest.raises(DataError, match=r"no run\.json"):
        load_ensemble(tmp_path)


def test_random_weights_are_saved_and_loaded_like_trained_ones(tmp_path: Path) -> None:
    crops = np.random.default_rng(0).integers(0, 255, (4, 32, 32, 3)).astype(np.uint8)
    trained = random_ensemble(TrainConfig.model_validate(TINY), crops)
    save_ensemble(tmp_path, trained)
    again = load_ensemble(tmp_path)
    assert again.provenance == trained.provenance
    assert again.provenance.data_sha256 is None
    with torch.inference_mode():
        ours, theirs = (x.ensemble(torch.from_numpy(crops)) for x in (trained, again))
    assert torch.equal(ours, theirs)


def test_cached_crops_are_the_crops_of_the_runtime(cells: Path, tmp_path: Path) -> None:
    folder, spec = scan_dataset(cells), CropSpecification(side_px=48)
    calls: list[tuple[int, int]] = []
    store = cache_crops(folder, spec, tmp_path, progress=lambda done, of: calls.append((done, of)))
    assert calls[-1] == (len(folder.cells), len(folder.cells))
    assert (len(store.cells), len(store.refused)) == (len(folder.cells) - 1, 1)
    assert store.refused[0][1].startswith("empty")
    for row in (0, 7, len(store.cells) - 1):
        image = read_image(store.cells[row].path)
        assert isinstance(image, np.ndarray)
        crop = crop_cell(image, spec)
        assert isinstance(crop, Crop)
        np.testing.assert_array_equal(store.crops[row], crop.pixels)


def test_a_size_is_the_whole_cells_where_the_window_shows_a_part(cells: Path, tmp_path: Path) -> None:
    folder = scan_dataset(cells)
    whole = cache_crops(folder, CropSpecification(side_px=96, scale="keep", window_px=96), tmp_path)
    part = cache_crops(folder, CropSpecification(side_px=16, scale="keep", window_px=16), tmp_path)
    assert (part.crops > 0).any(axis=3).all()  # the window lies inside of every cell
    np.testing.assert_array_equal(part.sizes_px, whole.sizes_px)
    shown = (whole.crops > 0).any(axis=3)
    boxes = [rows.any(axis=0).sum() * rows.any(axis=1).sum() for rows in shown]
    np.testing.assert_allclose(whole.sizes_px, np.sqrt(boxes), atol=2)


def test_crops_are_computed_once_for_each_specification(cells: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, spec = scan_dataset(cells), CropSpecification(side_px=48)
    first = cache_crops(folder, spec, tmp_path)
    other = cache_crops(folder, CropSpecification(side_px=40), tmp_path)
    assert other.crops.shape[1:] == (40, 40, 3)
    monkeypatch.setattr("blastscope.train.data_loader._fill", lambda *_: pytest.fail("cropped again"))
    again = cache_crops(folder, spec, tmp_path)
    np.testing.assert_array_equal(again.crops, first.crops)
    assert (again.cells, again.refused) == (first.cells, first.refused)
    assert not again.crops.flags.writeable


def test_cached_crops_stay_with_their_cells_when_files_are_renamed(tmp_path: Path) -> None:
    root = write_synthetic_dataset(tmp_path / "data", patients=2, cells_each=3, size_px=96)
    spec, cache = CropSpecification(side_px=48), tmp_path / "cache"
    before = cache_crops(scan_dataset(root), spec, cache)
    for cell in before.cells:  # the first becomes the last of its patient, and so on
        name = f"UID_{cell.patient}_{90 - int(cell.image)}_{cell.cell}_{cell.label}{cell.path.suffix}"
        cell.path.rename(cell.path.with_name(name))
    after = cache_crops(scan_dataset(root), spec, cache)
    assert len(list(cache.iterdir())) == 1
    digests = [cell.sha256 for cell in before.cells]
    rows = [digests.index(cell.sha256) for cell in after.cells]
    assert rows != sorted(rows)
    np.testing.assert_array_equal(after.crops, before.crops[rows])


def test_a_broken_cropping_leaves_no_cache(cells: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(done: int, of: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cache_crops(scan_dataset(cells), CropSpecification(side_px=48), tmp_path, progress=broken)
    assert not list(tmp_path.iterdir())


def a_thread_waits_for_a_lock() -> bool:
    frames = sys._current_frames().values()
    return any("filelock" in one.filename for frame in frames for one in traceback.extract_stack(frame))


def test_half_made_crops_are_cleared_and_whole_ones_are_shared(cells: Path, tmp_path: Path) -> None:
    folder, spec = scan_dataset(cells), CropSpecification(side_px=48)
    first = cache_crops(folder, spec, tmp_path)
    (place,) = tmp_path.iterdir()
    moved = place.rename(tmp_path / "kept")
    cut_off = tmp_path / f".{place.name}.new"
    cut_off.mkdir()
    (cut_off / "crops.npy").write_bytes(b"half")
    with ThreadPoolExecutor() as pool, exclusive_lock(tmp_path / f".{place.name}.crops.lock", wait=True):
        second = pool.submit(cache_crops, folder, spec, tmp_path, progress=lambda done, of: pytest.fail("cropped again"))
        wait_until(a_thread_waits_for_a_lock)
        assert not second.done()
        shutil.copytree(moved, place)
    np.testing.assert_array_equal(second.result().crops, first.crops)
    shutil.rmtree(place)
    cache_crops(folder, spec, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [place.name, "kept"]


def test_crops_that_were_damaged_are_made_anew(cells: Path, tmp_path: Path) -> None:
    folder, spec = scan_dataset(cells), CropSpecification(side_px=48)
    wanted = np.array(cache_crops(folder, spec, tmp_path).crops)
    (place,) = tmp_path.iterdir()
    for file, change in (("crops.npy", b"\xff"), ("cells.json", b"{")):
        content = (place / file).read_bytes()
        (place / file).write_bytes(content[:-1] + change)
        np.testing.assert_array_equal(cache_crops(folder, spec, tmp_path).crops, wanted)
        assert (place / file).read_bytes() == content
    assert os.listdir(tmp_path) == [place.name]  # noqa: PTH208


@pytest.mark.skipif(os.name == "nt", reason="POSIX modes")
def test_crops_of_patients_cells_are_for_their_user_alone(cells: Path, tmp_path: Path) -> None:
    folder, spec = scan_dataset(cells), CropSpecification(side_px=48)
    cache_crops(folder, spec, tmp_path)
    (place,) = tmp_path.iterdir()
    assert [stat.S_IMODE(path.stat().st_mode) for path in (place, *place.iterdir())] == [0o700, 0o600, 0o600]
    place.chmod(0o755)  # as earlier versions left it
    cache_crops(folder, spec, tmp_path)
    assert stat.S_IMODE(place.stat().st_mode) == 0o700


def test_crops_that_a_kill_cut_off_go_when_other_crops_are_made(cells: Path, tmp_path: Path) -> None:
    left = tmp_path / ".crops-0123456789abcdef01234567.new"
    left.mkdir()
    (left / "crops.npy").write_bytes(b"half")
    cache_crops(scan_dataset(cells), CropSpecification(side_px=48), tmp_path)
    assert not left.exists()
    assert len(list(tmp_path.iterdir())) == 1


def test_an_ensemble_that_was_damaged_on_the_disk_is_not_loaded(run: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(run, tmp_path / "run"))
    content = (copy / "ensemble.safetensors").read_bytes()
    for place in (len(content) // 2, len(content) - 1):
        (copy / "ensemble.safetensors").write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        with pytest.raises(DataError, match=r"ensemble\.safetensors': is damaged: its bytes are not those that were written"):
            load_ensemble(copy)


def test_a_run_that_another_process_trains_is_refused(cells: Path, run: Path) -> None:
    with exclusive_lock(run / ".lock", wait=False), pytest.raises(DataError, match="another process is at work in it"):
        train_ensemble(cells, TrainConfig.model_validate(TINY), run, resume=True, cache=run.parent / "cache")
    assert not (run / ".lock").exists()


def test_a_disk_that_fills_up_is_named_and_leaves_no_cache(cells: Path, tmp_path: Path) -> None:
    def full(done: int, of: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(DataError, match=r"crops-.*can't be written, no space left on device: make room") as caught:
        cache_crops(scan_dataset(cells), CropSpecification(side_px=48), tmp_path, progress=full)
    assert str(caught.value.path).startswith(str(tmp_path / "crops-"))
    assert not list(tmp_path.iterdir())


def test_a_name_that_is_no_utf8_can_be_recorded() -> None:
    assert relative_name(Path("/data") / os.fsdecode(b"C-NMC_\xe4") / "all" / "ä.bmp", Path("/data")) == "C-NMC_\\xe4/all/ä.bmp"
    with pytest.raises(DataError, match="not UTF-8"):
        check_run_folder(Path(os.fsdecode(b"run\xe4")), resume=False)
