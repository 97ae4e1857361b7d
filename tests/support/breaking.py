"""Kills verbs at random moments and fills their disks: what stood before is whole, or what comes is.

    PYTHONPATH=tests/support python -m breaking --kills 200 --fills 20 --out .cache/breaking

Each attempt is a forked child that does the verb's work on a small bundle of drawn cells. After each, what the verb writes is
read in full. In the end the verb is let through: its result is that of an undisturbed one, and nothing is left beside it. For
`--fills` the children write to a file system of a few megabytes, which needs root on Linux.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import select
import shutil
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from safetensors.numpy import load_file
from trained_bundle import taught_bundle

from blastscope.calibration.calibrate import calibrate
from blastscope.calibration.config import CalibrationConfig
from blastscope.export.exporter import export_run
from blastscope.export.onnx_writer import ExportConfig
from blastscope.runtime.backends.tensorrt.engine_store import engines_folder, find_engine, obtain_engine
from blastscope.runtime.backends.tensorrt.key import EngineKey, engine_key, library_version
from blastscope.runtime.bundle import pack, read_bundle
from blastscope.runtime.crop import CropSpecification
from blastscope.runtime.errors import BlastscopeError, MissingLibrary
from blastscope.runtime.io.cnmc import scan_dataset
from blastscope.runtime.io.hashing import file_sha256
from blastscope.runtime.io.synthetic import synthetic_cell, write_synthetic_dataset
from blastscope.runtime.session import open_bundle
from blastscope.train import pipeline
from blastscope.train.backbone import import_timm
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
GLANCE_S = 0.002
MOUNTED_MB = 64
ROUND_BYTES = 4096  # a file system's block


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


@dataclass
class Row:
    """What was done to a verb."""

    verb: str
    kills: int = 0
    finished: int = 0  # attempts that were faster
    fills: int = 0
    refused: int = 0  # of the fills, with a typed error
    faults: list[str] = field(default_factory=list)


def prepare(base: Path) -> None:
    """Cells, a run, a bundle, a zip and answers, of which the verbs begin and with which they are compared."""
    data = write_synthetic_dataset(base / "data", patients=6, cells_each=4, size_px=96)
    pipeline.train_ensemble(data, TRAINING, base / "run", cache=base / "crops")
    taught_bundle(base / "taught").path.rename(base / "bundle")  # a run so short calls all cells alike, which is no bundle
    shutil.copytree(base / "bundle", base / "int8")
    calibrate(base / "int8", base / "taught" / "data", LENIENT)
    pack(read_bundle(base / "bundle"), base / "old.zip")
    pack(read_bundle(base / "int8"), base / "new.zip")
    np.save(base / "answer.npy", _answer(base, base / "cache"))


def _answer(base: Path, cache: Path) -> Any:
    with open_bundle(base / "bundle", device="cpu", cache_dir=cache, allow_ungated=True) as scope:
        return np.array(scope.classify(synthetic_cell(seed=3, size_px=96)).probabilities)


# ---- the verbs


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


def _build(base: Path, place: Path) -> None:
    obtain_engine(place / "cache", *_key(base))


def _built(base: Path, place: Path) -> None:
    need(find_engine(place / "cache", _key(base)[1]) is not None, "no engine is kept")
    left = [path.name for path in engines_folder(place / "cache").iterdir() if path.name.endswith(".new")]
    need(not left, f"left behind: {left}")


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
        lambda base, place: export_run(base / "taught" / "run", place / "bundle", config=EXPORT),
        _bundle_is_whole,
        _is_new,
    ),
    "calibrate": Verb(
        _old_bundle,
        lambda base, place: calibrate(place / "bundle", base / "taught" / "data", LENIENT),
        _bundle_is_whole,
        _is_new,
    ),
    "pack": Verb(
        lambda base, place: shutil.copy(base / "old.zip", place / "c7.zip"),
        lambda base, place: pack(read_bundle(base / "int8"), place / "c7.zip"),
        _zip_is_whole,
        _packed,
    ),
    "build": Verb(_nothing, _build, _engine_is_whole, _built),
    "open": Verb(_nothing, _open, _nothing, _nothing),
    "crop": Verb(_nothing, _crop, _nothing, _cropped),
}


def _alone(place: Path, *names: str) -> None:
    left = sorted(path.name for path in place.iterdir() if path.name not in names and not path.name.endswith(".lock"))
    need(not left, f"left behind: {left}")


# ---- children


class Child(NamedTuple):
    """A verb at work. `told` gets what went wrong."""

    pid: int
    told: Path


def start(work: Callable[[Path, Path], object], base: Path, place: Path, told: Path) -> Child:
    """Forks a child that works, and exits with 0, 4 for an error that blastscope raises on purpose, or 1."""
    told.write_text("")
    if pid := os.fork():
        with suppress(PermissionError, ProcessLookupError):  # the child was faster
            os.setpgid(pid, pid)
        return Child(pid, told)
    os.setpgid(0, 0)
    out = os.open(told.with_suffix(".out"), os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    for stream in (1, 2):
        os.dup2(out, stream)
    status = 0
    try:
        work(base, place)
    except BlastscopeError as error:
        told.write_text(f"{type(error).__name__}: {error}")
        status = 4
    except BaseException:  # noqa: BLE001 whatever it is, the parent is told
        told.write_text(traceback.format_exc())
        status = 1
    os._exit(status)


def wait(child: Child, seconds: float | None) -> int | None:
    """The exit status, negative for a signal; None where the child was still at work and was killed."""
    handle = os.pidfd_open(child.pid)
    try:
        over = bool(select.select([handle], [], [], seconds)[0])
        if not over:
            os.killpg(child.pid, signal.SIGKILL)
        status = os.waitstatus_to_exitcode(os.waitpid(child.pid, 0)[1])
    finally:
        os.close(handle)
    return status if over else None


def undisturbed(work: Callable[[Path, Path], object], base: Path, place: Path, told: Path) -> float:
    """Seconds that the work takes. Raises `Broken` where it fails."""
    begun = time.monotonic()
    child = start(work, base, place, told)
    status = wait(child, None)
    need(status == 0, f"an undisturbed attempt ends with {status}: {told.read_text()}")
    return time.monotonic() - begun


def lay_down(verb: Verb, base: Path, place: Path) -> None:
    """Makes the verb's folder anew, with what stood there before."""
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    verb.begin(base, place)


def kill(name: str, base: Path, place: Path, told: Path, *, count: int, chance: random.Random, row: Row) -> None:
    """Kills the verb `count` times. What finished is judged, and the next attempt begins from what stood before."""
    verb = VERBS[name]
    lay_down(verb, base, place)
    longest = undisturbed(verb.act, base, place, told)
    verb.finish(base, place)
    disturbed = False
    while row.kills < count or disturbed:
        if not disturbed:
            lay_down(verb, base, place)
        child = start(verb.act, base, place, told)
        status = wait(child, chance.uniform(0, longest) if row.kills < count else None)
        if disturbed := status is None:
            row.kills += 1
            verb.check(base, place)
        else:
            need(status == 0, f"after {row.kills} kills an attempt ends with {status}: {told.read_text()}")
            row.finished += 1
            verb.finish(base, place)


@contextmanager
def small_disk(folder: Path) -> Iterator[Path]:
    """A file system of its own at `folder`. Raises `Broken` where this user may not mount one."""
    folder.mkdir(parents=True, exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={MOUNTED_MB}m", "tmpfs"]
    done = subprocess.run([*command, str(folder)], capture_output=True, text=True, check=False)
    need(done.returncode == 0, f"no file system can be mounted, which needs root: {done.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(name: str, base: Path, disk: Path, told: Path, *, count: int, row: Row) -> None:
    """Lets the disk of the verb fill up after 0, 1, 2 ... `count` parts of what it writes in all."""
    verb, place, ballast = VERBS[name], disk / name, disk / "ballast"
    needed = 0
    lay_down(verb, base, place)
    free = _free(disk)
    child = start(verb.act, base, place, told)
    handle = os.pidfd_open(child.pid)
    while not select.select([handle], [], [], GLANCE_S)[0]:
        needed = max(needed, free - _free(disk))
    os.close(handle)
    status = wait(child, None)
    need(status == 0, f"with room an attempt ends with {status}: {told.read_text()}")
    for part in range(count):
        lay_down(verb, base, place)
        left = needed * part // count // ROUND_BYTES * ROUND_BYTES
        with ballast.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, max(_free(disk) - left, 1))
        status = wait(start(verb.act, base, place, told), None)
        row.fills += 1
        row.refused += status == 4
        need(status in (0, 4), f"with {left} bytes left an attempt ends with {status}: {told.read_text()}")
        need(status == 0 or "space" in told.read_text(), f"with {left} bytes left another error: {told.read_text()}")
        ballast.unlink()
        verb.check(base, place)
        undisturbed(verb.act, base, place, told)
        verb.finish(base, place)


def _free(disk: Path) -> int:
    facts = os.statvfs(disk)
    return facts.f_bavail * facts.f_frsize


def main(words: Sequence[str] | None = None) -> int:
    """The command. Gives 1 where something was neither old nor new."""
    parser = argparse.ArgumentParser(prog="python -m breaking", description=__doc__.splitlines()[0])
    parser.add_argument("--verb", action="append", choices=list(VERBS), help="one of them; all, if none is named")
    parser.add_argument("--kills", type=int, default=200, help="in all, shared by the verbs")
    parser.add_argument("--fills", type=int, default=0, help="of each verb's disk")
    parser.add_argument("--seed", type=int, default=0, help="decides the moments")
    parser.add_argument("--out", type=Path, default=Path(".cache/breaking"), help="folder for all of it; deleted first")
    given = parser.parse_args(words)
    out, names = given.out.resolve(), given.verb or list(VERBS)
    shutil.rmtree(out, ignore_errors=True)
    (out / "base").mkdir(parents=True)
    import_timm()
    pipeline._report = lambda *_: None  # pictures, which take longer than the training
    undisturbed(lambda base, _: prepare(base), out / "base", out, out / "told")
    chance, rows = random.Random(given.seed), []
    for number, name in enumerate(names):
        row = Row(name)
        rows.append(row)
        try:
            if name == "build":
                library_version("tensorrt-rtx")
            share = given.kills * (number + 1) // len(names) - given.kills * number // len(names)
            if share:
                kill(name, out / "base", out / name, out / "told", count=share, chance=chance, row=row)
            if given.fills:
                with small_disk(out / "disk") as disk:
                    fill(name, out / "base", disk, out / "told", count=given.fills, row=row)
        except MissingLibrary as error:
            print(f"{name}: left out, {error}")
        except (Broken, BlastscopeError) as error:
            row.faults.append(str(error))
        print(
            f"{name:10} {row.kills:4} kills, {row.finished:3} attempts were faster; {row.fills:3} full disks, "
            f"{row.refused:3} with a typed error; {row.faults or 'no fault'}",
            flush=True,
        )
    (out / "breaking.json").write_text(json.dumps([asdict(row) for row in rows], indent=2) + "\n", encoding="utf-8")
    return int(any(row.faults for row in rows))


if __name__ == "__main__":
    sys.exit(main())
