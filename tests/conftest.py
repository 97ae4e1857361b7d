"""What every test may use: the real cells, where they are at hand."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import settings
from made_once import made_once
from numpy.typing import NDArray

# no deadline: a law that holds on a busy machine is a law; no example folder in the tree
settings.register_profile("house", deadline=None, database=None, print_blob=True)
settings.load_profile("house")

if "PYTEST_XDIST_WORKER" in os.environ:
    # one of several processes on these cores: a thread for each core in each of them would only wait for the others'
    os.environ.setdefault("OMP_NUM_THREADS", "1")

if TYPE_CHECKING:
    from browser import Browser
    from host_kernels import HostKernels
    from trained_bundle import TrainedBundle

ROOT = Path(__file__).resolve().parent.parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks what opens pages, and puts first the files that take long.

    Of several processes none is left alone at the end with a long one. libblastscope, which is compiled, is such.
    """
    for item in items:
        if "browser" in getattr(item, "fixturenames", ()):  # whoever takes the window needs a browser
            item.add_marker("browser")
    long = {item.path for item in items if item.get_closest_marker("slow") or "native" in getattr(item, "fixturenames", ())}
    items.sort(key=lambda item: item.path not in long)


@pytest.fixture(scope="session", autouse=True)
def nothing_is_measured() -> Iterator[None]:
    """Handles take the engine that is likely fastest, and measure none, but in the tests of that measurement.

    What a busy machine measures would give two handles of one comparison engines that round differently.
    """
    from blastscope.runtime.inference.autotune import Autotuner, TimingCaches

    def measures() -> bool:
        return "tests/runtime/inference/" in os.environ.get("PYTEST_CURRENT_TEST", "")

    start, read = Autotuner.start, TimingCaches.read
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Autotuner, "start", lambda tuner: start(tuner) if measures() else None)
        patch.setattr(TimingCaches, "read", lambda caches: read(caches) if measures() else {})
        yield


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder with `cnmc/` and `bccd/`: BLASTSCOPE_DATA, or ../shared/data beside the repository."""
    folder = Path(os.environ.get("BLASTSCOPE_DATA", ROOT.parent / "shared" / "data"))
    if not (folder / "cnmc").is_dir():
        if os.environ.get("CI"):
            pytest.fail(f"'{folder}' holds no cnmc/: CI must run on the real cells")
        pytest.skip(f"real cells are not at hand: no cnmc/ in '{folder}' (set BLASTSCOPE_DATA)")
    return folder


@pytest.fixture(scope="session")
def cnmc(shared_data: Path) -> Path:
    """The C-NMC cells in the archive's own folders, fold_0 and fold_1."""
    return shared_data / "cnmc" / "C-NMC_training_data"


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """PyTorch on one thread: the networks of tests are too small for more."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def host_kernels() -> HostKernels:
    """The crop kernels, compiled for the host by g++."""
    from host_kernels import HostKernels

    try:
        return HostKernels()
    except FileNotFoundError as error:
        if os.environ.get("CI"):
            pytest.fail(f"{error}: CI must run the kernels")
        pytest.skip(f"the crop kernels can't be compiled for the host: {error}")


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """A window of Chromium, for all pages one after the other."""
    from browser import Browser

    with Browser(tmp_path_factory.mktemp("chromium")) as opened:
        yield opened


@pytest.fixture(scope="session")
def trained_bundle(tmp_path_factory: pytest.TempPathFactory) -> TrainedBundle:
    """A bundle of a small ensemble with clear calls, and its cells, one for all processes. Not to be changed: copy it."""
    from trained_bundle import TrainedBundle, make_trained_bundle

    return TrainedBundle.below(made_once(tmp_path_factory, "trained", make_trained_bundle))


@pytest.fixture
def tiny_bundle(tmp_path: Path) -> TinyBundle:
    """Makes bundles of a tiny fused graph, which engines load in milliseconds."""
    return TinyBundle(tmp_path)


class TinyBundle:
    """Bundles whose networks are a linear function of a crop's mean colour, computed for the golden set by numpy."""

    side_px = 16
    weight = np.random.default_rng(3).normal(0, 6, (3, 6)).astype(np.float32)
    bias = np.random.default_rng(4).normal(0, 0.5, 6).astype(np.float32)

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def expected(self, crops: NDArray[np.uint8]) -> NDArray[np.float32]:
        """What the networks say of `crops`."""
        means = crops.reshape(len(crops), -1, 3).mean(axis=1, dtype=np.float64) / 255 - 0.3
        logits = (means @ self.weight + self.bias).reshape(-1, 3, 2)
        powers = np.exp(logits - logits.max(axis=2, keepdims=True))
        return np.asarray(powers / powers.sum(axis=2, keepdims=True), np.float32)

    def crops(self, count: int, seed: int = 0) -> NDArray[np.uint8]:
        """Crops of one colour each, with a little noise."""
        rng = np.random.default_rng(seed)
        side = self.side_px
        noisy = rng.integers(20, 230, (count, 1, 1, 3)) + rng.integers(-20, 20, (count, side, side, 3))
        return noisy.astype(np.uint8)

    def cell(self, seed: int = 0, size_px: int = 80) -> NDArray[np.uint8]:
        """A disk of some colour on black."""
        rows, columns = np.ogrid[:size_px, :size_px]
        disk = (rows - size_px / 2) ** 2 + (columns - size_px / 2) ** 2 < (size_px / 3) ** 2
        return (disk[..., None] * np.random.default_rng(seed).integers(90, 250, 3)).astype(np.uint8)

    def graph(self, *, precision: str = "fp32", wrong: float = 0.0) -> bytes:
        """The ONNX file; `wrong` is added to the logits of ALL."""
        from onnx import TensorProto, helper, numpy_helper

        bias = self.bias + np.tile(np.array([0, wrong], np.float32), 3)
        finest = float(np.abs(self.weight).max()) / 64
        constants: dict[str, Any] = {
            "axes": np.array([1, 2]), "scale": np.float32(255), "shift": np.float32(0.3),
            "bias": bias, "shape": np.array([-1, 3, 2]), "flat": np.array([-1, 6]), "last": np.array([1]),
            "weight": self.weight, "step": np.float32(1 / 128), "zero": np.int8(0), "fine": np.float32(finest),
        }  # fmt: skip
        nodes = [
            helper.make_node("Cast", ["crops"], ["floats"], to=TensorProto.FLOAT),
            helper.make_node("ReduceMean", ["floats", "axes"], ["mean"], keepdims=0),
            helper.make_node("Div", ["mean", "scale"], ["share"]),
            helper.make_node("Sub", ["share", "shift"], ["centred"]),
        ]
        left, right = "centred", "weight"
        if precision == "int8":
            constants["weight"] = np.clip(np.rint(self.weight / finest), -64, 64).astype(np.int8)
            nodes += [
                helper.make_node("QuantizeLinear", ["centred", "step", "zero"], ["centred8"]),
                helper.make_node("DequantizeLinear", ["centred8", "step", "zero"], ["centredq"]),
                helper.make_node("DequantizeLinear", ["weight", "fine", "zero"], ["weightq"]),
            ]
            left, right = "centredq", "weightq"
        nodes += [
            helper.make_node("MatMul", [left, right], ["product"]),
            helper.make_node("Add", ["product", "bias"], ["logits6"]),
            helper.make_node("Reshape", ["logits6", "shape"], ["logits"]),
            helper.make_node("Softmax", ["logits"], ["probabilities"], axis=2),
            helper.make_node("Reshape", ["probabilities", "flat"], ["six"]),
            helper.make_node("ArgMax", ["six"], ["largest"], axis=1, keepdims=0),
            helper.make_node("Cast", ["largest"], ["label"], to=TensorProto.INT32),
            helper.make_node("Cast", ["largest"], ["voter"], to=TensorProto.INT32),
            helper.make_node("ReduceMax", ["six", "last"], ["probability"], keepdims=0),
        ]
        side = self.side_px
        graph = helper.make_graph(
            nodes,
            "tiny",
            [helper.make_tensor_value_info("crops", TensorProto.UINT8, ["N", side, side, 3])],
            [
                helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["N", 3, 2]),
                helper.make_tensor_value_info("label", TensorProto.INT32, ["N"]),
                helper.make_tensor_value_info("probability", TensorProto.FLOAT, ["N"]),
                helper.make_tensor_value_info("voter", TensorProto.INT32, ["N"]),
            ],
            [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
        return bytes(model.SerializeToString())

    def make(
        self,
        *precisions: str,
        wrong: Mapping[str, float] | None = None,
        tolerances: Mapping[str, Mapping[str, float]] | None = None,
        gate: str = "passed",
        int8_gate: str = "passed",
        **fields: object,
    ) -> Path:
        """The folder of a bundle with these graphs; `wrong` ones fail the golden set."""
        from blastscope.runtime.bundle import Golden, Manifest, describe_file, golden_bytes, write_bundle

        files: dict[str, Path | bytes] = {}
        entries: list[dict[str, Any]] = []
        for precision in precisions or ("fp32",):
            data = self.graph(precision=precision, wrong=(wrong or {}).get(precision, 0.0))
            file = f"{precision}/ensemble.onnx"
            files[file] = data
            plain = {"int8": {"int8": 0.2}}.get(precision, {"f32": 1e-4})
            entry: dict[str, Any] = {**describe_file(data, file).model_dump(), "models": "ensemble", "precision": precision}
            entry["tolerances"] = (tolerances or {}).get(precision, plain)
            if precision == "int8" and int8_gate != "none":
                estimate = {"value": 0, "low": 0, "high": 0}
                entry["gate"] = {
                    "engine": "openvino", "cells": 9, "patients": 3, "flip_rate": estimate, "max_flip_rate": 0.02,
                    "f1_drop_points": estimate, "max_f1_drop_points": 0.5, "passed": int8_gate == "passed",
                }  # fmt: skip
            entries.append(entry)
        crops = self.crops(32)
        sure = np.abs(np.diff(self.expected(crops), axis=2)).max(axis=(1, 2)) > 0.5
        crops = crops[sure][:8]
        golden = golden_bytes(Golden(crops, self.expected(crops)))
        files["golden.safetensors"] = golden
        manifest = Manifest.model_validate(
            {
                "name": "tiny",
                "created": "2026-11-23T01:00:00Z",
                "backbone": "linear",
                "crop": {"side_px": self.side_px},
                "gate": gate,
                "graphs": entries,
                "golden": {
                    **describe_file(golden, "golden.safetensors").model_dump(), "count": len(crops), "source": "drawn"
                },
                "training": {
                    **{"data_sha256": None, "split": "none", "seed": 0, "config": {}, "versions": {}},
                    "patients": {"training": [], "validation": []},
                },
                **fields,
            }
        )  # fmt: skip
        return write_bundle(self.folder / f"bundle-{len(list(self.folder.iterdir()))}", manifest, files).path
