"""Which graph is opened, computed in what, and why."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from onnx_builders import reference, two_towers
from waiting import wait_until

from blastscope.runtime.backends.openvino import backend as openvino_cpu
from blastscope.runtime.bundle import read_bundle
from blastscope.runtime.errors import BlastscopeError, DeviceError, EngineError, GoldenMismatch, UngatedBundle, UsageError
from blastscope.runtime.inference import loader
from blastscope.runtime.inference.autotune import Autotuner, EngineConfig, TimingCache, eligible_configs, rank_by_latency
from blastscope.runtime.inference.events import EventLog
from blastscope.runtime.session import Scope, open_bundle

EVERY = {"fp32": {"f32": 1e-4, "bf16": 0.1}, "fp16": {"f32": 1e-2, "bf16": 0.1, "f16": 1e-2}, "int8": {"int8": 0.2, "f32": 0.2}}
FLOATS: Any = ("f32", "bf16", "f16", "int8")


def names(path: Path, precision: Any = None, execution: Any = None, offered: Any = FLOATS) -> list[str]:
    return [one.name for one in eligible_configs(read_bundle(path), precision, execution, offered)]


def test_auto_admits_each_execution_once_from_the_first_graph_that_has_it(tiny_bundle: Any) -> None:
    path = tiny_bundle.make("fp32", "fp16", "int8", tolerances=EVERY)
    assert names(path) == ["fp32", "fp32-bf16", "fp16-f16", "int8"]
    assert names(path, offered=("f32", "int8")) == ["fp32", "int8"]
    assert names(path, "fp16") == ["fp16", "fp16-bf16", "fp16-f16"]
    assert names(path, "fp16", "bf16") == ["fp16-bf16"]
    assert names(path, execution="bf16") == ["fp32-bf16"]


def test_a_coarse_execution_is_taken_only_where_it_is_asked_for(tiny_bundle: Any) -> None:
    path = tiny_bundle.make("fp32", "int8", tolerances={"fp32": {"f32": 1e-4, "bf16": 0.11}, "int8": {"int8": 0.4}})
    assert names(path) == ["fp32", "int8"]  # int8 has passed a gate of its own
    assert names(path, execution="bf16") == ["fp32-bf16"]
    only = tiny_bundle.make("fp32", name="only", tolerances={"fp32": {"bf16": 0.3}})
    assert names(only) == ["fp32-bf16"]


def test_an_execution_without_a_tolerance_is_not_offered(tiny_bundle: Any) -> None:
    path = tiny_bundle.make("fp32", tolerances={"fp32": {"f32": 1e-4}})
    assert names(path) == ["fp32"]
    with pytest.raises(UsageError, match="no tolerance for fp32 computed in bf16: it gives f32"):
        names(path, "fp32", "bf16")


def test_an_execution_that_the_device_lacks_is_a_device_error(tiny_bundle: Any) -> None:
    with pytest.raises(DeviceError, match="the device offers f32"):
        names(tiny_bundle.make("fp32", tolerances=EVERY), "fp32", "bf16", offered=("f32",))


def test_a_precision_that_the_bundle_lacks_is_refused_with_those_it_has(tiny_bundle: Any) -> None:
    with pytest.raises(UsageError, match="no fused int8 graph: it has fp32"):
        names(tiny_bundle.make("fp32"), "int8")


def test_measured_candidates_come_first_by_speed_and_failed_ones_last(tiny_bundle: Any) -> None:
    bundle = read_bundle(tiny_bundle.make("fp32", "fp16", "int8", tolerances=EVERY))
    candidates = eligible_configs(bundle, None, None, FLOATS)

    def ranked(**times: Any) -> list[str]:
        known = {name.replace("_", "-"): value for name, value in times.items()}
        return [one.name for one in rank_by_latency(candidates, known)]

    assert ranked() == ["fp32-bf16", "fp16-f16", "fp32", "int8"]
    assert ranked(int8=3.0, fp32=2.0) == ["fp32", "int8", "fp32-bf16", "fp16-f16"]
    assert ranked(fp32_bf16=None, int8=9.0) == ["int8", "fp16-f16", "fp32", "fp32-bf16"]


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"ms_per_crop": 3}', '{"ms_per_crop": {"fp32": "x"}}', "\x00"])
def test_a_damaged_memory_is_no_memory(tmp_path: Path, text: str) -> None:
    (tmp_path / "choices").mkdir()
    (tmp_path / "choices" / "key.json").write_text(text)
    memory = TimingCache(tmp_path, "key")
    assert memory.read() == {}
    memory.remember({"fp32": 1.5})
    memory.remember({"int8": None})
    assert memory.read() == {"fp32": 1.5, "int8": None}


@pytest.fixture(autouse=True)
def unknown_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Guesses don't depend on the machine that runs the tests: int8 comes last."""
    monkeypatch.setattr(loader, "cpu_features", frozenset)


def opened(path: Path, cache: Path, backend: str = "openvino", **asked: Any) -> Scope:
    return open_bundle(path, cache_dir=cache, backend=backend, **asked)


def test_the_first_opening_is_unmeasured_and_the_next_takes_the_fastest(tiny_bundle: Any, tmp_path: Path) -> None:
    path = tiny_bundle.make("fp32", "int8")
    with opened(path, tmp_path / "cache") as scope:
        assert scope.audit.precision == "fp32"
        assert any("not measured on this machine yet" in note for note in scope.notes)
        before = scope.classify(tiny_bundle.cell()).audit
        assert scope.classify(tiny_bundle.cell()).audit == before  # the choice of an open handle holds
    assert any("measured int8" in note for note in scope.notes)
    (memory,) = (tmp_path / "cache" / "choices").iterdir()
    times = json.loads(memory.read_text())["ms_per_crop"]
    assert set(times) == {"fp32", "int8"}
    for fast, slow in (("int8", "fp32"), ("fp32", "int8")):
        memory.write_text(json.dumps({"ms_per_crop": {fast: 1.0, slow: 2.0}}))
        with opened(path, tmp_path / "cache") as scope:
            assert scope.audit.precision == fast
            assert any(f"took {fast}: fastest of what was measured" in note for note in scope.notes)


def test_without_an_answer_nothing_is_measured(tiny_bundle: Any, tmp_path: Path) -> None:
    opened(tiny_bundle.make("fp32", "int8"), tmp_path / "cache").close()
    assert not (tmp_path / "cache" / "choices").exists()


def test_a_named_precision_that_fails_the_golden_set_is_an_error(tiny_bundle: Any, tmp_path: Path) -> None:
    path = tiny_bundle.make("fp32", "int8", wrong={"fp32": 0.5})
    with pytest.raises(GoldenMismatch, match=r"fp32/ensemble\.onnx computed in f32 by openvino differs"):
        opened(path, tmp_path, precision="fp32")
    with opened(path, tmp_path, precision="int8") as scope:
        assert scope.audit.execution == "int8"


def test_auto_passes_over_what_fails_the_golden_set_and_says_why(tiny_bundle: Any, tmp_path: Path) -> None:
    with opened(tiny_bundle.make("fp32", "int8", wrong={"fp32": 0.5}), tmp_path) as scope:
        assert scope.audit.precision == "int8"
        assert any("fp32 is passed over" in note and "differs" in note for note in scope.notes)


def test_auto_raises_when_everything_fails_the_golden_set(tiny_bundle: Any, tmp_path: Path) -> None:
    with pytest.raises(GoldenMismatch):
        opened(tiny_bundle.make("fp32", "int8", wrong={"fp32": 0.5, "int8": 3.0}), tmp_path)


def test_a_wrong_graph_found_by_the_measurement_is_remembered_as_failed(tiny_bundle: Any, tmp_path: Path) -> None:
    with opened(tiny_bundle.make("fp32", "int8", wrong={"int8": 3.0}), tmp_path / "cache") as scope:
        scope.classify(tiny_bundle.cell())
    assert any("int8 is passed over" in note for note in scope.notes)
    (memory,) = (tmp_path / "cache" / "choices").iterdir()
    assert json.loads(memory.read_text())["ms_per_crop"]["int8"] is None
    with opened(scope.bundle.path, tmp_path / "cache") as scope:
        assert any("int8 failed on this machine" in note for note in scope.notes)


def test_an_engine_that_breaks_off_is_passed_over(tiny_bundle: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = openvino_cpu.open_engine

    def broken(graph: Path, sha256: str, options: Any) -> Any:
        if options.execution == "f32":
            raise EngineError("openvino, a test")
        return real(graph, sha256, options)

    monkeypatch.setattr(openvino_cpu, "open_engine", broken)
    path = tiny_bundle.make("fp32", "int8")
    with opened(path, tmp_path) as scope:
        assert scope.audit.precision == "int8"
    with pytest.raises(EngineError):
        opened(path, tmp_path, precision="fp32")


def test_a_benchmark_bundle_opens_only_for_who_knows_what_it_is(tiny_bundle: Any, tmp_path: Path) -> None:
    path = tiny_bundle.make("fp32", "int8", gate="waived", int8_gate="none")
    with pytest.raises(UngatedBundle, match="allow_ungated"):
        opened(path, tmp_path)
    with opened(path, tmp_path, precision="int8", allow_ungated=True) as scope:
        assert scope.audit.execution == "int8"


def test_fp16_on_a_device_without_it_says_what_it_is_computed_in(tiny_bundle: Any, tmp_path: Path) -> None:
    with opened(tiny_bundle.make("fp16", tolerances=EVERY), tmp_path, precision="fp16", execution="f32") as scope:
        assert (scope.audit.precision, scope.audit.execution) == ("fp16", "f32")
        assert any("fp16 graph is computed in f32" in note for note in scope.notes)


@pytest.mark.parametrize(
    "asked",
    [
        {"device": "gpu"},
        {"precision": "fp64"},
        {"execution": "f64"},
        {"backend": "torch"},
        {"workload": "fast"},
        {"threads": 0},
        {"queue": 0},
    ],
)
def test_an_argument_that_cannot_be_is_a_usage_error(tiny_bundle: Any, tmp_path: Path, asked: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        opened(tiny_bundle.make(), tmp_path, **asked)


def test_an_engine_that_breaks_off_while_it_is_measured_is_a_note(
    tiny_bundle: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(survey: Autotuner, ours: object, theirs: object) -> None:
        raise EngineError("it broke off")

    monkeypatch.setattr(Autotuner, "_race", broken)
    with opened(tiny_bundle.make("fp32", "int8"), tmp_path / "cache") as scope:
        scope.classify(tiny_bundle.cell())
    assert "int8 is not measured yet: it broke off" in scope.notes
    assert not (tmp_path / "cache" / "choices").exists()


@pytest.mark.parametrize("device", ["cuda", "cuda:1", "openvino:NPU.9"])
def test_a_device_that_is_not_here_exits_with_4(tiny_bundle: Any, tmp_path: Path, device: str) -> None:
    with pytest.raises(BlastscopeError) as caught:
        opened(tiny_bundle.make(), tmp_path, device=device)
    assert caught.value.exit_code == 4


def test_a_candidate_is_named_as_in_benchmark_rows(tiny_bundle: Any) -> None:
    entry = read_bundle(tiny_bundle.make("fp32")).graph("fp32")
    assert entry
    assert [EngineConfig(entry, "f32").name, EngineConfig(entry, "bf16").name] == ["fp32", "fp32-bf16"]


# ---- layouts


@pytest.fixture
def towers(tiny_bundle: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Bundles of a graph that can be cut."""
    graphs = {"fp32": two_towers(), "int8": two_towers(int8=True)}
    monkeypatch.setattr(tiny_bundle, "graph", lambda precision="fp32", **_: graphs[precision])
    monkeypatch.setattr(tiny_bundle, "expected", lambda crops: reference(graphs["fp32"], crops))
    return tiny_bundle


def remembered(cache: Path) -> dict[str, float | None]:
    (memory,) = (cache / "choices").iterdir()
    return dict(json.loads(memory.read_text())["ms_per_crop"])


def test_the_fastests_layouts_are_measured_and_the_best_is_taken_next(towers: Any, tmp_path: Path) -> None:
    path, cache = towers.make("fp32"), tmp_path / "cache"
    with opened(path, cache, threads=2) as scope:
        assert scope.audit.layout == "fused"
        scope.classify(towers.cell())
        wait_until(lambda: len(scope.notes) >= 2)
    assert any("measured fp32 side-by-side" in note for note in scope.notes)
    assert set(remembered(cache)) == {"fp32", "fp32 side-by-side"}
    (memory,) = (cache / "choices").iterdir()
    for fast, slow in (("fp32 side-by-side", "fp32"), ("fp32", "fp32 side-by-side")):
        memory.write_text(json.dumps({"ms_per_crop": {fast: 1.0, slow: 2.0}}))
        with opened(path, cache, threads=2) as scope:
            assert scope.audit.layout == ("fused" if fast == "fp32" else "side-by-side")
            assert any(f"took {fast}: fastest of what was measured" in note for note in scope.notes)
            scope.classify(towers.cell())
        assert not any("measured fp32 " in note and "fastest" not in note for note in scope.notes)  # nothing is left to measure


def test_other_layouts_wait_until_the_fastest_precision_is_known(towers: Any, tmp_path: Path) -> None:
    path, cache = towers.make("fp32", "int8", tolerances={"int8": {"int8": 1.0}}), tmp_path / "cache"
    opener, known = _NoOpener(), _Known({})
    bundle = read_bundle(path)
    fp32, int8 = eligible_configs(bundle, None, None, ("f32", "int8"))
    for speed, wanted in ((1.0, ["int8"]), (3.0, ["int8", "fp32 side-by-side"])):
        known.times = {"fp32": 2.0, "int8": speed}
        others = [int8, fp32._replace(layout="side-by-side")]
        survey = Autotuner((fp32, None), others, opener, known, EventLog())  # type: ignore[arg-type]
        assert [one.name for one in survey._line()] == wanted
    assert not cache.exists()


class _NoOpener:
    golden: Any = None
    workload: Any = "latency"

    def open(self, candidate: EngineConfig) -> Any:
        raise AssertionError(candidate)


class _Known(TimingCache):
    def __init__(self, times: dict[str, float | None]) -> None:
        self.times = times

    def read(self) -> dict[str, float | None]:
        return self.times


def test_a_graph_that_stays_whole_is_asked_once(tiny_bundle: Any, tmp_path: Path) -> None:
    path, cache = tiny_bundle.make("fp32"), tmp_path / "cache"
    with opened(path, cache, threads=2) as scope:
        scope.classify(tiny_bundle.cell())
    assert any("side-by-side is passed over" in note and "can't be cut" in note for note in scope.notes)
    assert remembered(cache)["fp32 side-by-side"] is None
    with opened(path, cache, threads=2) as scope:
        scope.classify(tiny_bundle.cell())
        assert scope.audit.layout == "fused"
    assert not any("passed over" in note for note in scope.notes)


def test_times_taken_while_the_handle_is_at_work_do_not_count(
    towers: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, cache = towers.make("fp32"), tmp_path / "cache"
    glances = threading.Semaphore(0)  # of the measurement, at whether the handle is at work

    def glance(seconds: float) -> None:
        glances.release()
        time.sleep(seconds)

    clock = SimpleNamespace(
        monotonic=time.monotonic, perf_counter=time.perf_counter, process_time=time.process_time, sleep=glance
    )
    monkeypatch.setattr("blastscope.runtime.inference.autotune.time", clock)
    with opened(path, cache, threads=2) as scope:
        with scope._run.opened.lanes.call():  # a long job
            scope.classify(towers.cell())
            assert all(glances.acquire(timeout=60) for _ in range(3))
            assert not (cache / "choices").exists()
        wait_until(lambda: len(scope.notes) >= 2)
    assert set(remembered(cache)) == {"fp32", "fp32 side-by-side"}


def test_a_handle_closed_at_work_leaves_the_measurement_to_the_next(towers: Any, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    scope = opened(towers.make("fp32"), cache, threads=2)
    lanes = scope._run.opened.lanes
    call = lanes.enter()
    scope.classify(towers.cell())
    threading.Timer(0.5, lanes.leave, [call]).start()
    scope.close()
    assert any("was at work all the time" in note for note in scope.notes) or remembered(cache)


def test_a_layout_that_is_named_is_taken_and_nothing_is_measured(towers: Any, tmp_path: Path) -> None:
    path = towers.make("fp32")
    answers = []
    for layout in ("fused", "side-by-side"):
        with opened(path, tmp_path / "cache", threads=2, layout=layout) as scope:
            assert scope.audit.layout == layout
            answers.append(scope.classify(towers.cell()))
    assert not (tmp_path / "cache" / "choices").exists()
    np.testing.assert_allclose(*(answer.probabilities for answer in answers), atol=1e-6)
    with pytest.raises(UsageError, match="layout is for a CPU"):
        opened(path, tmp_path, layout="fused", device="cuda")
    with pytest.raises(UsageError, match="'in-heaps' is not known: say auto, fused"):
        opened(path, tmp_path, layout="in-heaps")
    with pytest.raises(UsageError, match="may be had"):
        opened(path, tmp_path, layout="paired")


def test_what_was_measured_with_other_threads_does_not_count(towers: Any, tmp_path: Path) -> None:
    path = towers.make("fp32")
    for threads in (1, 2):
        with opened(path, tmp_path / "cache", threads=threads) as scope:
            scope.classify(towers.cell())
    assert [*map(len, map(_times, sorted((tmp_path / "cache" / "choices").iterdir())))] == [2]  # one core has one layout


def _times(memory: Path) -> dict[str, float | None]:
    return dict(json.loads(memory.read_text())["ms_per_crop"])


def test_a_handle_may_be_closed_as_its_measurement_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    class Open(tuple[str, str]):
        name = "open"

    told: list[Exception | None] = []
    survey = Autotuner((Open(("a", "b")), None), [], None, SimpleNamespace(read=dict), EventLog())  # type: ignore[arg-type]

    def finish() -> None:
        try:
            survey.finish()
            told.append(None)
        except RuntimeError as error:
            told.append(error)

    class Slow(threading.Thread):
        def start(self) -> None:
            closer.start()
            closer.join(0.05)  # whoever closes is at it before this thread began
            super().start()

    closer = threading.Thread(target=finish)
    monkeypatch.setattr("blastscope.runtime.inference.background.threading.Thread", Slow)
    survey.start()
    closer.join()
    assert told == [None]
