"""A guard against regressions that counts and doesn't time: layers left in float, memory taken, instructions run.

Where a count falls for good, bring its bound down.
"""

from __future__ import annotations

import gc
import platform
import re
import shutil
import subprocess
import sys
import tracemalloc
from collections import Counter
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from blastscope import Scope, open_bundle
from blastscope.benchmarks.openvino_benchmark_app import (
    COMPUTE_LAYERS,
    CONVOLUTIONS,
    MEMORY_LAYERS,
    count_layers,
    describe_layers,
    engine_layers,
    float_layers,
)
from blastscope.benchmarks.roofline import multiply_adds
from blastscope.calibration.config import CalibrationConfig
from blastscope.calibration.quantisation.quantizer import make_int8
from blastscope.export.onnx_export import FusedGraph, trace
from blastscope.runtime.backends.uint8_activations import with_uint8_activations
from blastscope.runtime.io.synthetic import synthetic_cell
from blastscope.train.config import TrainConfig
from blastscope.train.ensemble_checkpoint import random_ensemble

FLOAT_BETWEEN = 13  # pooling and its correction at the end, heads, the edges of the squeeze-and-excitation gates
COPIES = 1.1  # of an image's bytes that an answer holds at once: gray, mask and crop among them
BLOCKS = 60  # of Python's that so many answers may leave: caches fill
ANSWERS = 150
OPENCV = "5.0.0"  # whose work most of a crop is
CROP_INSTRUCTIONS = 6_000_000  # 5,029,472 were counted
SIDE = 32
SETTINGS = {"crop": {"side_px": SIDE}, "network": {"backbone": "test_efficientnet"}, "stage2": {"hidden": 16}}


@pytest.fixture(scope="module")
def graphs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A small ensemble in fp32 and in int8."""
    folder = tmp_path_factory.mktemp("graphs")
    crops = np.random.default_rng(5).integers(0, 256, (8, SIDE, SIDE, 3), np.uint8)
    trained = random_ensemble(TrainConfig.model_validate(SETTINGS), crops)
    fp32, int8 = folder / "fp32.onnx", folder / "int8.onnx"
    fp32.write_bytes(trace(FusedGraph(trained.ensemble).eval(), SIDE, "ensemble").SerializeToString())
    make_int8(fp32, int8, crops, CalibrationConfig(method="minmax"))
    return fp32, int8


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="counted for the CPU plugin's x86 kernels")
def test_no_convolution_of_an_int8_network_is_left_in_float(graphs: tuple[Path, Path]) -> None:
    fp32, int8 = engine_layers(graphs[0], "f32"), engine_layers(graphs[1], "int8")
    convolutions = count_layers(fp32, CONVOLUTIONS).total()
    assert convolutions > 20
    assert len(float_layers(fp32, CONVOLUTIONS)) == convolutions  # what the guard sees when it must see
    assert float_layers(int8, CONVOLUTIONS) == []
    assert count_layers(int8, CONVOLUTIONS).total() == convolutions
    # layers on vectors stay in float (quantisation/qdq_placement.py): there are three of their kind here, whatever is quantised
    assert {layer.kind for layer in float_layers(int8, COMPUTE_LAYERS)} == {"FullyConnected"}
    assert len(float_layers(int8, COMPUTE_LAYERS)) == len(float_layers(fp32, COMPUTE_LAYERS)) - convolutions
    assert len(float_layers(int8, MEMORY_LAYERS)) <= FLOAT_BETWEEN
    assert describe_layers(int8).startswith(f"{convolutions} of {convolutions} convolutions compute in 8 bits")


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="counted for ONNX Runtime's x86 kernels")
def test_onnxruntime_computes_all_but_the_last_convolutions_in_integers(graphs: tuple[Path, Path], tmp_path: Path) -> None:
    import onnx
    import onnxruntime

    counts = []
    int8 = graphs[1].read_bytes()
    for source in (int8, with_uint8_activations(int8, graphs[1])):
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
        onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
        kinds = [node.op_type for node in onnx.load(tmp_path / "optimised.onnx").graph.node]
        counts.append(Counter(kind for kind in kinds if kind in ("QLinearConv", "Conv", "FusedConv")))
    convolutions = count_layers(engine_layers(graphs[0], "f32"), CONVOLUTIONS).total()
    assert counts[0]["QLinearConv"] < convolutions  # the file as it is: what the guard sees when it must see
    # pooling takes what the last convolution of A and of B gives as it is, and it has no kernel for that in integers
    assert counts[1]["QLinearConv"] == convolutions - 2
    assert counts[1].total() == convolutions


def test_multiply_adds_are_counted_as_pytorch_counts_them(graphs: tuple[Path, Path]) -> None:
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    crops = torch.zeros((1, SIDE, SIDE, 3), dtype=torch.uint8)
    ensemble = random_ensemble(TrainConfig.model_validate(SETTINGS), np.zeros((2, SIDE, SIDE, 3), np.uint8)).ensemble
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        ensemble(crops)
    assert multiply_adds(graphs[0]) == counter.get_total_flops() // 2
    assert multiply_adds(graphs[1]) == multiply_adds(graphs[0])  # quantising adds none


@pytest.fixture
def scope(tiny_bundle: Any) -> Any:
    with open_bundle(tiny_bundle.make("fp32"), precision="fp32", execution="f32", threads=1) as opened:
        yield opened


def test_an_answer_holds_about_its_image_once_more_at_most(scope: Scope) -> None:
    image = synthetic_cell(7)
    for _ in range(5):
        scope.classify(image)
    tracemalloc.start()
    try:
        scope.classify(image)
        before, _ = tracemalloc.get_traced_memory()
        tracemalloc.reset_peak()
        scope.classify(image)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert (peak - before) / image.nbytes <= COPIES


def test_answers_leave_nothing_behind(scope: Scope) -> None:
    image = synthetic_cell(7)
    blocks, kib = [], []
    for _ in range(4):
        for _ in range(ANSWERS):
            scope.classify(image)
        gc.collect()
        blocks.append(sys.getallocatedblocks())
        kib.append(resident_kib())
    # what answers leave, they leave every time; threads of the tests before come and go
    assert np.diff(blocks).min() <= BLOCKS
    assert np.diff(kib).min() < 1024


def resident_kib() -> int:
    """What this process holds."""
    status = Path("/proc/self/status")
    if not status.exists():
        pytest.skip("only Linux tells how much memory a process holds")
    return next(int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith("VmRSS:"))


MARKS = """
#include <valgrind/callgrind.h>
extern "C" void begin() { CALLGRIND_START_INSTRUMENTATION; CALLGRIND_ZERO_STATS; }
extern "C" void end() { CALLGRIND_STOP_INSTRUMENTATION; }
"""
COUNTED = """
import ctypes, sys
import cv2
from blastscope.runtime.crop import CropSpecification, crop_cell
from blastscope.runtime.io.synthetic import synthetic_cell
cv2.setNumThreads(1)
marks = ctypes.CDLL(sys.argv[1])
image, spec = synthetic_cell(7), CropSpecification()
crop_cell(image, spec)
marks.begin()
crop_cell(image, spec)
marks.end()
"""


def test_a_crop_takes_no_more_instructions_than_it_did(tmp_path: Path) -> None:
    if not (shutil.which("valgrind") and shutil.which("g++") and Path("/usr/include/valgrind/callgrind.h").exists()):
        pytest.skip("valgrind with its headers, or g++, is not installed")
    if cv2.__version__ != OPENCV:
        pytest.skip(f"counted with OpenCV {OPENCV}, here is {cv2.__version__}")
    (tmp_path / "marks.cpp").write_text(MARKS)
    marks = tmp_path / "marks.so"
    subprocess.run(["g++", "-shared", "-fPIC", "-o", str(marks), str(tmp_path / "marks.cpp")], check=True)
    tool = ["valgrind", "--tool=callgrind", "--instr-atstart=no", f"--callgrind-out-file={tmp_path / 'counts'}"]
    environment = {"PYTHONHASHSEED": "0", "OPENBLAS_NUM_THREADS": "1", "PATH": "/usr/bin:/bin"}
    done = subprocess.run(
        [*tool, sys.executable, "-c", COUNTED, str(marks)], capture_output=True, text=True, check=False, env=environment
    )
    assert done.returncode == 0, done.stderr
    counted = re.search(r"^totals: (\d+)", (tmp_path / "counts").read_text(), re.MULTILINE)
    assert counted
    assert 0 < int(counted[1]) <= CROP_INSTRUCTIONS
