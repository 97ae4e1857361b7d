"""Opens a bundle's detector, and holds it to its golden pictures."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from blastscope.runtime.bundle import Bundle
from blastscope.runtime.bundle.entries import DetectorEntry
from blastscope.runtime.bundle.graphs import RefusedGraph, read_graph
from blastscope.runtime.errors import BundleError, GoldenMismatch
from blastscope.runtime.frames.detection.decode import CHANNELS, KINDS, STRIDE, WHITE
from blastscope.runtime.frames.detection.detector import MULTIPLE, Detector, Network

_MODULES = {
    "openvino": "blastscope.runtime.backends.openvino.infer_request",
    "onnxruntime": "blastscope.runtime.backends.onnxruntime.cpu",
}
LARGEST_GOLDEN = 4 * 2**20  # bytes
MOST_PICTURES = 4


def load_detector(bundle: Bundle, *, backend: str, threads: int) -> Detector | None:
    """The detector of a bundle, on the CPU; None where the bundle has none.

    Parameters
    ----------
    bundle : Bundle
        As `read_bundle` gives it.
    backend : str
        The library that runs the ensemble. Where that is none of a CPU, the detector runs on OpenVINO.
    threads : int
        Of the library.

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
    place = bundle.file(entry.graph)
    try:
        content = read_graph(place, entry.graph.sha256, models="detector")
    except RefusedGraph as error:
        raise error.in_bundle(bundle.path, entry.graph.file) from error
    network: Network = import_module(_MODULES.get(backend, _MODULES["openvino"])).open_detector(content, place, threads=threads)
    try:
        _check(bundle, entry, network)
    except BaseException:
        network.close()
        raise
    return Detector(network, entry.pixel_um, entry.least_score)


def golden_bytes(pictures: NDArray[np.uint8], maps: NDArray[np.float32]) -> bytes:
    """The golden file of a detector: pictures (n, H, W, 3) uint8 RGB, and the trained network's maps (n, 10, H / 8, W / 8)."""
    return save({"pictures": np.ascontiguousarray(pictures), "maps": np.ascontiguousarray(maps)})


def probabilities_differ(some: NDArray[np.float32], others: NDArray[np.float32]) -> float:
    """The largest difference of a probability in two maps (10, h, w); a group's counts as far as a white cell is there."""
    heat = np.abs(some[:KINDS] - others[:KINDS]).max()
    groups = (np.abs(some[KINDS + 4 :] - others[KINDS + 4 :]) * others[WHITE]).max()
    return float(max(heat, groups))


def _check(bundle: Bundle, entry: DetectorEntry, network: Network) -> None:
    pictures, wanted = _read_golden(bundle, entry)
    for picture, maps in zip(pictures, wanted, strict=True):
        found = network.infer(picture)
        if found.shape != maps.shape or not np.isfinite(found).all():
            raise GoldenMismatch(bundle.path, f"{entry.graph.file} gives maps {found.shape}, not {maps.shape} of numbers")
        difference = probabilities_differ(found, maps)
        if difference > entry.tolerance:
            raise GoldenMismatch(
                bundle.path,
                f"{entry.graph.file} differs from the trained detector by {difference:.2g} (at most {entry.tolerance:.2g})",
            )


def _read_golden(bundle: Bundle, entry: DetectorEntry) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
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
