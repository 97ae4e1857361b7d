"""Accuracy-aware mixed precision: finds the layers that cost most accuracy, and keeps them in fp32.

    rank      each block of layers alone is made int8, all others stay fp32: how far the vote drifts is what the block costs;
              of the blocks that cost nearly all, each layer likewise
    restore   the costliest come back to fp32, first one, then two, four and so on, until the limits hold with room to spare
    give back halves of these, quarters and so on become int8 again where the limits hold without them

All on cells that set the ranges or were drawn for the search; the gate's cells take no part. Bounded by a share of the
multiply-adds and by time.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Literal

from blastscope.calibration.config import CalibrationConfig
from blastscope.calibration.evaluation import DriftMetric, QuantisationDrift, within_limits
from blastscope.calibration.quantisation.qdq_placement import count_macs
from blastscope.calibration.quantisation.quantizer import Int8Builder, QuantConfig
from blastscope.runtime.errors import MissingLibrary
from blastscope.runtime.io.printable import format_duration
from blastscope.runtime.io.strict_model import StrictModel

logger = logging.getLogger(__name__)

try:
    import onnx
except ImportError as error:
    raise MissingLibrary("onnx", "export") from error

RANKING_CELLS = 48  # cells: a drift is finer than flips, and needs fewer
JOINTS = ("Add", "Concat")

RANKING_TIME_SHARE = 0.6  # of the time
REFINED_COST_SHARE = 0.9  # of the blocks' cost: those that make it up are ranked layer by layer

Layers = tuple[str, ...]
Action = Literal["plain", "restore", "give back", "keep"]
StopReason = Literal["passed", "share", "time", "end"]


class BlockCost(StrictModel):
    """What one block of layers costs when it alone is int8.

    Attributes
    ----------
    layers : tuple of str
        Names of its nodes.
    drift : float
        As in `QuantisationDrift`.
    work : float
        Its share of the multiply-adds of all layers that can be int8.
    """

    layers: tuple[str, ...]
    drift: float
    work: float


class SearchStep(StrictModel):
    """One graph on the way: what was done, and its drift from the parent then.

    Attributes
    ----------
    deed : {'plain', 'restore', 'give back', 'keep'}
        What was done.
    layers : tuple of str
        Those that became fp32, or int8 again; with 'keep' those that were tried in int8 and stay fp32.
    distance : QuantisationDrift
        From the parent, then.
    int8_share : float
        Share that is int8 of the multiply-adds of all layers that can be.
    """

    deed: Action
    layers: tuple[str, ...]
    distance: QuantisationDrift
    int8_share: float


class SearchReport(StrictModel):
    """The way to a graph that holds, or as near as the bounds allow.

    Attributes
    ----------
    blocks : tuple of BlockCost
        Costliest first.
    path : tuple of SearchStep
        In order.
    passed : bool
        Whether the graph holds on the search cells.
    stopped : {'passed', 'share', 'time', 'end'}
        Why the search went no further.
    seconds : float
        How long it took.
    cells : int
        On how many cells.
    int8_share : float
        In the end: share that is int8 of the multiply-adds of all layers that can be.
    """

    blocks: tuple[BlockCost, ...]
    path: tuple[SearchStep, ...]
    passed: bool
    stopped: StopReason
    seconds: float
    cells: int
    int8_share: float


@dataclass
class Search:
    """Searches the layers that must stay fp32 for the gate to hold.

    Attributes
    ----------
    builder : Int8Builder
        Makes the graphs.
    metric : DriftMetric
        Judges them.
    config : CalibrationConfig
        With the search's limits.
    target_drift_ratio : float
        The drift to come down to, as a share of the plain graph's, where the search's cells don't see what the gate's
        cells saw.
    path : list of SearchStep
        What was done so far.
    """

    builder: Int8Builder
    metric: DriftMetric
    config: CalibrationConfig
    target_drift_ratio: float = 1.0
    path: list[SearchStep] = field(default_factory=list)

    def run(self, recipe: QuantConfig) -> tuple[QuantConfig, SearchReport]:
        """`recipe` with the layers that are to stay fp32."""
        self._start = time.monotonic()
        self._share = mac_shares(self.builder)
        if not within_limits(self._evaluate("plain", recipe, (), ()).distance, self.config):
            self.target_drift_ratio = 1.0
        blocks = self._rank(recipe)
        kept, stopped = self._restore(recipe, [block.layers for block in blocks])
        if stopped == "passed":
            kept = self._give_back(recipe, kept)
        floats = flatten(kept)
        report = SearchReport(
            blocks=tuple(blocks),
            path=tuple(self.path),
            passed=stopped == "passed",
            stopped=stopped,
            seconds=time.monotonic() - self._start,
            cells=len(self.metric.cells),
            int8_share=1 - self._mac_share(floats),
        )
        return recipe.model_copy(update={"floats": self._in_graph_order(floats)}), report

    def _rank(self, recipe: QuantConfig) -> list[BlockCost]:
        """Costliest first."""
        blocks = blocks_of(self.builder.model, self.builder.layers, self.config.search_blocks)
        found = sorted(self._costs(recipe, blocks), key=lambda cost: -cost.drift)
        whole, seen, refined = sum(cost.drift for cost in found), 0.0, []
        for cost in found:
            if len(cost.layers) > 1 and seen < REFINED_COST_SHARE * whole:
                refined.append(cost)
            seen += cost.drift
        for cost in refined:
            layers = self._costs(recipe, [(name,) for name in cost.layers])
            if len(layers) == len(cost.layers):
                found[found.index(cost) : found.index(cost) + 1] = layers
        return sorted(found, key=lambda cost: -cost.drift)

    def _costs(self, recipe: QuantConfig, blocks: Sequence[tuple[str, ...]]) -> list[BlockCost]:
        """Of as many `blocks` as there is time for."""
        layers, rows = self.builder.layers, evenly_spaced(len(self.metric.cells), RANKING_CELLS)
        found = []
        for number, block in enumerate(blocks, 1):
            if self._time_is_up(RANKING_TIME_SHARE):
                break
            alone = recipe.model_copy(update={"floats": tuple(name for name in layers if name not in block)})
            drift = self.metric.measure(self.builder.build(alone, features=False), rows).drift
            found.append(BlockCost(layers=block, drift=drift, work=self._mac_share(block)))
            alone_in = f"{number} of {len(blocks)}, {_named(block)} alone in int8"
            logger.info("%s: the vote drifts by %.4f; %s", alone_in, drift, self._time_left())
        return found

    def _restore(self, recipe: QuantConfig, blocks: Sequence[Layers]) -> tuple[list[Layers], StopReason]:
        """The blocks that come back to fp32, costliest first, and why no more do."""
        fitting: list[Layers] = []
        for block in blocks:  # one that is too large may be followed by one that fits
            if self._mac_share([name for one in (*fitting, block) for name in one]) <= self.config.search_share:
                fitting.append(block)
        count, kept = 0, 0
        drifts = {0: self.path[-1].distance.drift}
        while not self._within_limits(self.path[-1].distance):
            if self._time_is_up() or kept == len(fitting):
                why: StopReason = "time" if self._time_is_up() else "share" if len(fitting) < len(blocks) else "end"
                best = min(drifts, key=lambda number: drifts[number])  # errors may cancel out: more isn't always better
                return fitting[:best], why
            count = max(2 * count, 1)
            added = fitting[kept:count]
            kept = min(count, len(fitting))
            drifts[kept] = self._evaluate("restore", recipe, flatten(fitting[:kept]), flatten(added)).distance.drift
        return fitting[:kept], "passed"

    def _give_back(self, recipe: QuantConfig, kept: list[Layers]) -> list[Layers]:
        """`kept` less the blocks without which the limits hold too."""
        size = len(kept) // 2
        while size:
            for end in range(len(kept), 0, -size):  # the last restored cost least
                back = kept[max(end - size, 0) : end]
                fewer = [block for block in kept if block not in back]
                if not fewer or self._time_is_up():
                    continue
                step = self._evaluate("give back", recipe, flatten(fewer), flatten(back))
                if self._within_limits(step.distance):
                    kept = fewer
                else:
                    self.path[-1] = step.model_copy(update={"deed": "keep", "int8_share": 1 - self._mac_share(flatten(kept))})
            size //= 2
        return kept

    def _evaluate(self, action: Action, recipe: QuantConfig, floats: tuple[str, ...], changed: tuple[str, ...]) -> SearchStep:
        child = self.builder.build(recipe.model_copy(update={"floats": self._in_graph_order(floats)}))
        found = self.metric.measure(child)
        self.path.append(SearchStep(deed=action, layers=changed, distance=found, int8_share=1 - self._mac_share(floats)))
        logger.info(
            "%s %s: %.2f %% of votes flip, drift %.4f, %.1f %% of the work is int8; %s",
            action,
            _named(changed),
            100 * found.flip_rate,
            found.drift,
            100 * self.path[-1].int8_share,
            self._time_left(),
        )
        return self.path[-1]

    def _within_limits(self, distance: QuantisationDrift) -> bool:
        return within_limits(distance, self.config) and distance.drift <= self.target_drift_ratio * self.path[0].distance.drift

    def _time_is_up(self, share: float = 1.0) -> bool:
        return time.monotonic() > self._start + share * 60 * self.config.search_minutes

    def _time_left(self) -> str:
        left = self._start + 60 * self.config.search_minutes - time.monotonic()
        return f"at most {format_duration(left)} left" if left > 0 else "time is up"

    def _mac_share(self, layers: Collection[str]) -> float:
        return sum(self._share[name] for name in layers)

    def _in_graph_order(self, layers: Collection[str]) -> tuple[str, ...]:
        return tuple(name for name in self.builder.layers if name in layers)


def mac_shares(builder: Int8Builder) -> dict[str, float]:
    """The share that each layer that can be int8 has of the multiply-adds of all of them."""
    work = count_macs(builder.model)
    total = sum(work[name] for name in builder.layers)
    return {name: work[name] / total for name in builder.layers}


def blocks_of(model: onnx.ModelProto, layers: Sequence[str], most: int) -> list[tuple[str, ...]]:
    """`layers` in at most `most` blocks, in order: each alone where they are few, else from joint to joint, and neighbours."""
    if len(layers) <= most:
        return [(name,) for name in layers]
    blocks: list[list[str]] = [[]]
    for node in model.graph.node:
        if node.name in layers:
            blocks[-1].append(node.name)
        elif node.op_type in JOINTS and blocks[-1]:
            blocks.append([])
    blocks = [block for block in blocks if block]
    while len(blocks) > most:
        sizes = [len(one) + len(other) for one, other in pairwise(blocks)]
        place = sizes.index(min(sizes))
        blocks[place : place + 2] = [blocks[place] + blocks[place + 1]]
    return [tuple(block) for block in blocks]


def flatten(blocks: Sequence[Layers]) -> Layers:
    """The layers of `blocks`."""
    return tuple(name for block in blocks for name in block)


def evenly_spaced(cells: int, count: int) -> list[int]:
    """`count` places of `cells` at even distances."""
    return sorted({place * cells // min(count, cells) for place in range(min(count, cells))})


def _named(layers: Sequence[str]) -> str:
    if len(layers) < 2:
        return "".join(layers) or "int8"
    return f"{layers[0]} to {layers[-1]}"
