"""The detector's scores: what a middle's score is taught as, how wide boxes are, and which limit counts as found."""

from __future__ import annotations

import numpy as np
import torch

from blastscope.runtime.bundle.manifest import Interval
from blastscope.runtime.evaluation.detection import DetectionMetrics
from blastscope.train.detector.config import HeadConfig
from blastscope.train.detector.evaluation import LIMITS, LimitScores, SourceScores, limits_by_others
from blastscope.train.detector.fit import TargetBatch, losses_of
from blastscope.train.detector.network import BOX_UNIT, Detector, DetectorHead, encode
from blastscope.train.detector.pictures import Boxes, Sample
from blastscope.train.detector.sources import RED, WHITE


def two_cells() -> Sample:
    """A white and a red cell, whose middles are those of places of the maps."""
    corners = np.asarray([[20, 20, 68, 68], [84, 92, 108, 116]], np.float32)
    boxes = Boxes(corners, np.asarray([WHITE, RED]), np.asarray([0, -1]), np.ones(2, np.bool_))
    return Sample(np.zeros((160, 160, 3), np.uint8), boxes, np.ones((2, 160, 160), np.float32))


def test_the_score_of_a_middle_is_taught_as_the_overlap_of_its_box() -> None:
    targets = encode(two_cells())
    batch = TargetBatch(*(torch.from_numpy(np.asarray(a, np.float32) if a.dtype == np.float16 else a) for a in targets))
    reach = (batch.box.clamp(min=0.5) * 0.5 / BOX_UNIT).log()  # sides half as long: a quarter of the area
    losses = {}
    for middle in (0.25, 1.0):
        heat = torch.logit((batch.heat * middle).clamp(1e-5, 1 - 1e-5))
        raw = torch.cat([heat, reach, torch.zeros(1, 3, *heat.shape[2:])], dim=1)
        losses[middle] = {score: float(losses_of(raw, batch, score).heat) for score in ("middle", "overlap")}
    assert losses[0.25]["overlap"] < 0.5 * losses[1.0]["overlap"]
    assert losses[1.0]["middle"] < 0.5 * losses[0.25]["middle"]


def test_a_margin_widens_the_boxes_of_white_cells_alone() -> None:
    torch.manual_seed(0)
    trunk = Maps()
    maps = {}
    for margin in (1.0, 1.2):
        torch.manual_seed(1)
        head = DetectorHead((6, 5), HeadConfig(channels=8, depth=1, margin=margin)).eval()
        with torch.inference_mode():
            maps[margin] = Detector(trunk, [head])(torch.zeros((2, 64, 96, 3), dtype=torch.uint8))  # type: ignore[arg-type]
    plain, wide = maps[1.0], maps[1.2]
    white = plain[:, WHITE] > plain[:, RED]
    assert white.any()
    assert not white.all()
    torch.testing.assert_close(wide[:, :3], plain[:, :3])
    for side, opposite in ((3, 5), (4, 6)):
        lengths = plain[:, side] + plain[:, opposite], wide[:, side] + wide[:, opposite]
        torch.testing.assert_close(lengths[1], torch.where(white, 1.2 * lengths[0], lengths[0]))
        shifts = [found[:, opposite] - found[:, side] for found in (plain, wide)]
        torch.testing.assert_close(shifts[1], shifts[0])


def test_an_ensemble_gives_the_mean_of_its_heads_maps() -> None:
    heads = []
    for seed in range(3):
        torch.manual_seed(seed)
        heads.append(DetectorHead((6, 5), HeadConfig(channels=8, depth=1, margin=1.0)).eval())
    trunk, pictures = Maps(), torch.zeros((2, 64, 96, 3), dtype=torch.uint8)
    with torch.inference_mode():
        raw = np.stack([head(*trunk(pictures)).numpy() for head in heads]).astype(np.float64)
        found = Detector(trunk, heads)(pictures).numpy()  # type: ignore[arg-type]
        alone = Detector(trunk, heads[:1])(pictures).numpy()  # type: ignore[arg-type]
    np.testing.assert_allclose(found[:, :3], (1 / (1 + np.exp(-raw[:, :, :3]))).mean(axis=0), atol=1e-5)
    np.testing.assert_allclose(found[:, 3:7], (16 * np.exp(raw[:, :, 3:7].clip(-4, 4))).mean(axis=0), rtol=1e-5)
    odds = np.exp(raw[:, :, 7:])
    np.testing.assert_allclose(found[:, 7:], (odds / odds.sum(axis=2, keepdims=True)).mean(axis=0), atol=1e-5)
    assert np.abs(found - alone).max() > 1e-3


class Maps(torch.nn.Module):
    """In the place of a trunk: maps of noise."""

    def forward(self, pictures: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        count, height, width = pictures.shape[:3]
        rng = torch.Generator().manual_seed(3)
        return tuple(  # type: ignore[return-value]
            torch.randn((count, channels, height // step, width // step), generator=rng) for channels, step in ((6, 8), (5, 16))
        )


def test_a_limit_is_also_chosen_without_the_source_that_it_is_used_on() -> None:
    def scores(name: str, right: dict[float, tuple[float, float]], *, left_out: bool = True) -> SourceScores:
        def metrics(limit: float) -> DetectionMetrics:
            recall, precision = (Interval(value=v, low=v, high=v) for v in right.get(limit, (0.0, 0.0)))
            return DetectionMetrics(labelled=1, found=1, false=0, recall=recall, precision=precision)

        by_limit = tuple(LimitScores(limit=limit, metrics=metrics(limit)) for limit in LIMITS)
        return SourceScores(
            source=name, frames=1, left_out=left_out, by_limit=by_limit, by_stain=None, wrong_scale=0, wrong_scale_before=0
        )

    found = [
        scores("a", {0.3: (0.9, 0.9), 0.5: (0.99, 0.99)}),
        scores("b", {0.3: (0.99, 0.99), 0.5: (0.7, 0.9)}),
        scores("c", {0.3: (0.99, 0.99), 0.5: (0.93, 0.9)}),
        scores("val", {0.6: (1.0, 1.0)}, left_out=False),
    ]
    assert limits_by_others(found) == {"a": 0.3, "b": 0.5, "c": 0.3}
