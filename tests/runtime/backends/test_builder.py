"""The builder, with the real TensorRT-RTX on small graphs: it needs no GPU to build."""

from __future__ import annotations

import hashlib
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from trt_logs import listen

from blastscope.runtime.backends.tensorrt import builder
from blastscope.runtime.backends.tensorrt import key as library
from blastscope.runtime.backends.tensorrt.builder import BuildStep, build_engine
from blastscope.runtime.backends.tensorrt.engine_store import engine_path, engines_folder, find_engine, obtain_engine
from blastscope.runtime.backends.tensorrt.key import BatchProfile, EngineKey, capture_errors, load_library, platform_name
from blastscope.runtime.cuda.driver import GpuFacts
from blastscope.runtime.errors import EngineError, MissingLibrary

trt = pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx-cu13 is not installed")
SIDE = 16
Made = Callable[..., tuple[Path, EngineKey]]


def key_of(graph: Path, **fields: Any) -> EngineKey:
    facts: dict[str, Any] = {
        "graph": hashlib.sha256(graph.read_bytes()).hexdigest(),
        "models": "ensemble",
        "precision": "fp32",
        "library": "tensorrt-rtx",
        "version": trt.__version__,
        "platform": platform_name(),
        "targets": ("sm86",),
    }
    return EngineKey(**{**facts, **fields})


@pytest.fixture
def made(tiny_bundle: Any, tmp_path: Path) -> Made:
    """Writes a tiny graph and gives it with its key."""

    def make(precision: str = "fp32", **fields: Any) -> tuple[Path, EngineKey]:
        graph = tmp_path / f"{precision}.onnx"
        graph.write_bytes(tiny_bundle.graph(precision=precision))
        return graph, key_of(graph, precision=precision, **fields)

    return make


@pytest.fixture
def slow(tmp_path: Path) -> tuple[Path, EngineKey]:
    """A graph of many layers, whose build takes seconds."""
    layers = 400
    nodes = [helper.make_node("Cast", ["crops"], ["x0"], to=TensorProto.FLOAT)]
    nodes += [
        helper.make_node(("Sin", "Softmax")[number % 2], [f"x{number}"], [f"x{number + 1}"], name=f"layer{number}")
        for number in range(layers)
    ]
    nodes.append(helper.make_node("Identity", [f"x{layers}"], ["made"]))
    return model_of(tmp_path / "slow.onnx", nodes)


def model_of(path: Path, nodes: list[Any]) -> tuple[Path, EngineKey]:
    """A fused graph whose answers are computed from the mean of `made`, (N, X, Y, Z), which the nodes make."""
    constants = {"all": np.array([1, 2, 3]), "six": np.arange(6, dtype=np.float32), "pairs": np.array([0, 3, 2]), "last": [1]}
    answers = [
        helper.make_node("ReduceMean", ["made", "all"], ["mean"], keepdims=0),
        helper.make_node("Unsqueeze", ["mean", "last"], ["column"]),
        helper.make_node("Mul", ["column", "six"], ["logits"]),
        helper.make_node("ArgMax", ["logits"], ["largest"], axis=1, keepdims=0),
        helper.make_node("Cast", ["largest"], ["label"], to=TensorProto.INT32),
        helper.make_node("Cast", ["largest"], ["voter"], to=TensorProto.INT32),
        helper.make_node("ReduceMax", ["logits", "last"], ["probability"], keepdims=0),
        helper.make_node("Unsqueeze", ["logits", "last"], ["row"]),
        helper.make_node("Reshape", ["row", "pairs"], ["unsure"]),
        helper.make_node("Softmax", ["unsure"], ["probabilities"], axis=2),
    ]
    kinds = {"label": TensorProto.INT32, "voter": TensorProto.INT32, "probability": TensorProto.FLOAT}
    graph = helper.make_graph(
        [*nodes, *answers],
        "graph",
        [helper.make_tensor_value_info("crops", TensorProto.UINT8, ["N", SIDE, SIDE, 3])],
        [
            helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["N", 3, 2]),
            *(helper.make_tensor_value_info(name, kind, ["N"]) for name, kind in kinds.items()),
        ],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), path)
    return path, key_of(path)


@pytest.mark.parametrize("precision", ["fp32", "int8"])
@pytest.mark.parametrize("targets", [(), ("sm80",), ("sm86", "sm89", "sm120")])
def test_a_graph_is_built_for_named_gpus_or_for_all(precision: str, targets: tuple[str, ...], made: Made) -> None:
    steps: list[BuildStep] = []
    engine = build_engine(*made(precision, targets=targets), progress=steps.append)
    assert len(engine) > 1000
    assert {step.phase for step in steps} >= {"Building engine"}
    assert all(0 <= step.done <= step.steps for step in steps)
    for phase in {step.phase for step in steps if step.steps > 1}:
        done = [step.done for step in steps if step.phase == phase]
        assert done[0] == 0
    assert str(BuildStep("Timing", 3, 7, None)) == "Timing: 3 of 7"


@pytest.mark.parametrize(("batch", "sizes"), [("1:1:1", (1, 1, 1)), ("1:8:64", (1, 8, 64)), ("16", (16, 16, 16))])
def test_the_batch_is_dynamic_within_its_profile(
    batch: str, sizes: tuple[int, int, int], made: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = listen(trt, monkeypatch)
    build_engine(*made(profile=BatchProfile.parse(batch)))
    crops = next(line for line in told if line.startswith("Name: crops,"))
    first, likely, most = (f"[{size},{SIDE},{SIDE},3]" for size in sizes)
    assert "DataType: UInt8" in crops
    assert f"MinShape: {first}, OptShape: {likely}, MaxShape: {most}" in crops
    outputs = [line for line in told if "IOMode: Output" in line]
    assert outputs


def test_an_engine_for_the_gpu_at_hand_is_built_by_the_name_of_its_kind(made: Made) -> None:
    gpu = GpuFacts(name="NVIDIA RTX A4000", capability="8.6", driver="580")
    here = build_engine(*made(targets=(), gpu=gpu))
    assert len(here) == pytest.approx(len(build_engine(*made())), rel=0.01)


def test_an_unknown_kind_of_gpu_is_named_with_the_known_ones(made: Made) -> None:
    with pytest.raises(EngineError, match="doesn't build for sm90: it knows sm75, sm80, sm86"):
        build_engine(*made(targets=("sm90",)))


def test_a_graph_that_changed_on_disk_is_not_built(made: Made) -> None:
    graph, key = made()
    graph.write_bytes(graph.read_bytes() + b"\0")
    with pytest.raises(EngineError, match="was changed since it was verified"):
        build_engine(graph, key)
    with pytest.raises(EngineError, match=r"the key asks for 0\.1"):
        build_engine(graph, key.model_copy(update={"version": "0.1"}))


def test_turing_has_no_fp32_matrix_product_and_is_built_for_all_the_same(made: Made) -> None:
    for targets in (("sm75",), ("sm75", "sm86")):
        assert len(build_engine(*made(targets=targets))) > 1000
    turing = GpuFacts(name="NVIDIA T4", capability="7.5", driver="580")
    assert len(build_engine(*made(targets=(), gpu=turing))) > 1000


def test_what_the_library_cannot_build_is_told_in_its_words(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Cast", ["crops"], ["x"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["x"], ["turned"], perm=[0, 1, 3, 2]),
        helper.make_node("MatMul", ["x", "turned"], ["made"]),  # of two maps: no convolution can do that
    ]
    path, key = model_of(tmp_path / "attention.onnx", nodes)
    with pytest.raises(EngineError, match=r"built no engine of .*Turing.*; take another precision or GPU, or device='cpu'"):
        build_engine(path, key.model_copy(update={"targets": ("sm75",)}))


# ---- what the parser refuses


def test_refused_nodes_are_named_with_what_to_do(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Transpose", ["crops"], ["turned"], perm=[0, 3, 1, 2], name="turn_bytes"),
        helper.make_node("Cast", ["turned"], ["made"], to=TensorProto.FLOAT),
    ]
    with pytest.raises(EngineError) as caught:
        build_engine(*model_of(tmp_path / "bytes.onnx", nodes))
    assert re.search(r"tensorrt-rtx [\d.]+ refuses '.*bytes\.onnx': Transpose 'turn_bytes' \(.*UInt8", str(caught.value))
    assert "export the bundle with this version of blastscope, take another precision, or device='cpu'" in str(caught.value)


def test_every_refused_node_is_named_not_the_first_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(builder, "read_graph", lambda path, *_, **__: path.read_bytes())  # which would refuse them too
    nodes = [
        helper.make_node("Cast", ["crops"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("Sparkle", ["floats"], ["one"], name="first_stranger"),
        helper.make_node("Glitter", ["one"], ["made"], name="second_stranger"),
    ]
    with pytest.raises(EngineError) as caught:
        build_engine(*model_of(tmp_path / "strange.onnx", nodes))
    assert "Sparkle 'first_stranger'" in str(caught.value)
    assert "Glitter 'second_stranger'" in str(caught.value)


def test_a_file_that_is_no_graph_and_a_graph_that_is_not_ours_are_refused(tmp_path: Path) -> None:
    noise = tmp_path / "noise.onnx"
    noise.write_bytes(b"not an ONNX file")
    with pytest.raises(EngineError, match="is not an ONNX file"):
        build_engine(noise, key_of(noise))
    other = [helper.make_node("Cast", ["crops"], ["made"], to=TensorProto.DOUBLE)]
    with pytest.raises(EngineError, match="'probabilities' as ONNX's type 1, not float32"):
        build_engine(*model_of(tmp_path / "other.onnx", other))


# ---- cancelling


def test_a_build_ends_soon_after_it_is_cancelled(slow: tuple[Path, EngineKey]) -> None:
    steps: list[float] = []
    with pytest.raises(EngineError, match="was cancelled"):
        build_engine(*slow, progress=lambda _: steps.append(time.monotonic()), cancelled=lambda: len(steps) > 20)
    assert len(steps) > 20
    assert [thread.name for thread in threading.enumerate() if thread.name == "blastscope-build"] == []


def test_what_goes_wrong_in_telling_ends_the_build_and_is_told(made: Made) -> None:
    def progress(_: BuildStep) -> None:
        raise ZeroDivisionError("nobody listens")

    with pytest.raises(ZeroDivisionError, match="nobody listens"):
        build_engine(*made(), progress=progress)


def test_the_build_runs_within_what_makes_a_gpu_current(made: Made) -> None:
    seen: list[str] = []

    @contextmanager
    def device_context() -> Any:
        seen.append(threading.current_thread().name)
        yield
        seen.append("left")

    build_engine(*made(), device_context=device_context)
    assert seen == ["blastscope-build", "left"]


BUILD = """
import sys
from pathlib import Path
from blastscope.runtime.backends.tensorrt.engine_store import obtain_engine
from blastscope.runtime.backends.tensorrt.key import EngineKey
import signal, threading
cache, graph, key = sys.argv[1:]
steps, interrupted = [], threading.Event()
def interrupt(*_):
    interrupted.set()
    raise KeyboardInterrupt
signal.signal(signal.SIGINT, interrupt)
def watch(step):
    steps.append(step)
    print(step.phase, flush=True)
    if len(steps) == 20:  # in the middle: until the signal is there
        interrupted.wait(60)
obtain_engine(Path(cache), Path(graph), EngineKey.model_validate_json(key), progress=watch)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_a_build_killed_half_way_leaves_no_engine_and_no_lock_that_blocks(
    number: signal.Signals, slow: tuple[Path, EngineKey], made: Made, tmp_path: Path
) -> None:
    graph, key = slow
    command = [sys.executable, "-c", BUILD, str(tmp_path), str(graph), key.model_dump_json()]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert child.stdout
    assert [bool(child.stdout.readline()) for _ in range(20)] == [True] * 20  # it is in the middle
    child.send_signal(number)
    _, error = child.communicate(timeout=60)
    assert child.returncode == -number, error
    assert ("KeyboardInterrupt" in error) == (number == signal.SIGINT)
    kept = [path for path in engines_folder(tmp_path).rglob("*") if path.is_file() and not path.name.endswith(".lock")]
    assert kept == []
    assert find_engine(tmp_path, key) is None
    # the lock of that very engine is free: another graph stands in, since this one builds in seconds
    small, other = made()
    small.rename(graph)
    again = other.model_copy(update={"graph": hashlib.sha256(graph.read_bytes()).hexdigest()})
    left = engines_folder(tmp_path) / f".{key.name}.engine.lock"
    assert left.exists() == (number == signal.SIGKILL)
    if left.exists():
        left.rename(engines_folder(tmp_path) / f".{again.name}.engine.lock")
    assert obtain_engine(tmp_path, graph, again).built
    assert find_engine(tmp_path, again) is not None
    assert engine_path(tmp_path, again).exists()


# ---- libraries


@pytest.mark.parametrize(("name", "module"), [("tensorrt", "tensorrt"), ("tensorrt-rtx", "tensorrt_rtx")])
def test_a_missing_library_is_named_with_the_command_that_brings_it(
    name: Any, module: str, made: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingLibrary) as caught:
        load_library(name)
    assert str(caught.value) == f"'{module}' is not installed: pip install 'blastscope[{name}]'"
    if name == "tensorrt-rtx":
        with pytest.raises(MissingLibrary):
            build_engine(*made())


def test_a_library_that_is_broken_or_too_old_is_named_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    old = ModuleType("tensorrt")
    old.__version__ = "10.2.0"  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "tensorrt", old)
    with pytest.raises(EngineError, match=r"tensorrt 10\.2\.0 is older than 10\.3: pip install --upgrade"):
        load_library("tensorrt")

    def broken(_: str) -> ModuleType:
        raise ImportError("libnvinfer.so.10: cannot open shared object file")

    monkeypatch.setattr(library, "import_module", broken)
    with pytest.raises(EngineError, match=r"can't be loaded \(libnvinfer\.so\.10.*--force-reinstall"):
        load_library("tensorrt")


def test_tensorrt_itself_is_built_with_by_the_same_calls(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in: TensorRT-RTX without what TensorRT 10 and 11 lack. Their names are looked up in test_api_names.py."""
    stand_in = ModuleType("tensorrt")
    vars(stand_in).update({name: value for name, value in vars(trt).items() if name != "ComputeCapability"})
    stand_in.__version__ = "10.16.1.11"  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "tensorrt", stand_in)
    gpu = GpuFacts(name="NVIDIA H100", capability="9.0", driver="580")
    try:
        assert len(build_engine(*made(library="tensorrt", version="10.16.1.11", targets=(), gpu=gpu))) > 1000
    finally:
        library.library_logger.cache_clear()


def test_a_library_that_gives_no_builder_is_told_in_its_words(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(logger: Any) -> None:
        logger.log(trt.ILogger.ERROR, "CUDA initialization failure with error: 100")
        raise TypeError("pybind11::init(): factory function returned nullptr")

    monkeypatch.setattr(trt, "Builder", none)
    with pytest.raises(EngineError, match="can't build here: CUDA initialization failure with error: 100"):
        build_engine(*made())


def test_errors_of_the_library_are_heard_and_not_printed(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    nodes = [
        helper.make_node("Transpose", ["crops"], ["turned"], perm=[0, 3, 1, 2]),  # of bytes, which it can't
        helper.make_node("Cast", ["turned"], ["made"], to=TensorProto.FLOAT),
    ]
    with capture_errors("tensorrt-rtx") as said, pytest.raises(EngineError):
        build_engine(*model_of(tmp_path / "bytes.onnx", nodes))
    assert said
    assert capfd.readouterr().out == ""
