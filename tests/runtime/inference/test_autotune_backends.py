"""Several backends on one CPU: what is guessed, what is measured, and which one answers next time."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from blastscope.runtime.backends.onnxruntime import cpu as onnxruntime_cpu
from blastscope.runtime.backends.openvino import backend as openvino_cpu
from blastscope.runtime.backends.protocol import BACKENDS
from blastscope.runtime.bundle import read_bundle
from blastscope.runtime.errors import EngineError, MissingLibrary, UsageError
from blastscope.runtime.inference import autotune, loader
from blastscope.runtime.inference.autotune import OTHERWISE, TimingCache, TimingCaches, likely_fastest
from blastscope.runtime.inference.options import SessionOptions
from blastscope.runtime.session import Scope, open_bundle
from blastscope.runtime.types import EXECUTIONS

AVX2 = frozenset({"avx2"})
VNNI = AVX2 | {"avx512f", "avx512_vnni"}
BF16 = VNNI | {"avx512_bf16"}
AMX = BF16 | {"amx_bf16", "amx_int8"}


@pytest.fixture(autouse=True)
def short_races(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(autotune, "_SECONDS", 0.0)


def opened(path: Path, cache: Path, **asked: Any) -> Scope:
    return open_bundle(path, cache_dir=cache, device="cpu", threads=1, **asked)


def measure_all(bundles: Any, path: Path, cache: Path, **asked: Any) -> None:
    """Opens and answers until nothing is left to measure."""
    for _ in range(10):
        with opened(path, cache, **asked) as scope:
            if scope._run.opened.autotuner is None:
                return
            scope.classify(bundles.cell())
    raise AssertionError("there is always something left to measure")


def timing_files(path: Path, cache: Path) -> dict[str, Path]:
    """The file of each backend's times."""
    bundle, found = read_bundle(path), {}
    for name in BACKENDS:
        options = SessionOptions.parse(device="cpu", threads=1, cache_dir=cache, backend=name)
        found[name] = loader._host_part(bundle, options, name).memory._path
    return found


def write(file: Path, times: dict[str, float | None]) -> None:
    file.parent.mkdir(exist_ok=True, parents=True)
    file.write_text(json.dumps({"ms_per_crop": times}))


# ---- the first opening


@pytest.mark.parametrize(
    ("features", "order"),
    [
        (AVX2, ("int8", "f32", "bf16", "f16")),
        (VNNI, ("int8", "f32", "bf16", "f16")),
        (BF16, ("int8", "bf16", "f32", "f16")),
        (AMX, ("int8", "bf16", "f32", "f16")),
        (frozenset({"asimd"}), OTHERWISE),
        (frozenset(), OTHERWISE),
    ],
)
def test_a_guess_names_every_execution_once(features: frozenset[str], order: tuple[str, ...]) -> None:
    assert likely_fastest(features) == order
    assert sorted(order) == sorted(EXECUTIONS)


@pytest.mark.parametrize(("features", "precision"), [(AVX2, "int8"), (VNNI, "int8"), (AMX, "int8"), (frozenset(), "fp32")])
def test_the_first_opening_takes_what_the_cpu_is_likely_fastest_in(
    features: frozenset[str], precision: str, tiny_bundle: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loader, "cpu_features", lambda: features)
    with opened(tiny_bundle.make("fp32", "int8"), tmp_path) as scope:
        assert (scope.audit.precision, scope.audit.backend) == (precision, "openvino")
        assert any(f"took {precision}: not measured on this machine yet" in note for note in scope.notes)


def test_an_int8_that_is_not_admitted_is_not_guessed(tiny_bundle: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loader, "cpu_features", lambda: AMX)
    with opened(tiny_bundle.make("fp32"), tmp_path) as scope:
        assert scope.audit.precision == "fp32"
    with opened(tiny_bundle.make("fp32", "int8", wrong={"int8": 3.0}), tmp_path) as scope:
        assert (scope.audit.precision, scope.audit.backend) == ("fp32", "openvino")  # neither backend's int8 passes
        assert any(note.startswith("int8/onnxruntime is passed over") for note in scope.notes)


def test_a_measurement_corrects_the_guess(tiny_bundle: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loader, "cpu_features", lambda: AMX)
    path, cache = tiny_bundle.make("fp32", "int8"), tmp_path / "cache"
    write(timing_files(path, cache)["openvino"], {"int8": 2.0, "fp32": 1.0})
    with opened(path, cache) as scope:
        assert scope.audit.precision == "fp32"


# ---- backends


def counted(module: ModuleType, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What of `module` is opened from now on."""
    seen: list[str] = []
    real: Callable[..., Any] = module.open_engine

    def open_engine(graph: Path, sha256: str, options: Any) -> Any:
        seen.append(options.execution)
        return real(graph, sha256, options)

    monkeypatch.setattr(module, "open_engine", open_engine)
    return seen


def test_one_engine_is_loaded_before_the_first_answer(
    tiny_bundle: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loads = counted(openvino_cpu, monkeypatch), counted(onnxruntime_cpu, monkeypatch)
    with opened(tiny_bundle.make("fp32", "int8"), tmp_path) as scope:
        assert [*map(len, loads)] == [1, 0]
        autotuner = scope._run.opened.autotuner
        assert autotuner is not None
        scope.classify(tiny_bundle.cell())
        autotuner.finish()
        assert sum(map(len, loads)) >= 2


def test_a_second_backends_library_is_not_imported_to_open(tiny_bundle: Any, tmp_path: Path) -> None:
    code = (
        "import sys\nfrom pathlib import Path\nfrom blastscope import open_bundle\n"
        "scope = open_bundle(Path(sys.argv[1]), device='cpu', cache_dir=Path(sys.argv[2]))\n"
        "assert scope.audit.backend == 'openvino'\n"
        "assert scope._run.opened.autotuner is not None\n"
        "assert 'onnxruntime' not in sys.modules\n"
        "scope.close()"
    )
    subprocess.run([sys.executable, "-c", code, str(tiny_bundle.make("fp32")), str(tmp_path)], check=True)


def test_all_backends_are_measured_and_the_fastest_answers_next_time(tiny_bundle: Any, tmp_path: Path) -> None:
    path, cache = tiny_bundle.make("fp32", "int8"), tmp_path / "cache"
    measure_all(tiny_bundle, path, cache)
    files = timing_files(path, cache)
    assert set(files.values()) == set((cache / "choices").iterdir())
    for file in files.values():
        assert set(json.loads(file.read_text())["ms_per_crop"]) >= {"fp32", "int8"}
    for fast in files:
        for name, file in files.items():
            write(file, {"fp32": 3.0, "int8": 1.0 if name == fast else 2.0})
        with opened(path, cache) as scope:
            assert (scope.audit.backend, scope.audit.precision) == (fast, "int8")
            label = "int8" if fast == "openvino" else "int8/onnxruntime"
            assert any(f"took {label}: fastest of what was measured on this machine" in note for note in scope.notes)
            scope.classify(tiny_bundle.cell())


def test_times_of_a_backend_that_was_named_count_for_auto_too(tiny_bundle: Any, tmp_path: Path) -> None:
    path, cache = tiny_bundle.make("fp32", "int8"), tmp_path / "cache"
    measure_all(tiny_bundle, path, cache, backend="onnxruntime")
    file = timing_files(path, cache)["onnxruntime"]
    assert list((cache / "choices").iterdir()) == [file]
    with opened(path, cache) as scope:  # nothing is known of the other: what was measured comes first
        assert scope.audit.backend == "onnxruntime"
        assert any("took" in note and "/onnxruntime" in note for note in scope.notes)


def test_with_one_backend_alone_nothing_is_compared(tiny_bundle: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, cache = tiny_bundle.make("fp32", "int8"), tmp_path / "cache"
    files = timing_files(path, cache)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    measure_all(tiny_bundle, path, cache)
    assert list((cache / "choices").iterdir()) == [files["openvino"]]
    with opened(path, cache) as scope:
        assert not any("onnxruntime" in note for note in scope.notes)


def without_openvino(monkeypatch: pytest.MonkeyPatch) -> None:
    def executions(device: str) -> Any:
        raise MissingLibrary("openvino", "")

    monkeypatch.setattr(openvino_cpu, "executions", executions)


def test_without_openvino_the_other_backend_answers(tiny_bundle: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    without_openvino(monkeypatch)
    with opened(tiny_bundle.make("fp32"), tmp_path) as scope:
        assert scope.audit.backend == "onnxruntime"
        assert scope.notes[0].startswith("openvino is passed over: 'openvino' is not installed")
    with pytest.raises(MissingLibrary, match="openvino"):
        opened(tiny_bundle.make("fp32"), tmp_path, backend="openvino")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(MissingLibrary, match="openvino"):
        opened(tiny_bundle.make("fp32"), tmp_path)


def test_what_is_named_leaves_no_backends_to_compare(tiny_bundle: Any, tmp_path: Path) -> None:
    path = tiny_bundle.make("fp32")
    all_asked = [
        {"layout": "fused"},
        {"precision": "fp32"},
        {"execution": "f32"},
        {"backend": "openvino"},
        {"backend": "onnxruntime"},
    ]
    for asked in all_asked:
        with opened(path, tmp_path, **asked) as scope:
            assert scope.audit.backend == asked.get("backend", "openvino")
            assert scope._run.opened.autotuner is None
            assert any("the only one to choose from" in note for note in scope.notes)
    with pytest.raises(UsageError, match="backend 'torch' is not known"):
        opened(path, tmp_path, backend="torch")


def test_an_engine_that_breaks_off_gives_way_to_the_other_backends(
    tiny_bundle: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(graph: Path, sha256: str, options: Any) -> Any:
        raise EngineError("openvino, a test")

    monkeypatch.setattr(openvino_cpu, "open_engine", broken)
    path = tiny_bundle.make("fp32")
    with opened(path, tmp_path) as scope:
        assert scope.audit.backend == "onnxruntime"
        assert "fp32 is passed over: openvino, a test" in scope.notes
    with pytest.raises(EngineError, match="a test"):
        opened(path, tmp_path, backend="openvino")


def test_times_go_to_their_own_backends_cache(tmp_path: Path) -> None:
    first, second = TimingCache(tmp_path, "first"), TimingCache(tmp_path, "second")
    both = TimingCaches({"": first, "onnxruntime": second})
    both.remember({"int8 side-by-side": 1.0, "int8/onnxruntime": None})
    both.remember({"fp32/onnxruntime": 2.0})
    assert (first.read(), second.read()) == ({"int8 side-by-side": 1.0}, {"int8": None, "fp32": 2.0})
    assert both.read() == {"int8 side-by-side": 1.0, "int8/onnxruntime": None, "fp32/onnxruntime": 2.0}


def test_a_busy_hour_does_not_make_the_fastest_look_slow(
    tiny_bundle: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, cache = tiny_bundle.make("fp32", "int8"), tmp_path / "cache"
    files = timing_files(path, cache)
    write(files["openvino"], {"int8": 1.0, "fp32": 2.0})
    write(files["onnxruntime"], {"int8": 3.0})
    monkeypatch.setattr(autotune.Autotuner, "_race", lambda *_: (50.0, 150.0))  # 50 times as slow as when it was measured
    measure_all(tiny_bundle, path, cache)
    assert json.loads(files["onnxruntime"].read_text())["ms_per_crop"] == {"int8": 3.0, "fp32": 3.0}
    with opened(path, cache) as scope:
        assert (scope.audit.backend, scope.audit.precision) == ("openvino", "int8")


def test_nothing_is_measured_while_other_programs_keep_the_cores_busy(
    tiny_bundle: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, cache = tiny_bundle.make("fp32", "int8"), tmp_path / "cache"
    with monkeypatch.context() as patch:
        patch.setattr(autotune, "_LEAST_TIMED_S", 0.0)
        patch.setattr(autotune, "_LEAST_CORE", 1000.0)  # more than any machine has
        with opened(path, cache) as scope:
            scope.classify(tiny_bundle.cell())
            assert scope._run.opened.autotuner is not None
        assert any("not measured yet: other programs keep the cores busy" in str(event) for event in scope.events)
    assert not any(file.exists() for file in timing_files(path, cache).values())
    measure_all(tiny_bundle, path, cache)
    assert {"int8", "fp32"} <= set(json.loads(timing_files(path, cache)["openvino"].read_text())["ms_per_crop"])


@pytest.mark.parametrize(("workload", "wanted"), [("latency", 1), ("throughput", onnxruntime_cpu.THROUGHPUT_BATCH)])
def test_an_engine_is_measured_with_as_many_crops_as_it_gets_in_use(
    workload: str, wanted: int, tiny_bundle: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts: list[int] = []
    real = onnxruntime_cpu.Lane.infer

    def infer(lane: Any, crops: Any) -> Any:
        counts.append(len(crops))
        return real(lane, crops)

    path = tiny_bundle.make("fp32", "int8")
    with opened(path, tmp_path, backend="onnxruntime", workload=workload) as scope:
        autotuner = scope._run.opened.autotuner
        monkeypatch.setattr(onnxruntime_cpu.Lane, "infer", infer)
        autotuner._time(scope._run.opened.lanes)  # type: ignore[union-attr]
    assert counts == [wanted]
