"""What becomes of sums of int8 products on CPUs with and without VNNI, and the graphs that are refused for it."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx_builders import crops, two_towers

from blastscope.runtime.backends import uint8_activations as int8_overflow
from blastscope.runtime.backends.onnx_file import OnnxGraph, message_classes
from blastscope.runtime.backends.protocol import BACKENDS, EngineOptions, open_engine
from blastscope.runtime.backends.uint8_activations import SAFE_WEIGHT, wide_layers
from blastscope.runtime.errors import DeviceError
from blastscope.runtime.io import cpu_info

X86 = platform.machine() in ("x86_64", "AMD64")


def vpmaddubsw(activations: NDArray[np.uint8], weights: NDArray[np.int8]) -> NDArray[np.int16]:
    """Sums of two neighbouring products each, as x86 computes them without VNNI: cut off at 16 bits."""
    products = activations.astype(np.int32) * weights.astype(np.int32)
    return np.clip(products[..., ::2] + products[..., 1::2], -(2**15), 2**15 - 1).astype(np.int16)


def exact(activations: NDArray[np.uint8], weights: NDArray[np.int8]) -> int:
    return int(activations.astype(np.int64) @ weights.astype(np.int64))


def row(least: int, most: int, kind: Any) -> st.SearchStrategy[Any]:
    return st.lists(st.integers(least, most), min_size=32, max_size=32).map(lambda values: np.array(values, kind))


@given(row(0, 255, np.uint8), row(-SAFE_WEIGHT, SAFE_WEIGHT, np.int8))
def test_weights_of_7_bits_lose_nothing_in_sums_of_16_bits(activations: Any, weights: Any) -> None:
    assert vpmaddubsw(activations, weights).astype(np.int64).sum() == exact(activations, weights)


def test_more_than_7_bits_overflow_and_a_depthwise_product_never_does() -> None:
    full, zeros = np.full(32, 255, np.uint8), np.arange(32) % 2
    for weight in (SAFE_WEIGHT, -SAFE_WEIGHT):
        assert vpmaddubsw(full, np.full(32, weight, np.int8)).sum(dtype=int) == 32 * 255 * weight
    for weight in (SAFE_WEIGHT + 1, -SAFE_WEIGHT - 1, 127, -127):
        assert abs(vpmaddubsw(full, np.full(32, weight, np.int8)).sum(dtype=int)) < abs(32 * 255 * weight)
        assert vpmaddubsw(full, (weight * zeros).astype(np.int8)).sum(dtype=int) == 16 * 255 * weight


INSTRUCTION = """
#include <immintrin.h>
extern "C" void sums(const unsigned char* activations, const signed char* weights, short* out) {
    __m256i a = _mm256_loadu_si256((const __m256i*)activations), w = _mm256_loadu_si256((const __m256i*)weights);
    _mm256_storeu_si256((__m256i*)out, _mm256_maddubs_epi16(a, w));
}
"""


def test_the_processors_own_instruction_adds_as_the_law_says(tmp_path: Path) -> None:
    import ctypes

    if not (X86 and "avx2" in cpu_info.cpu_features() and shutil.which("g++")):
        pytest.skip("needs a CPU with AVX2, and g++")
    (tmp_path / "sums.cpp").write_text(INSTRUCTION)
    library = tmp_path / "sums.so"
    subprocess.run(["g++", "-mavx2", "-shared", "-fPIC", "-o", str(library), str(tmp_path / "sums.cpp")], check=True)
    sums = ctypes.CDLL(str(library)).sums
    rng = np.random.default_rng(1)
    for top in (SAFE_WEIGHT, 127):
        for _ in range(50):
            activations = rng.integers(128, 256, 32).astype(np.uint8)
            weights = rng.choice([-top, top], 32).astype(np.int8)
            found = np.zeros(16, np.int16)
            sums(*(array.ctypes.data_as(ctypes.c_void_p) for array in (activations, weights, found)))
            np.testing.assert_array_equal(found, vpmaddubsw(activations, weights))


LAYER = """
import sys
import numpy as np, openvino
from onnx import TensorProto, helper, numpy_helper
top, groups = int(sys.argv[1]), int(sys.argv[2])
constants = {"step": np.float32(1 / 255), "zero": np.uint8(0), "weight": np.full((64, 64 // groups, 1, 1), top, np.int8),
    "fine": np.full(64, 1 / top, np.float32), "zeros": np.zeros(64, np.int8), "bias": np.zeros(64, np.float32)}
nodes = [helper.make_node("QuantizeLinear", ["x", "step", "zero"], ["x8"]),
    helper.make_node("DequantizeLinear", ["x8", "step", "zero"], ["back"]),
    helper.make_node("DequantizeLinear", ["weight", "fine", "zeros"], ["kernel"], axis=0),
    helper.make_node("Conv", ["back", "kernel", "bias"], ["y"], group=groups)]
value = helper.make_tensor_value_info
graph = helper.make_graph(nodes, "layer", [value("x", TensorProto.FLOAT, [1, 64, 8, 8])],
    [value("y", TensorProto.FLOAT, ["n", "c", "h", "w"])],
    [numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()])
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
core = openvino.Core()
compiled = core.compile_model(core.read_model(model.SerializeToString()), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
print(float(compiled(np.ones((1, 64, 8, 8), np.float32))[0].max()))
"""


@pytest.mark.skipif(not X86 or "avx2" not in cpu_info.cpu_features(), reason="needs an x86 CPU with AVX2")
@pytest.mark.parametrize(
    ("weight", "groups", "right"),
    [(SAFE_WEIGHT, 1, True), (127, 1, False), (127, 64, True)],
    ids=["7 bits", "8 bits", "depthwise, 8 bits"],
)
def test_openvino_without_vnni_computes_7_bits_rightly_and_8_not(weight: int, groups: int, right: bool) -> None:
    environment = {**os.environ, "ONEDNN_MAX_CPU_ISA": "AVX2"}  # of oneDNN, whose kernels OpenVINO has on x86
    told = subprocess.run(
        [sys.executable, "-c", LAYER, str(weight), str(groups)], capture_output=True, text=True, check=True, env=environment
    )
    expected = 64 / groups
    assert (abs(float(told.stdout) - expected) < 0.01 * expected) is right


@pytest.fixture
def wide(tmp_path: Path) -> Path:
    """A graph with weights of 8 bits."""
    path = tmp_path / "wide.onnx"
    path.write_bytes(two_towers(int8=True, top=127))
    return path


def without_vnni(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(int8_overflow, "int8_sums_overflow", lambda: True)


@pytest.mark.parametrize("backend", sorted(BACKENDS))
def test_weights_of_8_bits_are_refused_without_vnni(backend: str, wide: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    without_vnni(monkeypatch)
    with pytest.raises(DeviceError, match=r"wide\.onnx' has int8 weights of 8 bits.* no VNNI.*weight_bits = 7"):
        open_engine(wide, EngineOptions(execution="int8"), backend=backend)
    narrow = wide.with_name("narrow.onnx")
    narrow.write_bytes(two_towers(int8=True))
    assert open_engine(narrow, EngineOptions(execution="int8"), backend=backend).execution == "int8"


@pytest.mark.skipif(cpu_info.int8_sums_overflow(), reason="this CPU has no VNNI")
def test_weights_of_8_bits_are_computed_alike_where_sums_fit(wide: Path) -> None:
    answers = [
        open_engine(wide, EngineOptions(execution="int8"), backend=name).lanes[0].infer(crops(8)) for name in sorted(BACKENDS)
    ]
    np.testing.assert_allclose(*answers, atol=0.02)


def test_depthwise_layers_may_have_weights_of_8_bits() -> None:
    graphs = [message_classes()["Model"].FromString(two_towers(int8=True, top=top)) for top in (SAFE_WEIGHT, 127)]
    assert list(wide_layers(OnnxGraph(graphs[0]))) == []
    assert len(list(wide_layers(OnnxGraph(graphs[1])))) == 4
    for tensor in graphs[1].graph.initializer:
        if tensor.data_type == 3 and len(tensor.dims) == 4:  # one input channel each, as a depthwise layer's
            tensor.dims[0], tensor.dims[1] = tensor.dims[0] * tensor.dims[1], 1
    assert list(wide_layers(OnnxGraph(graphs[1]))) == []


@pytest.mark.parametrize(
    ("machine", "system", "features", "overflow"),
    [
        ("x86_64", "linux", {"avx2"}, True),
        ("x86_64", "linux", {"avx2", "avx512f"}, True),
        ("x86_64", "linux", {"avx2", "avx_vnni"}, False),
        ("x86_64", "linux", {"avx512f", "avx512_vnni"}, False),
        ("AMD64", "win32", {"avx2"}, False),  # it may have AVX-VNNI: the golden set is to find out
        ("AMD64", "win32", {"avx2", "avx512f"}, True),
        ("aarch64", "linux", {"asimd"}, False),
    ],
)
def test_sums_overflow_on_x86_without_vnni(
    machine: str, system: str, features: set[str], overflow: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(platform, "machine", lambda: machine)
    monkeypatch.setattr(sys, "platform", system)
    monkeypatch.setattr(cpu_info, "cpu_features", lambda: frozenset(features))
    assert cpu_info.int8_sums_overflow() is overflow
