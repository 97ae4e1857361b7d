"""The path from pixels to answers, on a GPU that is the host: the crop kernels in their shim, ONNX Runtime as the engine."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from asserts import is_right
from host_gpu import HostGpu, RecordableNetwork
from host_kernels import HostKernels
from numpy.typing import NDArray

from blastscope import SHIPPED_BUNDLE
from blastscope.runtime.backends.nvidia import batch_executor as fixed
from blastscope.runtime.backends.nvidia import engine_factory as pipelines
from blastscope.runtime.backends.nvidia.engine_factory import PixelPipeline, check_crops, make_engine
from blastscope.runtime.backends.onnxruntime.gpu import BoundNetwork
from blastscope.runtime.backends.protocol import EngineOptions
from blastscope.runtime.bundle import Bundle, read_bundle
from blastscope.runtime.crop import Crop, CropSpecification, crop_cell
from blastscope.runtime.errors import DeviceLost, EngineError, OutOfDeviceMemory
from blastscope.runtime.io.cnmc import scan_dataset
from blastscope.runtime.io.image import read_image
from blastscope.runtime.io.synthetic import synthetic_cells

PROVIDER = "CPUExecutionProvider"
USUAL_PX = 100  # the shim takes a tenth of a second for what a plan of 512 px launches


@pytest.fixture
def gpu(host_kernels: HostKernels, monkeypatch: pytest.MonkeyPatch) -> HostGpu:
    monkeypatch.setattr(fixed, "USUAL_PX", USUAL_PX)
    return HostGpu(host_kernels.launch)


@pytest.fixture
def bundle(tiny_bundle: Any) -> Bundle:
    return read_bundle(tiny_bundle.make())


def network(gpu: HostGpu, bundle: Bundle, *, recordable: bool = True) -> Any:
    entry = bundle.manifest.graphs[0]
    bound = BoundNetwork(gpu, bundle.read(entry), PROVIDER)
    return RecordableNetwork(gpu, bound) if recordable else bound


@pytest.fixture(params=[True, False], ids=["recorded", "in between"])
def pipeline(request: pytest.FixtureRequest, gpu: HostGpu, bundle: Bundle) -> Iterator[PixelPipeline]:
    made = PixelPipeline("host", gpu, network(gpu, bundle, recordable=request.param), bundle.manifest.crop, batches=(1, 4))
    yield made
    made.close()
    assert gpu.idle


def agrees(pipeline: PixelPipeline, images: list[NDArray[np.uint8]], tiny: Any, spec: CropSpecification) -> None:
    is_right(pipeline.infer_images(images), images, tiny, spec)


def mixed(tiny: Any) -> list[NDArray[np.uint8]]:
    """Cells and none, of many sizes and strides."""
    wide = np.zeros((160, 160, 6), np.uint8)
    wide[::2, ::2, ::2] = tiny.cell(7)
    return [
        tiny.cell(0), tiny.cell(1, size_px=97), tiny.cell(2, size_px=64), tiny.cell(3)[::-1], tiny.cell(4)[:, ::-1],
        np.asfortranarray(tiny.cell(5)), tiny.cell(6)[..., ::-1], wide[::2, ::2, ::2], np.zeros((9, 8, 3), np.uint8),
        np.zeros((0, 8, 3), np.uint8), np.full((40, 50, 3), 200, np.uint8), tiny.cell(8)[20:], tiny.cell(9, size_px=30),
    ]  # fmt: skip


def test_each_image_gets_what_the_host_makes_of_it(pipeline: PixelPipeline, tiny_bundle: Any, bundle: Bundle) -> None:
    images = mixed(tiny_bundle)
    agrees(pipeline, images, tiny_bundle, bundle.manifest.crop)
    for image in images:
        agrees(pipeline, [image], tiny_bundle, bundle.manifest.crop)


def test_a_batch_holds_nothing_of_the_one_before(pipeline: PixelPipeline, tiny_bundle: Any, bundle: Bundle) -> None:
    rng = np.random.default_rng(0)
    images = mixed(tiny_bundle)
    for _ in range(6):
        chosen = [images[one] for one in rng.integers(0, len(images), rng.integers(1, 10))]
        agrees(pipeline, chosen, tiny_bundle, bundle.manifest.crop)


def test_crops_from_the_host_go_the_short_way(pipeline: PixelPipeline, tiny_bundle: Any) -> None:
    for count in (1, 3, 4, 11):
        crops = tiny_bundle.crops(count, seed=count)
        np.testing.assert_allclose(pipeline.infer(crops), tiny_bundle.expected(crops), atol=2e-6)
    with pytest.raises(EngineError, match="crops are float64"):
        pipeline.infer(np.zeros((1, 16, 16, 3)))  # type: ignore[arg-type]


def test_the_steady_state_allocates_nothing_and_records_nothing(
    pipeline: PixelPipeline, gpu: HostGpu, tiny_bundle: Any
) -> None:
    images = [tiny_bundle.cell(seed, size_px=40 + 6 * seed) for seed in range(9)]
    before = gpu.counts.copy()
    for _ in range(3):
        pipeline.infer_images(images)
        pipeline.infer_images(images[:1])
        pipeline.infer(tiny_bundle.crops(5))
    used = gpu.counts - before
    assert not {"allocate", "free", "pinned", "unpin", "open_stream", "record"} & set(used)


def test_one_image_is_one_launch_and_one_wait(gpu: HostGpu, bundle: Bundle, tiny_bundle: Any) -> None:
    made = PixelPipeline("host", gpu, network(gpu, bundle), bundle.manifest.crop, batches=(1, 4))
    made.infer_images([tiny_bundle.cell()])
    before = gpu.counts.copy()
    for seed in range(5):
        made.infer_images([tiny_bundle.cell(seed)])  # of one size, so not even the upload is changed
    assert gpu.counts - before == {"launch_recording": 5, "wait": 5}
    before = gpu.counts.copy()
    made.infer_images([tiny_bundle.cell(0, size_px=90)])
    assert gpu.counts - before == {"launch_recording": 1, "wait": 1, "resize": 1}


def test_batches_are_at_least_half_full(pipeline: PixelPipeline, gpu: HostGpu, tiny_bundle: Any) -> None:
    for count, launches in ((1, 1), (2, 1), (4, 1), (5, 2), (6, 2), (8, 2), (9, 3)):
        before = gpu.counts["launch_recording"]
        pipeline.infer_images([tiny_bundle.cell()] * count)
        assert gpu.counts["launch_recording"] - before == launches, count


def test_room_is_made_once_for_images_that_are_larger(
    pipeline: PixelPipeline, gpu: HostGpu, tiny_bundle: Any, bundle: Bundle
) -> None:
    large = tiny_bundle.cell(1, size_px=USUAL_PX + 1)
    agrees(pipeline, [large], tiny_bundle, bundle.manifest.crop)
    records = gpu.counts["record"]
    agrees(pipeline, [tiny_bundle.cell(2, size_px=2 * USUAL_PX), large], tiny_bundle, bundle.manifest.crop)
    agrees(pipeline, [large], tiny_bundle, bundle.manifest.crop)
    once = gpu.counts["record"]
    agrees(pipeline, [tiny_bundle.cell(2, size_px=2 * USUAL_PX), large], tiny_bundle, bundle.manifest.crop)
    assert gpu.counts["record"] == once >= records


def test_where_there_is_no_room_the_error_says_so_and_the_rest_goes_on(
    pipeline: PixelPipeline, gpu: HostGpu, tiny_bundle: Any, bundle: Bundle
) -> None:
    there, gpu.left = gpu.left, 1000
    with pytest.raises(OutOfDeviceMemory, match="smaller batches"):
        pipeline.infer_images([tiny_bundle.cell(1, size_px=200)])
    agrees(pipeline, [tiny_bundle.cell(2)], tiny_bundle, bundle.manifest.crop)
    gpu.left = there
    agrees(pipeline, [tiny_bundle.cell(1, size_px=200), tiny_bundle.cell(2)], tiny_bundle, bundle.manifest.crop)


def test_an_image_beyond_the_kernels_is_cropped_on_the_host(
    pipeline: PixelPipeline, tiny_bundle: Any, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipelines, "MOST_PX", 100)
    monkeypatch.setattr(pipelines, "ORDINARY_PX", 90)
    images = [tiny_bundle.cell(0), tiny_bundle.cell(1, size_px=101), np.zeros((120, 9, 3), np.uint8), tiny_bundle.cell(2)]
    agrees(pipeline, images, tiny_bundle, bundle.manifest.crop)


def test_lanes_on_one_gpu_work_side_by_side(gpu: HostGpu, bundle: Bundle, tiny_bundle: Any) -> None:
    options = EngineOptions(workload="throughput", crop=bundle.manifest.crop)
    engine = make_engine(gpu, lambda: network(gpu, bundle), options, name="host", execution="f32", digest="0" * 64)
    assert len(engine.lanes) == 2
    assert engine.image_input
    images = mixed(tiny_bundle)
    threads = [
        threading.Thread(target=agrees, args=(eye, images, tiny_bundle, bundle.manifest.crop))
        for eye in engine.image_input.lanes
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    engine.close()
    engine.close()
    assert gpu.idle


def test_kernels_that_crop_otherwise_are_found_out(gpu: HostGpu, bundle: Bundle, host_kernels: HostKernels) -> None:
    def broken(launch: Any) -> None:
        host_kernels.launch(launch)
        if launch.kernel == "crop_resize":
            crops = launch.arguments[2]
            (ctypes.c_uint8 * 1).from_address(crops)[0] ^= 1

    wrong = HostGpu(broken)
    made = PixelPipeline("host", wrong, network(wrong, bundle), bundle.manifest.crop, batches=(1,))
    with pytest.raises(EngineError, match="crop kernels differ"):
        check_crops(made, bundle.manifest.crop)
    options = EngineOptions(crop=bundle.manifest.crop)
    with pytest.raises(EngineError, match="crop kernels differ"):
        make_engine(wrong, lambda: network(wrong, bundle), options, name="host", execution="f32", digest="0" * 64)
    made.close()
    assert wrong.idle


def test_a_lost_gpu_is_told_and_closing_does_not_raise(gpu: HostGpu, bundle: Bundle, tiny_bundle: Any) -> None:
    made = PixelPipeline("host", gpu, network(gpu, bundle), bundle.manifest.crop, batches=(1,))
    gpu.lost = True
    with pytest.raises(DeviceLost, match=r"reopen\(\)"):
        made.infer_images([tiny_bundle.cell()])
    made.close()
    made.close()
    with pytest.raises(EngineError, match="closed"):
        made.infer_images([tiny_bundle.cell()])


@pytest.mark.parametrize("left", [1 << 10, 1 << 16, 1 << 18])
def test_what_does_not_fit_is_given_back(host_kernels: HostKernels, bundle: Bundle, left: int) -> None:
    gpu = HostGpu(host_kernels.launch, memory=left)
    with pytest.raises(OutOfDeviceMemory):
        PixelPipeline("host", gpu, network(gpu, bundle), bundle.manifest.crop, batches=(1, 4))
    assert gpu.idle
    assert gpu.left == left


def test_the_shipped_network_answers_as_on_the_host(gpu: HostGpu, cnmc: Path, host_kernels: HostKernels) -> None:
    shipped = read_bundle(SHIPPED_BUNDLE)
    spec = shipped.manifest.crop
    cells = scan_dataset(cnmc).cells
    read = [read_image(cell.path) for cell in cells[:: len(cells) // 3][:3]]
    images = [image for image in read if isinstance(image, np.ndarray)] + [one.image for one in synthetic_cells(1, seed=3)]
    made = PixelPipeline("host", gpu, network(gpu, shipped), spec, batches=(4,))
    result = made.infer_images(images)
    found = [crop_cell(image, spec) for image in images]
    crops = [one for one in found if isinstance(one, Crop)]
    assert len(crops) >= 3
    assert result.found == [one.box if isinstance(one, Crop) else one for one in found]
    assert result.answers.shape[1:] == (4, 2)  # the novelty comes with the probabilities
    seen = result.answers[[isinstance(one, Crop) for one in found]]
    np.testing.assert_allclose(seen, made.infer(np.stack([crop.pixels for crop in crops])), atol=1e-6)
    made.close()


@pytest.mark.parametrize(("step", "waits"), [("wait", 2), ("resize", 1)])
def test_a_batch_that_broke_off_does_not_spoil_the_next(
    gpu: HostGpu, bundle: Bundle, tiny_bundle: Any, step: str, waits: int
) -> None:
    """An exception of a signal's handler: the host must not write where the device may still be reading."""
    made = PixelPipeline("host", gpu, network(gpu, bundle), bundle.manifest.crop, batches=(1,))
    small, large = tiny_bundle.cell(0, size_px=60), tiny_bundle.cell(1, size_px=90)
    agrees(made, [small], tiny_bundle, bundle.manifest.crop)
    recording = made._fixed[0]._from_pixels
    whole = recording.resize

    def broken(*words: Any) -> None:
        if step == "resize":
            whole(*words)
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(gpu if step == "wait" else recording, step, broken)
        with pytest.raises(KeyboardInterrupt):
            made.infer_images([large])
    for image, count in ((small, waits), (large, 1)):
        before = gpu.counts["wait"]
        agrees(made, [image], tiny_bundle, bundle.manifest.crop)
        assert gpu.counts["wait"] - before == count
    made.close()
