"""`train_detector`: frames with boxes in, a run folder with a detector and its report out.

RUN/run.json            configuration, digests and versions; where the trunk's weights come from
RUN/pool/               training pictures' maps, shard by shard; deleted by nobody, needed by a resumed run
RUN/without-SOURCE/     the head that never saw SOURCE, with its history, and scores.json of SOURCE's frames
RUN/head/               the head trained on all sources, and scores.json of BCCD's validation frames
RUN/...-2/, RUN/...-3/  of an ensemble, the heads of the next seeds; the scores beside the first one are the ensemble's
RUN/report/             report.json and index.html: each source by the head that never saw it
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import torch
from rich.console import Console

from blastscope.runtime.errors import DataError
from blastscope.runtime.frames.types import FrameSpecification
from blastscope.runtime.io.atomic import write_content
from blastscope.runtime.io.own_files import exclusive_lock
from blastscope.runtime.io.strict_model import StrictModel
from blastscope.train.detector.config import DetectorConfig, check_detector_place
from blastscope.train.detector.evaluation import (
    DetectorReport,
    SourceScores,
    best_limit,
    frames_of,
    limits_by_others,
    score_source,
    write_report,
)
from blastscope.train.detector.fit import FINISHED, FitHistory, fit, mean_history
from blastscope.train.detector.network import Detector, DetectorHead, DetectorTrunk, make_trunk
from blastscope.train.detector.pool import Shard, fill_pool, pool_key, read_pool
from blastscope.train.detector.sources import FRAME_SOURCES, bccd_frames
from blastscope.train.fit_checkpoint import read_tensors
from blastscope.train.progress import TrainingProgress

LIBRARIES = ("blastscope", "torch", "timm", "openvino", "numpy", "opencv-python-headless")
RECORD, SCORES = "run.json", "scores.json"


class DetectorRun(StrictModel):
    """Where a run comes from.

    Attributes
    ----------
    config : DetectorConfig
        As the TOML file gave it.
    pool_sha256 : str
        Digest of all that decides what the training pictures are, in hex.
    weights : str
        Where the trunk's weights come from.
    versions : dict of str to str
        Libraries and their versions.
    """

    config: DetectorConfig
    pool_sha256: str
    weights: str
    versions: dict[str, str]


@dataclass(frozen=True, slots=True, eq=False)
class TrainedDetector:
    """A finished run's detector.

    Attributes
    ----------
    network : Detector
        Trunk and head.
    pixel_um : float
        Micrometres per pixel of the pictures that it takes.
    least_score : float
        What is a white cell by at least this probability counts as found.
    sources : tuple of str
        The data that it was trained on.
    """

    network: Detector
    pixel_um: float
    least_score: float
    sources: tuple[str, ...]


def train_detector(
    data: Path, config: DetectorConfig, out: Path, *, resume: bool = False, console: Console | None = None
) -> DetectorReport:
    """Trains a detector of white cells, judges it by leaving each source out in turn, and writes the report.

    Parameters
    ----------
    data : Path
        Folder with `bccd`, `txl`, `pbc` and `cnmc`.
    config : DetectorConfig
        Pictures, head and schedule.
    out : Path
        The run's folder.
    resume : bool
        Go on with the run in `out`: after the last shard of pictures and the last epoch, to the result that it would have had.
    console : Console, optional
        Where progress goes.

    Raises
    ------
    DataError
        Data that can't be used; files in `out` when not resuming; a run of another configuration or other data when resuming.
    ConfigError
        A backbone that can't be had.
    """
    out = Path(out)
    check_detector_place(out, resume=resume)
    torch.manual_seed(config.seed)
    trunk, origin = make_trunk(config)
    record = DetectorRun(
        config=config,
        pool_sha256=pool_key(data, trunk, config),  # reads every source: what is missing is told before `out` is made
        weights=origin,
        versions={name: version(name) for name in LIBRARIES if name != "blastscope"},
    )
    out.mkdir(parents=True, exist_ok=True)
    with exclusive_lock(out / ".lock", wait=False), TrainingProgress(console) as progress:
        _same_run(out, record, resume=resume)
        fill_pool(data, trunk, config, out / "pool", progress)
        found = [judged(data, trunk, config, out, source, progress=progress) for source in (*FRAME_SOURCES, None)]
        scores = tuple(one for one, _ in found)
        report = DetectorReport(
            run=record.model_dump(mode="json"),
            limit=best_limit(scores),
            sources=scores,
            history=found[-1][1],
            others_limits=limits_by_others(scores),
        )
        write_report(out / "report", report)
        return report


def pixel_um(config: DetectorConfig) -> float:
    """Micrometres a pixel of the pictures that the detector is given at work."""
    return round(FrameSpecification().red_cell_um / config.picture.shown_red_cell_px, 4)


def load_detector_run(run: Path) -> TrainedDetector:
    """The detector of a finished run, trained on all sources. Raises `DataError`."""
    run = Path(run)
    record = _record(run)
    report = run / "report" / "report.json"
    places = _folders(record.config, run, None)
    if not all((folder / FINISHED).is_file() for folder in places) or not report.is_file():
        raise DataError(run, "the detector's training isn't finished: say 'blastscope train-detector ... --resume'")
    found = DetectorReport.model_validate_json(report.read_bytes())
    trunk, _ = make_trunk(record.config)
    heads = []
    for folder in places:
        heads.append(DetectorHead(trunk.channels, record.config.head))
        heads[-1].load_state_dict(read_tensors(folder / FINISHED)[0])
    return TrainedDetector(Detector(trunk, heads).eval(), pixel_um(record.config), found.limit, (*FRAME_SOURCES, "cnmc"))


def judged(
    data: Path, trunk: DetectorTrunk, config: DetectorConfig, out: Path, left_out: str | None, *, progress: TrainingProgress
) -> tuple[SourceScores, FitHistory]:
    """What the detector that never saw `left_out` shows on it; with None, that of all sources on BCCD's validation frames."""
    module, history = _fitted(trunk, config, out, left_out, progress)
    place = _folders(config, out, left_out)[0] / SCORES
    if place.is_file():
        return SourceScores.model_validate_json(place.read_bytes()), history
    frames = frames_of(data, left_out) if left_out else bccd_frames(data / "bccd", "val")
    scores = score_source(
        left_out or "bccd val", frames, module, pixel_um(config), left_out=left_out is not None, progress=progress
    )
    write_content(place, scores.model_dump_json(indent=1) + "\n")
    return scores, history


def _folders(config: DetectorConfig, out: Path, left_out: str | None) -> list[Path]:
    """Where the heads of one ensemble are kept, the first seed's first."""
    name = f"without-{left_out}" if left_out else "head"
    return [out / (f"{name}-{number}" if number > 1 else name) for number in range(1, config.head.ensemble_size + 1)]


def _fitted(
    trunk: DetectorTrunk, config: DetectorConfig, out: Path, left_out: str | None, progress: TrainingProgress
) -> tuple[Detector, FitHistory]:
    """The detector trained without a source, or on all."""
    shards: list[Shard] = []
    heads, histories = [], []
    for at, folder in enumerate(_folders(config, out, left_out)):
        own = config.model_copy(update={"seed": config.seed + at})
        torch.manual_seed(own.seed)
        heads.append(DetectorHead(trunk.channels, config.head))
        if not shards and not (folder / FINISHED).is_file():
            shards = [shard for _, shard in read_pool(config, out / "pool", left_out)]
        histories.append(fit(heads[-1], shards, own, folder, progress, name=folder.name))
    return Detector(trunk, heads).eval(), mean_history(histories)


def _same_run(out: Path, record: DetectorRun, *, resume: bool) -> None:
    """Keeps what the run is, or compares with what it was."""
    if not (out / RECORD).is_file():
        write_content(out / RECORD, record.model_dump_json(indent=2) + "\n")
    elif resume:
        before = _record(out)
        if (before.config, before.pool_sha256) != (record.config, record.pool_sha256):
            raise DataError(out, "is a run of another configuration or other data: name another folder")


def _record(run: Path) -> DetectorRun:
    try:
        record = json.loads((run / RECORD).read_bytes())
        record["config"]["head"].setdefault("ensemble_size", 1)  # earlier runs, which don't say it, have one head,
        record["config"]["picture"].setdefault("white_balance", False)  # and take pictures as they are
        return DetectorRun.model_validate_json(json.dumps(record))
    except OSError as error:
        raise DataError(run / RECORD, f"can't be read: {error.strerror}; name the run of train-detector") from error
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise DataError(run / RECORD, f"is no record of a detector's training: {error}") from error
