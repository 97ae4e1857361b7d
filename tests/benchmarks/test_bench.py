"""The harness of comparisons: turns, wrong answers, rows, floors, what is compared. Times themselves are never tested."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import numpy as np
import pytest
from onnx_builders import reference, two_towers

from blastscope.benchmarks import baselines as peers
from blastscope.benchmarks import bench as bench_module
from blastscope.benchmarks.baseline_int8 import PeerGraphs
from blastscope.benchmarks.bench import Plan, bench
from blastscope.benchmarks.cpu_contention import LIMIT, Watch, governor, wait_for_idle
from blastscope.benchmarks.interleaved_timing import Image, Pace, Side, Turn, WrongAnswer, run_in_turn, time_in_turn
from blastscope.benchmarks.models import Contender
from blastscope.benchmarks.reference_labels import References, clearest, graph_answers, leads
from blastscope.benchmarks.results import SCHEMA_FILE, result_text
from blastscope.benchmarks.roofline import Peak
from blastscope.benchmarks.schema import MANY_CALLS, BenchResult, Row, make_row, with_floor
from blastscope.runtime.bundle import read_bundle
from blastscope.runtime.types import ClassName

IMAGE: Image = np.zeros((4, 4, 3), np.uint8)
PACE = Pace(rounds=3, calls=2, seconds=0.0)
PEAKS = (Peak(execution="f32", gmacs=50.0, how="told"), Peak(execution="int8", gmacs=200.0, how="told"))
SCHEMA = json.loads(SCHEMA_FILE.read_text(encoding="utf-8"))


def turns(*rounds: Sequence[float]) -> list[Turn]:
    return [Turn(np.array(times, np.float64)) for times in rounds]


def test_sides_run_in_turn_and_every_call_is_kept() -> None:
    order: list[str] = []

    def answer(name: str) -> Any:
        def run(images: Sequence[Image]) -> list[ClassName]:
            order.append(name)
            return ["all"] * len(images)

        return run

    sides = [Side("a", answer("a"), ("all",)), Side("b", answer("b"))]
    found = run_in_turn(sides, [IMAGE], PACE)
    assert "".join(order) == "aabb" + "aabb" * 3  # warm-up, then the turns
    assert {name: [len(turn.times_ms) for turn in turns] for name, turns in found.items()} == {"a": [2, 2, 2], "b": [2, 2, 2]}
    assert {name: len(times) for name, times in time_in_turn(sides, [IMAGE], PACE).items()} == {"a": 6, "b": 6}


@pytest.mark.parametrize("wrong_from", [1, 4])
def test_a_side_that_answers_wrong_is_no_result_however_late(wrong_from: int) -> None:
    calls = iter(range(1, 100))

    def answer(images: Sequence[Image]) -> list[ClassName]:
        return ["hem" if next(calls) >= wrong_from else "all"]

    with pytest.raises(WrongAnswer, match="fast answers"):
        run_in_turn([Side("fast", answer, ("all",))], [IMAGE], PACE)


def test_a_row_has_numpys_percentiles_and_the_ratio_of_the_medians() -> None:
    rounds = ([5.0, 1.0], [2.0, 100.0])
    row = make_row("net/int8/openvino", 8, turns(*rounds), turns([70.0], [7.0, 14.0]))
    assert (row.p50_ms, row.max_ms, row.calls) == (3.5, 100.0, 4)
    assert row.p95_ms == pytest.approx(np.percentile(np.concatenate(rounds), 95))
    assert row.rounds_ms == (3.0, 51.0)
    assert row.samples_ms == ((5.0, 1.0), (2.0, 100.0))
    assert row.ratio == 4.0
    assert row.ratio_low is not None
    assert row.ratio_high is not None
    assert row.ratio_low <= 4.0 <= row.ratio_high
    assert make_row("net/fp32/torch", 1, turns(*rounds)).ratio is None


def test_one_call_in_a_thousand_is_told_only_of_a_thousand_calls() -> None:
    times = np.arange(MANY_CALLS, dtype=np.float64)
    assert make_row("a/b/c", 1, turns(list(times[:-1]))).p999_ms is None
    assert make_row("a/b/c", 1, turns(list(times))).p999_ms == pytest.approx(np.percentile(times, 99.9))


def test_a_row_says_how_much_of_the_machine_others_took_and_which_rounds_they_disturbed() -> None:
    calm, disturbed = Turn(np.ones(2), others=LIMIT / 2), Turn(np.ones(2), others=3 * LIMIT)
    late = Turn(np.ones(2), others=None, began_busy=True)
    row = make_row("a/b/c", 1, [calm, disturbed, late])
    assert (row.others, row.busy_rounds, row.busy) == (3 * LIMIT, 2, True)
    assert not make_row("a/b/c", 1, [calm]).busy


def test_the_share_that_others_take_is_counted_from_the_systems_ticks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counters = tmp_path / "stat"
    clock = iter([0.0, 2.0, 2.0])
    monkeypatch.setattr("blastscope.benchmarks.cpu_contention.time.monotonic", lambda: next(clock))
    monkeypatch.setattr("blastscope.benchmarks.cpu_contention._cores", lambda: {0, 1})
    monkeypatch.setattr("blastscope.benchmarks.cpu_contention.os.sysconf", lambda name: 100)
    now = type("Times", (), {"user": 0.0, "system": 0.0, "children_user": 0.0, "children_system": 0.0})
    monkeypatch.setattr("blastscope.benchmarks.cpu_contention.os.times", lambda: now)
    counters.write_text("cpu 9 9\ncpu0 100 0 0 500 7 0 0 0 0 0\ncpu1 50 0 0 900 0 0 0 0 0 0\ncpu2 0 0 0 0 0 0 0 0 0 0\n")
    watch = Watch(counters)
    # in two seconds 190 ticks of two cores: 40 of them steal, 100 of them our own; the third core is not ours to use
    counters.write_text("cpu0 200 0 0 500 9 0 0 40 70 0\ncpu1 100 0 0 900 0 0 0 0 0 0\ncpu2 400 0 0 0 0 0 0 0 0 0\n")
    now.user, now.children_system = 0.6, 0.4  # type: ignore[attr-defined]
    assert watch.others() == pytest.approx((1.9 - 1.0) / (2 * 2.0))
    assert watch.others() is None  # no time has passed
    assert Watch(tmp_path / "absent").others() is None


def test_the_wait_for_an_idle_machine_ends_when_patience_does(monkeypatch: pytest.MonkeyPatch) -> None:
    shares = iter([0.9, 0.5, 0.01, 0.9, 0.9])
    monkeypatch.setattr(Watch, "others", lambda self: next(shares))
    monkeypatch.setattr("blastscope.benchmarks.cpu_contention.LOOK_S", 0.0)
    assert wait_for_idle(60.0) == 0.01
    assert wait_for_idle(0.0) == 0.9


def test_a_governor_is_told_only_where_it_can_be_read(tmp_path: Path) -> None:
    assert governor(tmp_path) is None
    (tmp_path / "cpu0" / "cpufreq").mkdir(parents=True)
    (tmp_path / "cpu0" / "cpufreq" / "scaling_governor").write_text("performance\n")
    assert governor(tmp_path) == "performance"


def test_the_floor_of_a_row_is_its_work_at_the_peak_of_what_it_computes_in() -> None:
    row = make_row("net/int8/openvino", 2, turns([40.0])).model_copy(update={"gmac": 4.0, "execution": "int8"})
    found = with_floor(row, PEAKS)
    assert (found.floor_ms, found.share) == (20.0, 0.5)
    assert with_floor(row.model_copy(update={"execution": "bf16"}), PEAKS).share is None


@pytest.fixture
def no_peaks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_module, "measure_peaks", lambda threads: PEAKS)


@pytest.mark.usefixtures("no_peaks")
def test_a_bench_names_precision_and_engine_and_says_what_was_left_out(tiny_bundle: Any, tmp_path: Path) -> None:
    path = tiny_bundle.make("fp32", "int8", tolerances={"fp32": {"f32": 1e-4, "bf16": 0.5}})
    contender = Contender("tiny", tmp_path, path, same_weights=True)
    told: list[str] = []
    result = bench([contender], Plan(against_torch=False, batches=(1,), pace=Pace(1, 1, 0.0)), told.append)
    text = result_text(result)
    assert BenchResult.model_validate(json.loads(text)) == result
    jsonschema.validate(json.loads(text), SCHEMA)
    names = {row.name for row in result.rows}
    assert {"tiny/fp32/openvino", "tiny/int8/openvino"} <= names
    assert "tiny/fp32-bf16/openvino" in names or any("tiny/fp32-bf16/openvino" in note for note in result.notes)
    assert all(row.load_s is not None and row.load_s > 0 for row in result.rows if row.name.endswith("/openvino"))
    assert all(row.gmac == pytest.approx(row.batch * 18e-9) for row in result.rows)  # three colours to six logits
    assert all(row.share is not None and row.threads for row in result.rows if "bf16" not in row.name)
    assert {"processor", "features", "cores"} <= set(result.machine.model_dump())


@pytest.mark.usefixtures("no_peaks")
def test_peers_answer_as_their_graphs_do_or_say_why_they_are_left_out(
    tiny_bundle: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tiny_bundle.make("fp32", "int8")
    bundle = read_bundle(path)
    files = [bundle.file(entry) for entry in (bundle.graph("fp32"), bundle.graph("int8")) if entry]
    monkeypatch.setattr(bench_module, "peer_graphs", lambda contender, data, tell: PeerGraphs(*files))

    def no_compiler(*args: Any, **options: Any) -> Any:
        raise RuntimeError("no C++ compiler was found\nand a long trace")

    monkeypatch.setattr(peers, "separate_models", no_compiler)
    monkeypatch.setattr(peers, "fused_model", no_compiler)
    plan = Plan(False, (2,), Pace(1, 1, 0.0), peers=peers.FAMILIES, own=False, cold=False)
    result = bench([Contender("tiny", tmp_path, path, same_weights=True)], plan, lambda text: None)
    engines = {row.name.removeprefix("tiny/").replace("fp32-bf16", "fp32") for row in result.rows}
    assert engines == {
        *("fp32/onnxruntime", "int8/onnxruntime", "int8/onnxruntime-own-int8"),
        *(f"{precision}/openvino-plain{how}" for precision in ("fp32", "int8") for how in ("", "-throughput")),
    }
    assert all(row.how and row.source and row.source.startswith("https://") for row in result.rows)
    assert "tiny/fp32/torch-fused-compiled left out: no C++ compiler was found" in result.notes


@pytest.mark.usefixtures("no_peaks")
def test_a_cascade_is_timed_at_both_its_ends(tiny_bundle: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    graph = two_towers()
    monkeypatch.setattr(tiny_bundle, "graph", lambda precision="fp32", **_: graph)
    monkeypatch.setattr(tiny_bundle, "expected", lambda crops: reference(graph, crops))
    contender = Contender("towers", tmp_path, tiny_bundle.make("fp32"), same_weights=True)
    plan = Plan(False, (1, 2), Pace(1, 1, 0.0), threads=2, layouts=("fused", "side-by-side"), cascade=True, cold=False)
    result = bench([contender], plan, lambda text: None)
    both = {f"towers/fp32/openvino{layout}" for layout in ("", "-staged", "-staged-first-alone")}
    names = {batch: {row.name for row in result.rows if row.batch == batch and "bf16" not in row.name} for batch in (1, 2)}
    assert names == {1: both | {"towers/fp32/openvino-side-by-side"}, 2: both}
    assert any("layout 'side-by-side' is not for throughput" in note for note in result.notes)
    alone = [row for row in result.rows if not row.whole]
    assert alone
    assert all(row.share is None for row in alone)  # the work of all voters is no floor of one


def test_every_peer_has_a_recipe() -> None:
    task = peers.Task(Path("run"), {f"fp32/{name}": Path("x") for name in ("onnxruntime", "openvino-plain")}, None, 1)  # type: ignore[arg-type]
    many = peers.Task(task.run, task.graphs, task.spec, 8)
    names = {name.split("/")[1] for one in (task, many) for family in peers.FAMILIES for name, _ in peers.openings(family, one)}
    assert {*names, "onnxruntime-own-int8"} == set(peers.RECIPES)


def test_references_are_computed_once_and_the_clearest_cells_lead_most(
    tiny_bundle: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tiny_bundle.make("fp32")
    spec = read_bundle(path).manifest.crop
    first = graph_answers(path, References(spec, 6, tmp_path))["fp32"]
    monkeypatch.setattr("blastscope.benchmarks.reference_labels.open_engine", lambda *_, **__: pytest.fail("computed again"))
    again = graph_answers(path, References(spec, 6, tmp_path))["fp32"]
    np.testing.assert_allclose(again, first)
    chosen = clearest([first], 2)
    assert min(leads(first)[chosen]) >= max(leads(first)[[place for place in range(6) if place not in chosen]])


def test_a_row_of_an_older_run_is_still_read() -> None:
    old = {"name": "a/b/c", "batch": 1, "calls": 2, "p50_ms": 1.0, "p95_ms": 1.0, "p99_ms": 1.0, "max_ms": 1.0, "ratio": None}
    assert Row.model_validate(old).what == "pixels"
