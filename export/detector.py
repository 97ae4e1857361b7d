"""Puts a trained detector into a bundle: an ONNX graph for pictures of any size, and golden pictures."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnx
import torch
from numpy.typing import NDArray

from blastscope.calibration.calibrate import open_writable_bundle
from blastscope.export.onnx_export import (
    BATCH,
    OPSET,
    UNTRACEABLE,
    fold_constants,
    silence_exporter,
    static_padding,
    strip_metadata,
)
from blastscope.runtime.backends.onnxruntime.cpu import load_onnxruntime
from blastscope.runtime.bundle import FORMAT, Bundle, describe_file, read_bundle, update_bundle
from blastscope.runtime.bundle.entries import DetectorEntry
from blastscope.runtime.bundle.graphs import examine_graph
from blastscope.runtime.bundle.graphs.wire import UnfitGraph
from blastscope.runtime.bundle.manifest import Manifest
from blastscope.runtime.errors import BundleError, EngineError
from blastscope.runtime.frames.detection.detector import CHANNELS, STRIDE
from blastscope.runtime.frames.detection.loading import golden_pictures_bytes, probabilities_differ
from blastscope.train.detector.network import Detector
from blastscope.train.detector.pictures import drawn_picture
from blastscope.train.detector.run import load_detector_run

GRAPH_FILE, GOLDEN_FILE = "detector/detector.onnx", "detector/golden.safetensors"
INT8_FILE = "detector/int8.onnx"
SIZES = ((96, 128), (64, 64), (160, 192))  # height and width of the pictures on which graph and PyTorch are compared
GOLDEN_SIZE, GOLDEN_COUNT = (96, 128), 2
TOLERANCE = 0.02  # of a probability in the maps, on any engine in float32
EXACT = 2e-3  # what ONNX Runtime may differ from PyTorch by


def add_detector(bundle: Path, run: Path) -> Bundle:
    """The bundle with the detector of the folder `run` in the place of the one that it had, if any.

    Raises `DataError` for a run that isn't finished, `BundleError` for what is no bundle, `EngineError` where graph and PyTorch
    disagree.
    """
    found = open_writable_bundle(bundle)
    trained = load_detector_run(run)
    graph = detector_graph(trained.network)
    pictures = np.stack([drawn_picture(seed, GOLDEN_SIZE) for seed in range(GOLDEN_COUNT)])
    golden = golden_pictures_bytes(pictures, torch_maps(trained.network, pictures))
    entry = DetectorEntry(
        graph=describe_file(graph, GRAPH_FILE),
        golden=describe_file(golden, GOLDEN_FILE),
        tolerance=TOLERANCE,
        pixel_um=trained.pixel_um,
        least_score=trained.least_score,
        sources=trained.sources,
    )
    return with_detector(found, entry, graph, golden)


def copy_detector(bundle: Path, source: Path) -> Bundle:
    """The bundle with the detector of another one, unchanged, in the place of the one that it had, if any.

    Parameters
    ----------
    bundle : Path
        Folder of the bundle that gets the detector; it is changed in one step.
    source : Path
        Folder or zip of the bundle whose detector is copied.

    Returns
    -------
    Bundle
        The bundle as it is now.

    Raises
    ------
    BundleError
        One of them is no bundle, or `source` has no detector.
    """
    found, other = open_writable_bundle(bundle), read_bundle(source)
    entry = other.manifest.detector
    if entry is None:
        raise BundleError(source, "has no detector: name a bundle that has one, or a finished run of train-detector with --run")
    graph, golden = (other.read(each) for each in (entry.graph, entry.golden))
    return with_detector(found, entry, graph, golden, other.read(entry.int8.graph) if entry.int8 else None)


def with_detector(bundle: Bundle, entry: DetectorEntry, graph: bytes, golden: bytes, int8: bytes | None = None) -> Bundle:
    """The bundle with the detector of `entry` and its files, changed in one step."""
    files = {GRAPH_FILE: graph, GOLDEN_FILE: golden}
    entry = entry.model_copy(update={"graph": describe_file(graph, GRAPH_FILE), "golden": describe_file(golden, GOLDEN_FILE)})
    if entry.int8 and int8 is not None:
        files[INT8_FILE] = int8
        entry = entry.model_copy(update={"int8": entry.int8.model_copy(update={"graph": describe_file(int8, INT8_FILE)})})
    manifest = Manifest.model_validate({**bundle.manifest.model_dump(), "format": FORMAT, "detector": entry.model_dump()})
    return update_bundle(bundle, manifest, files)


def detector_graph(network: Detector) -> bytes:
    """The fp32 ONNX graph of a detector; always the same bytes. Raises `EngineError`."""
    network = network.eval()
    example = torch.zeros((2, 64, 96, 3), dtype=torch.uint8)
    free = {0: BATCH, 1: "H", 2: "W"}
    with TemporaryDirectory(prefix="blastscope-") as folder, torch.no_grad(), silence_exporter(), static_padding():
        traced = Path(folder) / "traced.onnx"
        try:
            torch.onnx.export(
                network,
                (example,),
                str(traced),
                dynamo=False,
                opset_version=OPSET,
                input_names=["pictures"],
                output_names=["maps"],
                dynamic_axes={"pictures": free, "maps": {0: BATCH, 2: "H/8", 3: "W/8"}},
                do_constant_folding=True,
            )
        except UNTRACEABLE as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise EngineError(f"PyTorch's exporter has no ONNX for this detector: {reason}") from error
        model = fold_constants(traced)
    strip_metadata(model)
    shape: list[str | int | None] = [BATCH, CHANNELS, f"H/{STRIDE}", f"W/{STRIDE}"]
    model.graph.output[0].CopyFrom(onnx.helper.make_tensor_value_info("maps", onnx.TensorProto.FLOAT, shape))
    content = bytes(model.SerializeToString(deterministic=True))
    try:
        examine_graph(content, models="detector")
    except UnfitGraph as error:
        raise EngineError(f"the ONNX graph of the detector {error}") from error
    _compare(content, network)
    return content


@torch.inference_mode()
def torch_maps(network: Detector, pictures: NDArray[np.uint8]) -> NDArray[np.float32]:
    """The maps (n, 10, H / 8, W / 8) of pictures (n, H, W, 3) by PyTorch."""
    return np.asarray(network.eval()(torch.from_numpy(pictures)).numpy(), np.float32)


def _compare(content: bytes, network: Detector) -> None:
    """Runs the graph on drawn pictures of several sizes. Raises `EngineError` where it differs from PyTorch."""
    session = load_onnxruntime("export").InferenceSession(content, providers=["CPUExecutionProvider"])
    for seed, size in enumerate(SIZES):
        picture = drawn_picture(seed, size)[None]
        (maps,) = session.run(["maps"], {"pictures": picture})
        difference = probabilities_differ(maps[0], torch_maps(network, picture)[0])
        if difference > EXACT:
            raise EngineError(f"the ONNX graph of the detector differs from PyTorch by {difference:.2g} (at most {EXACT})")
