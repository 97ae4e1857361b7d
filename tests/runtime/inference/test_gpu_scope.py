"""The handle on a GPU that is the host: the same calls as on the CPU, the choice of the device, building, losing, reopening."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType
from typing import Any

import cv2
import numpy as np
import pytest
from host_backend import HostRunner
from host_gpu import FOUND
from host_kernels import HostKernels
from PIL import Image

from blastscope.runtime.backends.nvidia import batch_executor as fixed
from blastscope.runtime.backends.nvidia import engine_factory as pipeline
from blastscope.runtime.backends.protocol import GPU_BACKENDS
from blastscope.runtime.errors import (
    Closed,
    DeviceError,
    DeviceLost,
    DriverError,
    EngineError,
    GoldenMismatch,
    ImageError,
    MissingLibrary,
    UsageError,
)
from blastscope.runtime.inference import device_selection as which_device
from blastscope.runtime.inference.events import BuildFailed, BuildStarted
from blastscope.runtime.session import Scope, open_bundle

PLACES = {"tensorrt": "FIRST", "tensorrt-rtx": "SECOND", "onnxruntime": "THIRD"}


class Absent:
    """A library that isn't installed."""

    def __init__(self, name: str) -> None:
        self.name = name

    def executions(self, device: str) -> Any:
        raise MissingLibrary(self.name, self.name)


@pytest.fixture
def table(host_kernels: HostKernels, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The GPU's libraries: the first is the host's, the others aren't installed."""
    module = ModuleType("libraries_on_the_host")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    for name, place in PLACES.items():
        monkeypatch.setitem(GPU_BACKENDS, name, f"{module.__name__}:{place}")
        setattr(module, place, Absent(name))
    module.FIRST = HostRunner()
    monkeypatch.setattr(which_device, "find_gpu", lambda ordinal: FOUND)
    monkeypatch.setattr(fixed, "USUAL_PX", 100)
    monkeypatch.setattr(pipeline.PixelPipeline.__init__, "__kwdefaults__", {"batches": (1, 4)})
    return module


@pytest.fixture
def bundle(tiny_bundle: Any) -> Path:
    return Path(tiny_bundle.make())


def opened(path: Path, folder: Path, **asked: Any) -> Scope:
    return open_bundle(path, cache_dir=folder / "cache", **{"device": "cuda", **asked})


@pytest.fixture(params=["latency", "throughput"])
def scope(request: pytest.FixtureRequest, table: ModuleType, bundle: Path, tmp_path: Path) -> Iterator[Scope]:
    with opened(bundle, tmp_path, workload=request.param, queue=4) as made:
        yield made
    assert table.FIRST.gpu.idle


@pytest.fixture
def cpu(bundle: Path, tmp_path: Path) -> Iterator[Scope]:
    with open_bundle(bundle, device="cpu", backend="onnxruntime", cache_dir=tmp_path / "cpu") as made:
        yield made


def same(one: Any, other: Any) -> bool:
    """Whether two predictions differ in nothing but their origin and rounding."""
    if one.refusal or other.refusal:
        return one.refusal == other.refusal and one.label is other.label is None
    alike = np.allclose(one.probabilities, other.probabilities, atol=2e-6)
    return alike and (one.label, one.voter, one.box) == (other.label, other.voter, other.box)


def images_of(tiny: Any) -> list[Any]:
    return [tiny.cell(seed, size_px=50 + 5 * seed) for seed in range(8)] + [np.zeros((30, 40, 3), np.uint8)]


def test_every_way_to_ask_gives_the_predictions_of_the_cpu(scope: Scope, cpu: Scope, tiny_bundle: Any, tmp_path: Path) -> None:
    images = images_of(tiny_bundle)
    wanted = cpu.classify_many(images)
    assert all(map(same, [scope.classify(image) for image in images], wanted))
    assert all(map(same, scope.classify_many(images), wanted))
    assert all(map(same, [future.result() for future in map(scope.submit, images)], wanted))
    paths = [tmp_path / f"{number}.png" for number in range(len(images))]
    for path, image in zip(paths, images, strict=True):
        cv2.imwrite(str(path), image[..., ::-1])
    read = list(scope.classify_files([*paths, tmp_path / "gone.png"]))
    assert all(map(same, [prediction for _, prediction in read], wanted))
    assert [path for path, _ in read] == [*paths, tmp_path / "gone.png"]
    assert read[-1][1].refusal
    sources = [*paths[:3], *(path.read_bytes() for path in paths[3:6]), *map(Image.fromarray, images[6:])]
    assert all(map(same, scope.classify_many(sources), wanted))
    assert all(map(same, [scope.classify(source) for source in sources], wanted))
    assert all(map(same, [future.result() for future in map(scope.submit, sources)], wanted))
    gone = tmp_path / "gone.png"
    for missing in (scope.classify(gone), scope.submit(gone).result(), *scope.classify_many([gone])):
        assert missing.refusal == read[-1][1].refusal
    crops = tiny_bundle.crops(5)
    np.testing.assert_allclose(scope.infer(crops), tiny_bundle.expected(crops), atol=2e-6)


def test_the_audit_names_gpu_and_library(scope: Scope) -> None:
    audit = scope.audit
    assert (audit.backend, audit.device, audit.precision, audit.execution) == ("tensorrt", "cuda:0 Host GPU", "fp32", "f32")


def test_misuse_raises_at_once_and_is_a_refusal_among_many(scope: Scope, tiny_bundle: Any) -> None:
    for wrong in (None, [[1]], np.zeros((9, 9, 3)), np.zeros((9, 9), np.uint8)):
        with pytest.raises(ImageError):
            scope.classify(wrong)  # type: ignore[arg-type]
        with pytest.raises(ImageError):
            scope.submit(wrong)  # type: ignore[arg-type]
        good, refused = scope.classify_many([tiny_bundle.cell(), wrong])  # type: ignore[list-item]
        assert good.label
        assert refused.refusal
        assert refused.refusal.code == "not-8-bit-rgb"
    assert scope.classify_many([]) == []


def test_a_submitted_buffer_may_be_used_again_at_once(scope: Scope, cpu: Scope, tiny_bundle: Any) -> None:
    buffer = np.empty((80, 80, 3), np.uint8)
    futures = []
    for seed in range(10):
        buffer[:] = tiny_bundle.cell(seed)
        futures.append(scope.submit(buffer))
    buffer[:] = 0
    for seed, future in enumerate(futures):
        assert same(future.result(), cpu.classify(tiny_bundle.cell(seed)))


def test_many_threads_get_their_own_answers(scope: Scope, cpu: Scope, tiny_bundle: Any) -> None:
    images = images_of(tiny_bundle)
    wanted = cpu.classify_many(images)

    def use(number: int) -> bool:
        chosen = np.random.default_rng(number).integers(0, len(images), 3)
        asked = [images[one] for one in chosen]
        got = scope.classify_many(asked) if number % 2 else [scope.classify(image) for image in asked]
        return all(same(answer, wanted[one]) for answer, one in zip(got, chosen, strict=True))

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(use, range(8)))


class OnDevice:
    """An array that lies on the GPU, as CuPy shows it."""

    def __init__(self, gpu: Any, image: Any, *, stream: int | None = None, version: int = 3) -> None:
        with gpu.current():
            self.address = gpu.allocate(max(image.nbytes, 1))
        held = next(memory for start, memory in gpu._held.items() if start == self.address)
        held[: image.nbytes] = image.reshape(-1)
        self.__cuda_array_interface__ = {
            "shape": image.shape, "typestr": "|u1", "data": (self.address, True), "version": version, "stream": stream,
        }  # fmt: skip


def test_device_arrays_are_taken_where_they_lie(
    table: ModuleType, bundle: Path, tmp_path: Path, cpu: Scope, tiny_bundle: Any
) -> None:
    images = images_of(tiny_bundle)
    wanted = cpu.classify_many(images)
    with opened(bundle, tmp_path) as scope:
        gpu = table.FIRST.gpu
        arrays: list[Any] = [OnDevice(gpu, image) for image in images]
        before = gpu.counts.copy()
        assert all(map(same, scope.classify_many(arrays), wanted))
        assert all(map(same, [scope.submit(one).result() for one in arrays], wanted))
        assert "follow" not in gpu.counts - before  # the interface said that there is nothing to wait for
        assert same(scope.classify(OnDevice(gpu, images[0], stream=7)), wanted[0])  # type: ignore[arg-type]
        assert (gpu.counts - before)["follow"] == 2  # the importer follows the producer, the lane the door
        stranger: Any = OnDevice(gpu, images[0])
        stranger.__cuda_array_interface__["data"] = (1 << 20, True)
        with pytest.raises(ImageError, match="doesn't lie in the memory of cuda:0"):
            scope.classify(stranger)


def test_a_cpu_handle_says_what_a_device_array_needs(cpu: Scope) -> None:
    class Array:
        __cuda_array_interface__ = {"shape": (9, 9, 3)}

    with pytest.raises(ImageError, match="device='cuda'"):
        cpu.classify(Array())  # type: ignore[arg-type]


# ---- which device


def test_auto_is_the_gpu_where_there_is_one_and_says_so(table: ModuleType, bundle: Path, tmp_path: Path) -> None:
    with opened(bundle, tmp_path, device="auto") as scope:
        assert scope.audit.backend == "tensorrt"
        assert scope.notes[0] == "device auto is cuda:0 Host GPU here, computed by tensorrt"


def no_driver(ordinal: int) -> Any:
    raise DriverError("no NVIDIA driver is installed", reason="missing")


def test_auto_is_the_cpu_where_there_is_no_driver_and_says_why(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(which_device, "find_gpu", no_driver)
    with opened(bundle, tmp_path, device="auto") as scope:
        assert scope.audit.device == "CPU"
        assert scope.notes[0] == "device auto is the CPU here: no NVIDIA driver is installed"
    for asked in ({"device": "cuda"}, {"device": "auto", "backend": "tensorrt"}):
        with pytest.raises(DriverError):
            opened(bundle, tmp_path, **asked)


def test_a_gpu_without_a_library_names_what_would_bring_one(table: ModuleType, bundle: Path, tmp_path: Path) -> None:
    table.FIRST = Absent("tensorrt")
    with pytest.raises(DeviceError, match=r"Host GPU can't be used: tensorrt: .*pip install.*tensorrt-rtx: .*onnxruntime: "):
        opened(bundle, tmp_path)
    with opened(bundle, tmp_path, device="auto") as scope:
        assert scope.audit.device == "CPU"
        assert "pip install" in scope.notes[0]


def test_the_next_library_answers_where_the_first_breaks_off(table: ModuleType, bundle: Path, tmp_path: Path) -> None:
    table.FIRST.fails = EngineError("tensorrt refuses a node")
    table.THIRD = HostRunner("onnxruntime", recordable=False)
    with opened(bundle, tmp_path) as scope:
        assert scope.audit.backend == "onnxruntime"
        assert "tensorrt is passed over: tensorrt refuses a node" in scope.notes
    with pytest.raises(EngineError, match="refuses a node"):
        opened(bundle, tmp_path, backend="tensorrt")


def test_an_engine_at_hand_goes_before_one_that_must_be_built(table: ModuleType, bundle: Path, tmp_path: Path) -> None:
    table.SECOND = HostRunner("tensorrt-rtx")
    for asked in ({"backend": "tensorrt-rtx"}, {}):
        with opened(bundle, tmp_path, **asked) as scope:
            assert scope.audit.backend == "tensorrt-rtx"
    assert (table.FIRST.builds, table.SECOND.builds) == (0, 1)


def test_a_graph_is_computed_in_what_it_is_written_in(table: ModuleType, tiny_bundle: Any, tmp_path: Path) -> None:
    path = tiny_bundle.make("fp32", tolerances={"fp32": {"f32": 1e-4, "bf16": 0.1}})
    with pytest.raises(DeviceError, match="computed in bf16"):
        opened(path, tmp_path, execution="bf16")
    with pytest.raises(UsageError, match="no fused int8 graph"):
        opened(path, tmp_path, precision="int8")
    with opened(path, tmp_path, device="auto") as scope:
        assert scope.audit.execution == "f32"


def test_engines_that_are_not_built_are_not_measured(table: ModuleType, tiny_bundle: Any, tmp_path: Path) -> None:
    path = tiny_bundle.make("fp32", "int8")
    with opened(path, tmp_path) as scope:
        assert scope.audit.precision == "fp32"
        scope.classify(tiny_bundle.cell())
    assert table.FIRST.builds == 1
    with opened(path, tmp_path, precision="int8") as scope:
        assert scope.audit.precision == "int8"
    with opened(path, tmp_path) as scope:
        scope.classify(tiny_bundle.cell())
        scope._run.opened.autotuner.finish()  # type: ignore[union-attr]
        assert any("measured" in note for note in scope.notes)
    assert table.FIRST.builds == 2


def test_an_engine_that_answers_otherwise_is_refused(table: ModuleType, tiny_bundle: Any, tmp_path: Path) -> None:
    path = tiny_bundle.make("fp32", wrong={"fp32": 1.0})
    with pytest.raises(GoldenMismatch, match="computed in f32 by tensorrt"):
        opened(path, tmp_path)
    assert table.FIRST.gpu.idle


@pytest.mark.parametrize(("device", "backend"), [("cuda", "openvino"), ("cpu", "tensorrt"), ("auto", "tensorflow")])
def test_a_backend_of_another_device_is_wrong_usage(
    table: ModuleType, bundle: Path, tmp_path: Path, device: str, backend: str
) -> None:
    with pytest.raises(UsageError, match=f"backend '{backend}'"):
        opened(bundle, tmp_path, device=device, backend=backend)


# ---- building, losing, reopening


def test_the_cpu_answers_while_an_engine_is_built_if_asked_to(
    table: ModuleType, bundle: Path, tmp_path: Path, tiny_bundle: Any
) -> None:
    table.FIRST.may_build.clear()
    with opened(bundle, tmp_path, while_building="cpu") as scope:
        assert scope.audit.device == "CPU"
        assert "is being built; the CPU answers until reopen() is called" in scope.notes[0]
        before = scope.classify(tiny_bundle.cell())
        assert scope.building is not None
        assert not scope.building.done()
        table.FIRST.may_build.set()
        scope.building.result(10)
        assert any("reopen() takes it" in note for note in scope.notes)
        assert scope.classify(tiny_bundle.cell()).audit.device == "CPU"  # never by itself
        scope.reopen()
        assert scope.audit.device == "cuda:0 Host GPU"
        assert scope.building is None
        assert same(scope.classify(tiny_bundle.cell()), before)


def test_closing_ends_the_build(table: ModuleType, bundle: Path, tmp_path: Path) -> None:
    table.FIRST.may_build.clear()
    scope = opened(bundle, tmp_path, device="auto", while_building="cpu")
    building = scope.building
    scope.close()
    assert building
    with pytest.raises(EngineError, match="cancelled"):
        building.result(10)
    assert table.FIRST.builds == 0


def test_a_build_that_fails_is_told_and_the_cpu_goes_on(
    table: ModuleType, bundle: Path, tmp_path: Path, tiny_bundle: Any
) -> None:
    table.FIRST.fails = EngineError("a node is refused")
    with opened(bundle, tmp_path, while_building="cpu") as scope:
        assert scope.building
        with pytest.raises(EngineError):
            scope.building.result(10)
        assert scope.notes[-1].endswith("could not be built: a node is refused")
        assert isinstance(scope.events[0], BuildStarted)
        assert isinstance(scope.events[-1], BuildFailed)
        assert scope.events[-1].reason == "a node is refused"
        assert scope.classify(tiny_bundle.cell()).label


def test_a_handle_may_reopen_itself_when_the_engine_is_there(
    table: ModuleType, bundle: Path, tmp_path: Path, tiny_bundle: Any
) -> None:
    table.FIRST.may_build.clear()
    with opened(bundle, tmp_path, while_building="cpu") as scope:
        building = scope.building
        assert building
        building.add_done_callback(lambda _: scope.reopen())
        table.FIRST.may_build.set()
        scope._run.opened.building._thread.join(20)  # type: ignore[union-attr]
        assert scope.classify(tiny_bundle.cell()).audit.device == "cuda:0 Host GPU"


def test_a_lost_gpu_is_told_and_the_handle_is_reopened(
    table: ModuleType, bundle: Path, tmp_path: Path, tiny_bundle: Any
) -> None:
    with opened(bundle, tmp_path) as scope:
        before = scope.classify(tiny_bundle.cell())
        table.FIRST.gpu.lost = True
        with pytest.raises(DeviceLost):
            scope.classify(tiny_bundle.cell())
        with pytest.raises(DeviceLost):
            scope.submit(tiny_bundle.cell()).result(10)
        scope.reopen()
        assert same(scope.classify(tiny_bundle.cell()), before)
        scope.reopen(device="cpu")
        assert scope.audit.device == "CPU"
        assert same(scope.classify(tiny_bundle.cell()), before)


def test_a_failed_reopening_leaves_a_handle_that_may_be_reopened(
    table: ModuleType, bundle: Path, tmp_path: Path, tiny_bundle: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with opened(bundle, tmp_path) as scope:
        with monkeypatch.context() as patched:
            patched.setattr(which_device, "find_gpu", no_driver)
            with pytest.raises(DriverError, match="no NVIDIA driver"):
                scope.reopen()
        with pytest.raises(Closed):
            scope.classify(tiny_bundle.cell())
        scope.reopen()
        assert scope.classify(tiny_bundle.cell()).label


def test_a_forgotten_handle_gives_the_gpu_back(table: ModuleType, bundle: Path, tmp_path: Path, tiny_bundle: Any) -> None:
    forgotten = opened(bundle, tmp_path)
    forgotten.submit(tiny_bundle.cell()).result()
    del forgotten
    gc.collect()
    assert table.FIRST.gpu.idle
