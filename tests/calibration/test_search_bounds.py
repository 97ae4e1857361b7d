"""How far a search goes, on layers whose costs are made up: to its target, to its limits, and no further than its bounds."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import pytest

from blastscope.calibration.acceptance.mixed_precision_search import Search, SearchReport
from blastscope.calibration.config import CalibrationConfig
from blastscope.calibration.evaluation import QuantisationDrift
from blastscope.calibration.quantisation.quantizer import QuantConfig

COSTS = {"a": 0.02, "b": 0.05, "c": 0.3, "d": 0.03}  # the drift of each layer alone in int8
Far = Callable[[tuple[str, ...]], QuantisationDrift]  # from the layers in fp32


@pytest.fixture(autouse=True)
def _equal_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "blastscope.calibration.acceptance.mixed_precision_search.count_macs", lambda _: dict.fromkeys(COSTS, 1)
    )


def drift(floats: tuple[str, ...]) -> float:
    return sum(cost for name, cost in COSTS.items() if name not in floats)


def search(far: Far, *, target_drift_ratio: float = 1.0, share: float = 0.75) -> tuple[tuple[str, ...], SearchReport]:
    builder = SimpleNamespace(model=None, layers=tuple(COSTS), build=lambda recipe, **_: recipe)
    metric = SimpleNamespace(cells=range(64), measure=lambda recipe, rows=None: far(recipe.floats))
    config = CalibrationConfig(search_share=share)
    recipe, report = Search(builder, metric, config, target_drift_ratio=target_drift_ratio).run(QuantConfig())  # type: ignore[arg-type]
    return recipe.floats, report


def unseen(floats: tuple[str, ...]) -> QuantisationDrift:
    """The search's cells flip in no graph, though the gate's did."""
    return QuantisationDrift(drift=drift(floats), flip_rate=0, f1_drop_points=0)


def test_where_its_cells_see_nothing_a_search_comes_down_to_its_target() -> None:
    assert search(unseen)[0] == ()
    floats, report = search(unseen, target_drift_ratio=0.5)
    assert floats == ("c",)
    assert (report.stopped, report.int8_share) == ("passed", 0.75)
    assert search(unseen, target_drift_ratio=0.15)[0] == ("b", "c")


def test_where_its_cells_see_the_fault_they_are_gone_by_and_not_the_target() -> None:
    def seen(floats: tuple[str, ...]) -> QuantisationDrift:
        return QuantisationDrift(drift=drift(floats), flip_rate=0.0 if "c" in floats else 0.3, f1_drop_points=0)

    assert search(seen, target_drift_ratio=0.01)[0] == ("c",)


def test_half_of_the_gates_limits_is_what_few_cells_must_keep() -> None:
    def near(floats: tuple[str, ...]) -> QuantisationDrift:
        return QuantisationDrift(drift=drift(floats), flip_rate=0.011 if "c" not in floats else 0.0099, f1_drop_points=0)

    assert search(near)[0] == ("c",)


def test_at_its_bounds_the_graph_that_drifts_least_is_taken() -> None:
    def cancelling(floats: tuple[str, ...]) -> QuantisationDrift:
        """Errors cancel out: one layer in fp32 is better than two."""
        few = {0: 0.4, 1: 0.2, 2: 0.3}
        return QuantisationDrift(drift=few.get(len(floats), drift(floats)), flip_rate=0.3, f1_drop_points=0)

    floats, report = search(cancelling, share=0.5)
    assert [step.deed for step in report.path] == ["plain", "restore", "restore"]
    assert report.path[-1].int8_share == 0.5
    assert (floats, report.stopped, report.passed) == (("c",), "share", False)


def test_only_blocks_that_cost_nearly_all_are_ranked_layer_by_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "blastscope.calibration.acceptance.mixed_precision_search.blocks_of", lambda *_: [("a", "d"), ("b", "c")]
    )
    monkeypatch.setitem(COSTS, "a", 0.001)
    _, report = search(unseen)
    assert [block.layers for block in report.blocks] == [("c",), ("b",), ("a", "d")]
