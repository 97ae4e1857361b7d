"""A detector's engine on a GPU: built by TensorRT-RTX, run by a library of its shape, and the CPU where there is none."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime
import pytest
from host_gpu import FOUND, HostGpu
from host_kernels import HostKernels
from host_tensorrt import DetectorEngine, Fake

from blastscope import SHIPPED_BUNDLE
from blastscope.export.engine_builds import BuildRequest, build_engines, plan_engines
from blastscope.runtime.backends.tensorrt import backend, detector
from blastscope.runtime.backends.tensorrt.builder import PICTURE_SIDES
from blastscope.runtime.backends.tensorrt.catalog import EngineHost, incompatibilities
from blastscope.runtime.backends.tensorrt.detector import TensorRtDetector
from blastscope.runtime.backends.tensorrt.engine_store import store_engine
from blastscope.runtime.backends.tensorrt.key import detector_key, platform_name
from blastscope.runtime.bundle import Bundle, read_bundle
from blastscope.runtime.cuda.driver import gpu_facts
from blastscope.runtime.errors import Closed, EngineError
from blastscope.runtime.frames.detection.detector import MARGIN_PX, MULTIPLE, PIECE_PX
from blastscope.runtime.frames.detection.loading import EnginePlace, load_detector
from blastscope.runtime.types import Precision
from blastscope.train.detector.pictures import drawn_picture


@pytest.fixture
def fake(host_kernels: HostKernels, monkeypatch: pytest.MonkeyPatch) -> Fake:
    made = Fake(HostGpu(host_kernels.launch), DetectorEngine)
    monkeypatch.setattr(backend, "load_library", lambda library: made.module)
    monkeypatch.setattr(backend, "library_logger", lambda library: None)
    for module in (backend, detector):
        monkeypatch.setattr(module, "capture_errors", made.heard)
    monkeypatch.setattr(detector, "library_version", lambda library: "10.3.0")
    monkeypatch.setattr(detector, "find_gpu", lambda ordinal: FOUND)
    monkeypatch.setattr(detector, "open_gpu", lambda ordinal: made.gpu)
    return made


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return read_bundle(SHIPPED_BUNDLE)


@pytest.fixture
def keep(bundle: Bundle, tmp_path: Path) -> Callable[[Precision, bytes], None]:
    """Puts an engine of the detector into the cache: for this library its bytes are a graph's."""

    def store(precision: Precision, data: bytes) -> None:
        assert bundle.manifest.detector
        graph = bundle.manifest.detector.graphs[precision]
        store_engine(tmp_path, detector_key(graph, precision, "tensorrt", "10.3.0", gpu=gpu_facts(FOUND)), data)

    return store


def graph_of(bundle: Bundle, precision: Precision) -> bytes:
    assert bundle.manifest.detector
    return bundle.read(bundle.manifest.detector.graphs[precision])


def opened(bundle: Bundle, cache: Path, precision: Precision | None = None) -> Any:
    place = EnginePlace(0, cache)
    return load_detector(bundle, backend="tensorrt", threads=1, precision=precision, place=place)


def test_the_profile_holds_every_picture_that_a_frame_is_cut_into() -> None:
    assert PICTURE_SIDES[0] == MULTIPLE
    assert PICTURE_SIDES[-1] >= -(-(PIECE_PX + 2 * MARGIN_PX) // MULTIPLE) * MULTIPLE


def test_it_answers_as_its_graph_does_on_pictures_of_any_size(fake: Fake, bundle: Bundle) -> None:
    graph = graph_of(bundle, "fp32")
    reference = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    network = TensorRtDetector(fake.gpu, "tensorrt", graph, None)
    for size in ((96, 128), (32, 32), (1344, 64), (96, 128)):
        picture = drawn_picture(1, size)
        (expected,) = reference.run(["maps"], {"pictures": picture[None]})
        np.testing.assert_array_equal(network.infer(picture), expected[0])
    with pytest.raises(EngineError, match="fails on a picture of 64 x 1376"):
        network.infer(np.zeros((1376, 64, 3), np.uint8))
    fake.engines[0].fails = True
    with pytest.raises(EngineError, match="fails on a picture of 64 x 32: no reason given"):
        network.infer(np.zeros((32, 64, 3), np.uint8))
    network.close()
    network.close()
    assert fake.gpu.idle
    with pytest.raises(Closed):
        network.infer(np.zeros((32, 64, 3), np.uint8))


@pytest.mark.parametrize("precision", [None, "fp32", "fp16", "int8"])
def test_a_kept_engine_finds_the_cells_and_none_is_built(
    precision: Precision | None, fake: Fake, bundle: Bundle, keep: Any, tmp_path: Path
) -> None:
    found = opened(bundle, tmp_path, precision)
    assert found.network.name == "openvino"
    found.network.close()
    for one in ("fp32", "int8"):
        keep(one, graph_of(bundle, one))
    found = opened(bundle, tmp_path, precision)
    assert found.network.name == "tensorrt"
    assert len(fake.engines) == 1
    picture = drawn_picture(2, (96, 128))
    graph = graph_of(bundle, "int8" if precision == "int8" else "fp32")
    reference = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    np.testing.assert_array_equal(found.network.infer(picture), reference.run(["maps"], {"pictures": picture[None]})[0][0])
    found.network.close()
    assert fake.gpu.idle


@pytest.mark.parametrize("how", ["answers otherwise", "is refused"])
def test_an_engine_that_cannot_be_trusted_leaves_the_cells_to_the_cpu(
    how: str, fake: Fake, bundle: Bundle, keep: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    keep("fp32", graph_of(bundle, "int8" if how == "answers otherwise" else "fp32"))
    fake.refuses = int(how == "is refused")
    with caplog.at_level(logging.WARNING):
        found = opened(bundle, tmp_path)
    assert found.network.name == "openvino"
    found.network.close()
    (told,) = [text for text in caplog.messages if "the detector's engine is passed over" in text]
    assert ("differs from the trained detector" if how == "answers otherwise" else "does not match this version") in told
    assert fake.gpu.idle


def test_tensorrt_rtx_builds_the_detectors_graphs_beside_the_ensembles(bundle: Bundle, tmp_path: Path) -> None:
    trt = pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx-cu13 is not installed")
    machine = EngineHost(platform_name(), {"tensorrt-rtx": trt.__version__}, ())
    planned = plan_engines(bundle, BuildRequest("tensorrt-rtx", targets=()), machine)
    detectors = [one for one in planned if one.key.models == "detector"]
    assert [one.key.precision for one in detectors] == ["fp32", "int8"]
    observer = SimpleNamespace(begin=lambda planned: None, step=lambda step: None)
    for built in build_engines(bundle, detectors, tmp_path, observer):
        assert built.built
        assert incompatibilities(built.key, machine, bundle) == []
    half = plan_engines(bundle, BuildRequest("tensorrt-rtx", ("fp16",), targets=()), machine)
    assert [(one.key.models, one.key.precision) for one in half][-1] == ("detector", "fp32")
