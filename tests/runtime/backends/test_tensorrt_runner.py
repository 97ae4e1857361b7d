"""The runner of TensorRT and TensorRT-RTX on a library of the same shape: what it asks for, and what it gives back."""

from __future__ import annotations

import logging
import weakref
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from host_gpu import FOUND, HostGpu
from host_kernels import HostKernels
from host_tensorrt import Context, Engine, Fake, RtxEngine

from blastscope.runtime.backends.nvidia import batch_executor as fixed
from blastscope.runtime.backends.nvidia.engine_factory import PixelPipeline
from blastscope.runtime.backends.protocol import EngineOptions
from blastscope.runtime.backends.tensorrt import backend as tensorrt_gpu
from blastscope.runtime.backends.tensorrt.backend import Runner
from blastscope.runtime.bundle import read_bundle
from blastscope.runtime.crop import Crop, crop_cell
from blastscope.runtime.cuda.driver import gpu_facts
from blastscope.runtime.errors import DeviceError, DeviceLost, EngineError, GoldenMismatch
from blastscope.runtime.session import open_bundle


@pytest.fixture(params=[("tensorrt", Engine), ("tensorrt-rtx", RtxEngine)], ids=["10.3", "rtx"])
def library(request: pytest.FixtureRequest, host_kernels: HostKernels, monkeypatch: pytest.MonkeyPatch) -> tuple[str, Fake]:
    name, kind = request.param
    fake = Fake(HostGpu(host_kernels.launch), kind)
    monkeypatch.setattr(tensorrt_gpu, "load_library", lambda library: fake.module)
    monkeypatch.setattr(tensorrt_gpu, "library_logger", lambda library: None)
    monkeypatch.setattr(tensorrt_gpu, "capture_errors", fake.heard)
    monkeypatch.setattr(tensorrt_gpu, "library_version", lambda library: "10.3.0")
    monkeypatch.setattr(tensorrt_gpu, "find_gpu", lambda ordinal: FOUND)
    monkeypatch.setattr(tensorrt_gpu, "open_gpu", lambda ordinal: fake.gpu)
    for place in ("backends.tensorrt.engine_store", "backends.tensorrt.backend"):
        monkeypatch.setattr(f"blastscope.runtime.{place}.build_engine", lambda graph, key, **rest: graph.read_bytes())
    monkeypatch.setattr(fixed, "USUAL_PX", 100)
    monkeypatch.setattr(PixelPipeline.__init__, "__kwdefaults__", {"batches": (1, 4)})
    return name, fake


@pytest.fixture
def opened(library: tuple[str, Fake], tiny_bundle: Any, tmp_path: Path) -> Any:
    """Opens the tiny graph, again and again."""
    bundle = read_bundle(tiny_bundle.make())
    entry = bundle.manifest.graphs[0]
    runner = Runner(library[0])  # type: ignore[arg-type]
    options = EngineOptions(device="0", cache_dir=tmp_path / "cache", crop=bundle.manifest.crop)

    def again() -> Any:
        return runner.open_engine(bundle.file(entry), entry.sha256, options)

    return SimpleNamespace(again=again, runner=runner, options=options, entry=entry, spec=bundle.manifest.crop)


def test_an_engine_is_built_kept_bound_and_answers(library: tuple[str, Fake], opened: Any, tiny_bundle: Any) -> None:
    name, fake = library
    assert not opened.runner.prepared(opened.entry.sha256, opened.options)
    engine = opened.again()
    assert opened.runner.prepared(opened.entry.sha256, opened.options)
    assert (engine.backend, engine.execution, engine.device) == (name, "f32", "cuda:0 Host GPU")
    assert any("was built just now" in note for note in engine.notes)
    images = [tiny_bundle.cell(seed, size_px=60 + seed) for seed in range(5)]
    result = engine.image_input.lanes[0].infer_images(images)
    crops = [crop_cell(image, opened.spec) for image in images]
    expected = tiny_bundle.expected(np.stack([crop.pixels for crop in crops if isinstance(crop, Crop)]))
    np.testing.assert_allclose(result.answers, expected, atol=2e-6)
    before = fake.gpu.counts.copy()
    engine.image_input.lanes[0].infer_images(images[:1])
    assert (fake.gpu.counts - before)["enqueue"] == 0  # it stands in the recording
    engine.close()
    engine.close()
    assert fake.gpu.idle
    again = opened.again()
    assert again.notes == ()
    assert again.digest == engine.digest
    again.close()


def test_whoever_waits_for_a_build_hears_of_it(
    library: tuple[str, Fake], opened: Any, tiny_bundle: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "blastscope")
    graph = read_bundle(tiny_bundle.make()).file(opened.entry)
    for _ in range(2):
        opened.runner.open_engine(graph, opened.entry.sha256, opened.options).close()
    assert caplog.messages == [f"building the fp32 engine of {library[0]} for this GPU, once: seconds to minutes"]


def test_contexts_share_their_scratch_and_each_serves_one_size(library: tuple[str, Fake], opened: Any) -> None:
    made: list[Context] = []
    _, fake = library
    plain = Context.__init__

    def remembered(self: Context, engine: Any) -> None:
        plain(self, engine)
        made.append(self)

    Context.__init__ = remembered  # type: ignore[method-assign]
    try:
        engine = opened.again()
    finally:
        Context.__init__ = plain  # type: ignore[method-assign]
    assert sorted(context.batch for context in made) == [1, 4]
    assert len({context.memory for context in made}) == 1
    assert len({context.addresses["crops"] for context in made}) == 2
    engine.close()
    assert fake.gpu.idle


def test_what_rtx_compiled_is_kept_for_the_next_process(library: tuple[str, Fake], opened: Any, tmp_path: Path) -> None:
    name, fake = library
    opened.again().close()
    kept = list((tmp_path / "cache").rglob("*.jit"))
    if name == "tensorrt":
        assert kept == []
        return
    assert [path.read_bytes() for path in kept] == [b"+kernels"]
    assert kept[0].stat().st_mode & 0o777 == 0o600
    opened.again().close()
    assert kept[0].read_bytes() == b"+kernels+kernels"
    kept[0].chmod(0o666)  # others may write it: it is not read
    opened.again().close()
    assert kept[0].read_bytes() == b"+kernels"
    assert fake.gpu.idle


def test_an_engine_that_the_library_refuses_is_an_error_in_its_words(library: tuple[str, Fake], opened: Any) -> None:
    library[1].refuses = 1
    with pytest.raises(EngineError, match="can't read its engine: the plan file does not match"):
        opened.again()
    assert library[1].gpu.idle


def test_a_library_that_gives_no_runtime_is_an_error_in_its_words(library: tuple[str, Fake], opened: Any) -> None:
    fake = library[1]

    def none(logger: object) -> Any:
        fake.said.append("CUDA initialization failure with error: 35")
        raise TypeError("pybind11::init(): factory function returned nullptr")

    fake.module.Runtime = none
    with pytest.raises(EngineError, match="can't run here: CUDA initialization failure"):
        opened.again()
    assert fake.gpu.idle


def test_what_was_made_of_an_engine_goes_before_it_and_what_made_it_last(library: tuple[str, Fake], opened: Any) -> None:
    gone: list[str] = []
    engine = opened.again()
    made = library[1].engines.pop()
    weakref.finalize(made, gone.append, "engine")
    if library[0] == "tensorrt-rtx":
        weakref.finalize(made.config, gone.append, "config")
        del made.config
    weakref.finalize(library[1].runtimes.pop(), gone.append, "runtime")
    del made
    engine.close()
    assert gone == (["config"] if library[0] == "tensorrt-rtx" else []) + ["engine", "runtime"]


def test_a_kept_engine_that_the_library_refuses_is_built_anew(library: tuple[str, Fake], opened: Any) -> None:
    opened.again().close()
    library[1].refuses = 1
    engine = opened.again()
    assert any("an engine in the cache was replaced: " in note for note in engine.notes)
    engine.close()
    assert opened.again().notes == ()


@pytest.fixture
def builds(library: tuple[str, Fake], tiny_bundle: Any, monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Whether each build, the next one last, gives an engine that answers rightly. Sessions use the library."""
    plan: list[bool] = []

    def build(graph: Path, key: Any, **rest: Any) -> bytes:
        return graph.read_bytes() if plan.pop() else bytes(tiny_bundle.graph(wrong=1.0))

    monkeypatch.setattr("blastscope.runtime.backends.tensorrt.engine_store.build_engine", build)
    monkeypatch.setattr("blastscope.runtime.inference.device_selection.find_gpu", lambda ordinal: FOUND)
    monkeypatch.setattr(tensorrt_gpu, "TENSORRT", Runner(library[0]))  # type: ignore[arg-type]
    return plan


def test_a_kept_engine_that_fails_the_golden_set_is_replaced_once(
    library: tuple[str, Fake], builds: list[bool], tiny_bundle: Any, tmp_path: Path
) -> None:
    path, opening = tiny_bundle.make(), {"device": "cuda", "backend": "tensorrt", "cache_dir": tmp_path / "cache"}
    builds[:] = [True, False]
    with pytest.raises(GoldenMismatch, match="take another precision, backend or device"):
        open_bundle(path, **opening)  # built just now: another build isn't tried
    assert builds == [True]
    crops = tiny_bundle.crops(5)
    for replaced in (True, False):
        with open_bundle(path, **opening) as scope:
            assert any("was replaced: it failed the golden set" in note for note in scope.notes) == replaced
            np.testing.assert_allclose(scope.infer(crops), tiny_bundle.expected(crops), atol=2e-6)
    assert library[1].gpu.idle


def test_an_engine_that_was_replaced_and_fails_again_is_refused(
    library: tuple[str, Fake], builds: list[bool], tiny_bundle: Any, tmp_path: Path
) -> None:
    path, opening = tiny_bundle.make(), {"device": "cuda", "backend": "tensorrt", "cache_dir": tmp_path / "cache"}
    builds[:] = [True, False, False]
    for left in (2, 1, 1, 1):
        with pytest.raises(GoldenMismatch):
            open_bundle(path, **opening)
        assert len(builds) == left
    assert library[1].gpu.idle


def test_a_lost_gpu_costs_no_kept_engine(
    library: tuple[str, Fake], builds: list[bool], tiny_bundle: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, opening = tiny_bundle.make(), {"device": "cuda", "backend": "tensorrt", "cache_dir": tmp_path / "cache"}
    builds[:] = [True]
    open_bundle(path, **opening).close()

    def lose(*_: Any) -> Any:
        library[1].gpu.lost = True
        raise DeviceLost("inference", 719)

    monkeypatch.setattr("blastscope.runtime.inference.loader.validate_engine", lose)
    with pytest.raises(DeviceLost):
        open_bundle(path, **opening)  # it would build, of which none is left


def test_an_engine_is_built_on_the_gpu_that_runs_it(
    library: tuple[str, Fake], opened: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    entered: list[int] = []

    def build(graph: Path, key: Any, *, device_context: Any, **rest: Any) -> bytes:
        with device_context():
            entered.append(library[1].gpu._inside.depth)
        return graph.read_bytes()

    monkeypatch.setattr("blastscope.runtime.backends.tensorrt.engine_store.build_engine", build)
    opened.again().close()
    assert entered == [1]


def test_a_failing_inference_is_told_from_a_lost_gpu(library: tuple[str, Fake], opened: Any, tiny_bundle: Any) -> None:
    name, fake = library
    engine = opened.again()
    lane = engine.lanes[0]
    lane.infer(tiny_bundle.crops(1))
    fake.engines[0].fails = True
    with pytest.raises(EngineError, match=f"{name}: inference failed"):
        lane._fixed[0]._pass.enqueue()
    fake.gpu.lost = True
    with pytest.raises(DeviceLost):
        lane._fixed[0]._pass.enqueue()
    engine.close()


def test_a_batch_beyond_the_profile_is_an_error_and_all_is_given_back(
    library: tuple[str, Fake], opened: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Engine, "most", 2)
    with pytest.raises(EngineError, match="doesn't take a batch of 4"):
        opened.again()
    assert library[1].gpu.idle


def test_work_that_cannot_be_recorded_is_done_in_between_and_noted(
    library: tuple[str, Fake], opened: Any, tiny_bundle: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, fake = library
    real = fake.gpu.record

    def record(stream: int, work: Any) -> Any:
        before = fake.gpu.counts["enqueue"]
        recording = real(stream, work)
        if fake.gpu.counts["enqueue"] > before:
            raise DeviceError("cuStreamEndCapture: CUDA error 901")
        return recording

    monkeypatch.setattr(fake.gpu, "record", record)
    engine = opened.again()
    assert [note for note in engine.notes if "three steps instead of one launch" in note and "901" in note]
    crops = tiny_bundle.crops(6)
    np.testing.assert_allclose(engine.lanes[0].infer(crops), tiny_bundle.expected(crops), atol=2e-6)
    engine.close()
    assert fake.gpu.idle


def test_the_key_is_that_of_the_verb_that_builds(library: tuple[str, Fake], opened: Any) -> None:
    key = opened.runner._key(opened.entry.sha256, opened.options)
    assert key.gpu == gpu_facts(FOUND)
    assert (key.models, key.precision, str(key.profile)) == ("ensemble", "fp32", "1:8:64")
    with pytest.raises(DeviceError, match="bf16 is not offered"):
        opened.runner._key(opened.entry.sha256, EngineOptions(execution="bf16", device="0"))
