"""Load tests: LoadGen's scenarios, sweeps until stable, accuracy and energy. Times themselves are never tested."""

from __future__ import annotations

import json
from concurrent.futures import Future
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import f1_score, roc_auc_score
from typer.testing import CliRunner

pytest.importorskip("mlperf_loadgen", reason="mlcommons-loadgen is not installed: pip install 'blastscope[loadgen]'")

from blastscope import open_bundle
from blastscope.benchmarks.load import run as load_run
from blastscope.benchmarks.load import scenarios as loadgen
from blastscope.benchmarks.load.run import EnergyMeter
from blastscope.benchmarks.load.scenarios import LoadSamples, load_samples
from blastscope.benchmarks.load.sweeps import Window, is_stable, measure_until_stable, sweep_concurrency, sweep_request_rate
from blastscope.cli import app
from blastscope.runtime.bundle import read_bundle
from blastscope.runtime.errors import EngineError
from blastscope.runtime.io.cnmc import scan_dataset
from blastscope.runtime.types import CLASSES


def test_all_scenarios_and_sweeps_of_a_bundle_have_a_row(tiny_bundle: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("blastscope.benchmarks.load.run.load_samples", lambda bundle, *_: load_samples(bundle, None, 12))
    path = tiny_bundle.make("fp32")
    command = ["bench", "--loadgen", "all", "--network", str(path), "--seconds", "0.05", "--json", "--threads", "1"]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    rows = {row["scenario"]: row for row in found["rows"]}
    assert list(rows) == ["single-stream", "multi-stream", "server", "offline", "concurrency", "request-rate"]
    assert all(row["cells_per_s"] > 0 and row["precision"] == "fp32" for row in found["rows"])
    assert rows["server"]["latency_bound_ms"] == 100
    assert rows["single-stream"]["latency_ms"] == rows["single-stream"]["p90_ms"]
    assert rows["multi-stream"]["cells_per_query"] == 8
    assert rows["offline"]["energy_j_per_cell"] is not None or "can't be had" in rows["offline"]["energy_note"]
    assert rows["offline"]["accuracy"] is None
    assert rows["offline"]["accuracy_note"] == "drawn cells: C-NMC's aren't at hand"


@pytest.mark.parametrize("scenario", ["single-stream", "multi-stream", "server", "offline"])
def test_accuracy_mode_answers_each_cell_as_the_handle_does(tiny_bundle: Any, scenario: Any) -> None:
    images = [tiny_bundle.cell(seed) for seed in range(11)]
    settings = loadgen.ScenarioSettings(scenario, 0.05, 100.0, 500.0)
    with open_bundle(tiny_bundle.make("fp32"), device="cpu", threads=1) as scope:
        answers = loadgen.measure_accuracy(scope, images, settings)
        expected = [scope.classify(image) for image in images]
    assert [CLASSES[answer.label] for answer in answers] == [one.label for one in expected]
    np.testing.assert_allclose([answer.score for answer in answers], [one.score for one in expected], rtol=1e-6)


def test_the_offline_query_lasts_as_long_as_it_must(tiny_bundle: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    lasted = []

    def measure(scope: Any, images: Any, settings: loadgen.ScenarioSettings) -> loadgen.Summary:
        cells = max(1, round(1.1 * settings.rate * settings.duration_s))  # as LoadGen sizes it
        seconds = 0.0025 + (cells - 1) / 600  # one cell at a time goes at 400 a second
        lasted.append(seconds)
        return loadgen.Summary(seconds >= settings.duration_s, (), {"Samples per second": cells / seconds}, cells)

    monkeypatch.setattr(load_run, "measure_performance", measure)
    samples = LoadSamples((tiny_bundle.cell(0),), None, (), held_out=False, note="")
    config = load_run.LoadConfig(scenarios=("offline",), seconds=10.0)
    (row,) = load_run._Network("tiny", tiny_bundle.make("fp32"), samples, config).measure()
    assert row.valid
    assert 10 <= lasted[-1] < 20


def test_a_refusal_is_an_answer_and_an_error_is_raised(tiny_bundle: Any) -> None:
    settings = loadgen.ScenarioSettings("single-stream", 0.05, 100.0, 1.0)
    with open_bundle(tiny_bundle.make("fp32"), device="cpu", threads=1) as scope:
        (answer,) = loadgen.measure_accuracy(scope, [np.zeros((40, 40, 3), np.uint8)], settings)
        assert answer.label == -1
    with pytest.raises(EngineError, match="a cell wasn't answered"):
        loadgen.measure_accuracy(scope, [tiny_bundle.cell(0)], settings)  # the handle is closed


def test_a_summary_tells_the_verdict_and_why() -> None:
    text = (
        "Scenario : Server\nCompleted samples per second    : 97.58\nResult is : INVALID\n"
        "  Performance constraints satisfied : Yes\n  Early stopping satisfied: NO\n"
        "99.00 percentile latency (ns)   : 16081616\n"
    )
    found = loadgen.read_summary(text, 31)
    assert (found.valid, found.reasons, found.cells) == (False, ("Early stopping satisfied: no",), 31)
    assert found.percentile_ms(99) == pytest.approx(16.081616)
    assert found.figures["Completed samples per second"] == 97.58
    with pytest.raises(EngineError, match="no result"):
        loadgen.read_summary("", 0)


def test_accuracy_is_what_scikit_learn_says() -> None:
    from blastscope.benchmarks.load.run import score_answers

    rng = np.random.default_rng(0)
    labels, scores = np.repeat([0, 1], 20), rng.random(40)
    calls = (scores > 0.4).astype(int)
    answers = [loadgen.Answer(int(call), float(score)) for call, score in zip(calls, scores, strict=True)]
    people = tuple(f"{'H' if label == 0 else ''}{place // 4}" for place, label in enumerate(labels))
    samples = LoadSamples((), labels, people, held_out=True, note="")
    found = score_answers(answers, samples)
    assert found.weighted_f1.value == pytest.approx(f1_score(labels, calls, average="weighted"))
    assert found.auroc.value == pytest.approx(roc_auc_score(labels, scores))
    refused = [loadgen.Answer(-1, 0.5), *answers[1:]]
    wrong = np.array([1, *calls[1:]])
    assert score_answers(refused, samples).weighted_f1.value == pytest.approx(f1_score(labels, wrong, average="weighted"))


def test_a_bundle_is_judged_on_the_patients_that_it_holds_out(trained_bundle: Any) -> None:
    bundle = read_bundle(trained_bundle.path)
    patients = bundle.manifest.training.patients
    digest = bundle.manifest.training.model_copy(update={"data_sha256": "0" * 64})  # the fixture's networks were solved for
    known = SimpleNamespace(manifest=SimpleNamespace(training=digest))
    found = load_samples(known, trained_bundle.data, 100)  # type: ignore[arg-type]
    assert found.held_out
    people = scan_dataset(trained_bundle.data).people_of(patients.validation)
    assert set(found.people) == set(people)
    whole = digest.model_copy(update={"split": "none"})
    everybody = load_samples(SimpleNamespace(manifest=SimpleNamespace(training=whole)), trained_bundle.data, 100)  # type: ignore[arg-type]
    assert not everybody.held_out
    assert set(everybody.people) > set(found.people)


def windows(*rates: float) -> list[Window]:
    return [Window(np.full(int(rate), 5.0), 1.0) for rate in rates]


def test_a_level_is_stable_when_three_windows_agree() -> None:
    assert not is_stable(windows(100, 100))
    assert is_stable(windows(10, 100, 104, 97))
    assert not is_stable(windows(100, 100, 130))
    assert not is_stable([*windows(100, 100), Window(np.full(100, 9.0), 1.0)])  # as many, but later
    ones = iter(windows(10, 100, 104, 97, 1))
    level = measure_until_stable(lambda: next(ones))
    assert (level.stable, level.windows, level.cells_per_s) == (True, 4, pytest.approx(301 / 3))
    unrest = iter(windows(*(10 * 2**n for n in range(12))))
    assert measure_until_stable(lambda: next(unrest))[2:] == (False, 10)


class Instant:
    """A handle that answers at once."""

    def __init__(self) -> None:
        self.sent: list[int] = []

    def classify(self, image: Any) -> None:
        self.sent.append(image)

    def submit(self, image: Any) -> Future[None]:
        self.sent.append(image)
        done: Future[None] = Future()
        done.set_result(None)
        return done


def test_sweeps_send_every_cell_and_raise_what_goes_wrong() -> None:
    for sweep, level in ((sweep_concurrency, 3), (sweep_request_rate, 2000.0)):
        handle = Instant()
        found = sweep(handle, [1, 2, 3, 4], level, 0.02)  # type: ignore[arg-type]
        assert set(handle.sent) == {1, 2, 3, 4}
        assert 3 <= found.windows <= 10

        def fail(_: Any) -> None:
            raise EngineError("gone")

        handle.classify = handle.submit = fail  # type: ignore[method-assign,assignment]
        with pytest.raises(EngineError, match="gone"):
            sweep(handle, [1], level, 5.0)  # type: ignore[arg-type]


def test_energy_is_the_packages_counters_also_where_they_wrap(tmp_path: Path) -> None:
    for zone, name, value in (
        ("intel-rapl:0", "package-0", 900),
        ("intel-rapl:0:0", "core", 5),
        ("intel-rapl:1", "package-1", 10),
    ):
        (tmp_path / zone).mkdir()
        (tmp_path / zone / "name").write_text(f"{name}\n")
        (tmp_path / zone / "energy_uj").write_text(f"{value}\n")
        (tmp_path / zone / "max_energy_range_uj").write_text("1000\n")
    meter = EnergyMeter("CPU", tmp_path)
    (tmp_path / "intel-rapl:0" / "energy_uj").write_text("100\n")  # it went through 1000
    (tmp_path / "intel-rapl:1" / "energy_uj").write_text("60\n")
    found = meter.read()
    assert found.joules == pytest.approx((200 + 50) / 1e6)
    assert "2 packages" in found.note


def test_energy_that_cannot_be_had_is_told(tmp_path: Path) -> None:
    for device in ("CPU", "cuda:0"):
        found = EnergyMeter(device, tmp_path).read()
        assert found.joules is None or device == "cuda:0"
        assert found.joules is not None or "can't be had" in found.note


def test_an_unknown_scenario_is_named(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["bench", "--loadgen", "flood", "--network", str(tmp_path)])
    assert result.exit_code == 2
