"""`load_detector`: a bundle's detector, opened and held to its golden pictures."""

from __future__ import annotations

import logging
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from blastscope.runtime.backends.uint8_activations import with_uint8_activations
from blastscope.runtime.bundle import Bundle
from blastscope.runtime.bundle.entries import DetectorEntry, FileEntry
from blastscope.runtime.bundle.graphs import RefusedGraph, read_graph
from blastscope.runtime.errors import BundleError, GoldenMismatch, UnavailableError
from blastscope.runtime.frames.detection.detector import CHANNELS, KINDS, MULTIPLE, STRIDE, WHITE, Detector, DetectorNetwork
from blastscope.runtime.inference.autotune import likely_fastest
from blastscope.runtime.io.cpu_info import cpu_features
from blastscope.runtime.types import Precision

logger = logging.getLogger(__name__)

_MODULES = {
    "openvino": "blastscope.runtime.backends.openvino.infer_request",
    "onnxruntime": "blastscope.runtime.backends.onnxruntime.cpu",
}
LARGEST_GOLDEN = 4 * 2**20  # bytes
MOST_PICTURES = 4


class EnginePlace(NamedTuple):
    """Where the engine of a detector for an NVIDIA GPU may lie.

    Attributes
    ----------
    ordinal : int
        The GPU's number.
    cache_dir : Path
        The user's cache.
    """

    ordinal: int
    cache_dir: Path


def load_detector(
    bundle: Bundle, *, backend: str, threads: int, precision: Precision | None = None, place: EnginePlace | None = None
) -> Detector | None:
    """The detector of a bundle; None where the bundle has none.

    Parameters
    ----------
    bundle : Bundle
        As `read_bundle` gives it.
    backend : str
        The library that runs the ensemble. Where that is none of a CPU, the detector runs on OpenVINO, but for TensorRT and
        TensorRT-RTX, where `place` holds an engine of it that answers like the trained network.
    threads : int
        Of the library.
    precision : {'fp32', 'fp16', 'int8'} or None
        What is asked of the ensemble. 'int8' takes the detector's int8 graph where the bundle has one, None where it is also
        likely faster on this CPU; else it is the fp32 graph. On a GPU only 'int8' takes the int8 graph.
    place : EnginePlace, optional
        Where engines for a GPU lie.

    Raises
    ------
    BundleError, GoldenMismatch
        A file breaks a rule of the format; the network answers otherwise than the trained one.
    EngineError, MissingLibrary
        The library refuses the graph, or isn't there.
    """
    entry = bundle.manifest.detector
    if entry is None:
        return None
    if place and backend in ("tensorrt", "tensorrt-rtx") and (found := _on_gpu(bundle, entry, backend, precision, place)):
        return Detector(found, entry.pixel_um, entry.least_score)
    wanted = precision == "int8" or (precision is None and likely_fastest(cpu_features())[0] == "int8")
    graph, tolerance = detector_graphs(entry)["int8" if wanted and entry.int8 else "fp32"]
    network = open_graph(bundle, graph, backend=backend, threads=threads, int8=graph is not entry.graph)
    _check_golden(bundle, entry, graph, network, tolerance)
    return Detector(network, entry.pixel_um, entry.least_score)


def _check_golden(bundle: Bundle, entry: DetectorEntry, graph: FileEntry, network: DetectorNetwork, tolerance: float) -> None:
    """Closes the network and raises where it answers otherwise than the trained one."""
    try:
        difference = golden_difference(bundle, entry, network)
        if difference > tolerance:
            told = f"{graph.file} differs from the trained detector by {difference:.2g} (at most {tolerance:.2g})"
            raise GoldenMismatch(bundle.path, told)
    except BaseException:
        network.close()
        raise


def _on_gpu(
    bundle: Bundle, entry: DetectorEntry, library: str, precision: Precision | None, place: EnginePlace
) -> DetectorNetwork | None:
    """The detector on a GPU, if an engine of it was built and answers rightly; the CPU can always stand in."""
    used: Precision = "int8" if precision == "int8" and entry.int8 else "fp32"
    graph, tolerance = detector_graphs(entry)[used]
    try:
        module = import_module("blastscope.runtime.backends.tensorrt.detector")
        network: DetectorNetwork | None = module.open_kept_detector(graph, used, library, **place._asdict())
        if network is not None:
            _check_golden(bundle, entry, graph, network, tolerance)
    except (UnavailableError, GoldenMismatch) as error:
        logger.warning("the detector's engine is passed over, and the CPU finds the cells: %s", error)
        return None
    return network


def detector_graphs(entry: DetectorEntry) -> dict[Precision, tuple[FileEntry, float]]:
    """The graphs of a detector by precision, each with the largest difference of a probability that it may show."""
    graphs: dict[Precision, tuple[FileEntry, float]] = {"fp32": (entry.graph, entry.tolerance)}
    if entry.int8:
        graphs["int8"] = entry.int8.graph, entry.int8.tolerance
    return graphs


def open_graph(bundle: Bundle, graph: FileEntry, *, backend: str, threads: int, int8: bool) -> DetectorNetwork:
    """A graph of a bundle's detector, its digest verified, on the CPU; its answers aren't looked at.

    Raises as `load_detector`, but `GoldenMismatch`, and `DeviceError` as `open_network`.
    """
    place = bundle.file(graph)
    try:
        content = read_graph(place, graph.sha256, models="detector")
    except RefusedGraph as error:
        raise error.in_bundle(bundle.path, graph.file) from error
    return open_network(content, place, backend=backend, threads=threads, int8=int8)


def open_network(content: bytes, graph: Path, *, backend: str, threads: int, int8: bool) -> DetectorNetwork:
    """The network in `content`, the verified bytes of the file `graph`, on the CPU; `int8` says whether it is an int8 graph.

    Raises `EngineError`, `DeviceError` where its sums would overflow on this CPU, `MissingLibrary`.
    """
    if int8:
        content = with_uint8_activations(content, graph)
    network: DetectorNetwork = import_module(_MODULES.get(backend, _MODULES["openvino"])).open_detector(
        content, graph, threads=threads
    )
    return network


def golden_pictures_bytes(pictures: NDArray[np.uint8], maps: NDArray[np.float32]) -> bytes:
    """The golden file of a detector: pictures (n, H, W, 3) uint8 RGB, and the trained network's maps (n, 10, H / 8, W / 8)."""
    return save({"pictures": np.ascontiguousarray(pictures), "maps": np.ascontiguousarray(maps)})


def probabilities_differ(some: NDArray[np.float32], others: NDArray[np.float32]) -> float:
    """The largest difference of a probability in two maps (10, h, w); a group's counts as far as a white cell is there."""
    heat = np.abs(some[:KINDS] - others[:KINDS]).max()
    groups = (np.abs(some[KINDS + 4 :] - others[KINDS + 4 :]) * others[WHITE]).max()
    return float(max(heat, groups))


def golden_difference(bundle: Bundle, entry: DetectorEntry, network: DetectorNetwork) -> float:
    """How far a network is from the trained detector on the golden pictures.

    Parameters
    ----------
    bundle : Bundle
        That holds the pictures.
    entry : DetectorEntry
        Its detector, as the manifest lists it.
    network : DetectorNetwork
        What is to answer alike.

    Returns
    -------
    float
        The largest difference of a probability; infinite where the maps have another shape, or hold what is no number.

    Raises
    ------
    BundleError
        The golden file breaks a rule of the format.
    EngineError
        The library broke off.
    """
    largest = 0.0
    for picture, maps in zip(*_read_golden(bundle, entry), strict=True):
        found = network.infer(picture)
        if found.shape != maps.shape or not np.isfinite(found).all():
            return float("inf")
        largest = max(largest, probabilities_differ(found, maps))
    return largest


def _read_golden(bundle: Bundle, entry: DetectorEntry) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """A detector's golden pictures (n, H, W, 3) and the trained network's maps (n, 10, H / 8, W / 8). Raises `BundleError`."""
    file = entry.golden.file
    if entry.golden.size > LARGEST_GOLDEN:
        raise BundleError(bundle.path, f"{file} is {entry.golden.size} bytes, at most {LARGEST_GOLDEN} are read")
    try:
        arrays: dict[str, NDArray[Any]] = load(bundle.read(entry.golden))
    except (SafetensorError, ValueError, KeyError) as error:
        raise BundleError(bundle.path, f"{file}: {error}") from error
    if set(arrays) != {"pictures", "maps"}:
        raise BundleError(bundle.path, f"{file} holds {sorted(arrays)}, not maps, pictures")
    pictures, maps = arrays["pictures"], arrays["maps"]
    fits = pictures.dtype == np.uint8 and pictures.ndim == 4 and pictures.shape[3] == 3 and maps.dtype == np.float32
    fits = fits and 1 <= len(pictures) <= MOST_PICTURES and not (pictures.shape[1] % MULTIPLE or pictures.shape[2] % MULTIPLE)
    if not fits or maps.shape != (len(pictures), CHANNELS, pictures.shape[1] // STRIDE, pictures.shape[2] // STRIDE):
        raise BundleError(
            bundle.path, f"{file}: pictures are {pictures.dtype} {pictures.shape}, maps {maps.dtype} {maps.shape}"
        )
    return pictures, maps
