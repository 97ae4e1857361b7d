"""Every backend answers alike, tells what it really computes in, and translates what its library raises."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from blastscope.runtime.backends.blob_store import engine_digest, engine_file, write_blob
from blastscope.runtime.backends.onnxruntime import cpu as onnxruntime_cpu
from blastscope.runtime.backends.openvino import infer_request as openvino_core
from blastscope.runtime.backends.protocol import BACKENDS, Engine, EngineOptions, load_backend, open_engine
from blastscope.runtime.errors import DeviceError, EngineError, MissingLibrary, UsageError
from blastscope.runtime.io.temporary_file import temporary_file

ALL = sorted(BACKENDS)


@pytest.fixture
def graph(tiny_bundle: Any, tmp_path: Path) -> Path:
    path = tmp_path / "tiny.onnx"
    path.write_bytes(tiny_bundle.graph())
    return path


@pytest.fixture
def graph8(tiny_bundle: Any, tmp_path: Path) -> Path:
    path = tmp_path / "tiny8.onnx"
    path.write_bytes(tiny_bundle.graph(precision="int8"))
    return path


@pytest.fixture(params=ALL)
def backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.mark.parametrize("workload", ["latency", "throughput"])
def test_each_lane_answers_as_numpy_does(tiny_bundle: Any, graph: Path, backend: str, workload: Any) -> None:
    engine = open_engine(graph, EngineOptions(workload=workload, threads=2), backend=backend)
    assert len(engine.lanes) == (2 if workload == "throughput" else 1)
    for count, lane in enumerate([*engine.lanes, *engine.lanes], start=1):
        crops = tiny_bundle.crops(count, seed=count)
        answers = lane.infer(crops)
        assert answers.shape == (count, 3, 2)
        assert answers.dtype == np.float32
        np.testing.assert_allclose(answers, tiny_bundle.expected(crops), atol=2e-6)
    engine.close()
    engine.close()


def test_the_backends_agree_on_the_int8_graph(tiny_bundle: Any, graph8: Path) -> None:
    crops = tiny_bundle.crops(16)
    engines = [open_engine(graph8, EngineOptions(execution="int8"), backend=name) for name in ALL]
    assert [engine.execution for engine in engines] == ["int8", "int8"]
    one, other = (engine.lanes[0].infer(crops) for engine in engines)
    np.testing.assert_allclose(one, other, atol=1e-3)
    np.testing.assert_allclose(one, tiny_bundle.expected(crops), atol=0.2)


def test_lanes_work_side_by_side(tiny_bundle: Any, graph: Path, backend: str) -> None:
    engine = open_engine(graph, EngineOptions(workload="throughput", threads=4), backend=backend)
    batches = [tiny_bundle.crops(20, seed=seed) for seed in range(4)]
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda pair: pair[0].infer(pair[1]), zip(engine.lanes, batches, strict=True)))
    for crops, answer in zip(batches, answers, strict=True):
        np.testing.assert_allclose(answer, tiny_bundle.expected(crops), atol=2e-6)


def test_the_execution_is_what_the_device_offers_or_an_error(graph: Path, backend: str) -> None:
    offered = load_backend(backend).executions("CPU")
    for execution in ("f32", "bf16", "f16"):
        options = EngineOptions(execution=execution)
        if execution in offered:
            assert open_engine(graph, options, backend=backend).execution == execution
        else:
            with pytest.raises(DeviceError, match=f"{execution} is not offered"):
                open_engine(graph, options, backend=backend)


def test_a_device_that_is_not_there_is_refused_with_those_that_are(graph: Path) -> None:
    with pytest.raises(DeviceError, match=r"no device 'GPU\.7' here: it has .*CPU"):
        open_engine(graph, EngineOptions(device="GPU.7"), backend="openvino")
    with pytest.raises(DeviceError, match="CPU only"):
        open_engine(graph, EngineOptions(device="GPU"), backend="onnxruntime")


def test_a_graph_that_is_none_is_an_engine_error(tmp_path: Path, backend: str) -> None:
    path = tmp_path / "broken.onnx"
    path.write_bytes(b"\x08\x07\x12")
    with pytest.raises(EngineError, match="broken"):
        open_engine(path, EngineOptions(), backend=backend)


def test_a_graph_of_one_voter_is_not_a_fused_one(tmp_path: Path, backend: str) -> None:
    from onnx import TensorProto, helper

    nodes = [
        helper.make_node("Cast", ["crops"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["floats"], ["probabilities"], axes=[1, 2], keepdims=0),
    ]
    crops = helper.make_tensor_value_info("crops", TensorProto.UINT8, ["N", 8, 8, 3])
    answers = helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["N", 3])
    opset = [helper.make_opsetid("", 17)]
    model = helper.make_model(helper.make_graph(nodes, "one", [crops], [answers]), opset_imports=opset, ir_version=9)
    (tmp_path / "one.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(EngineError, match="not a fused graph"):
        open_engine(tmp_path / "one.onnx", EngineOptions(), backend=backend)


def test_crops_of_another_size_are_an_engine_error(graph: Path, backend: str) -> None:
    lane = open_engine(graph, EngineOptions(), backend=backend).lanes[0]
    for crops in (np.zeros((2, 8, 8, 3), np.uint8), np.zeros((2, 16, 16, 3), np.float64)):
        with pytest.raises(EngineError):
            lane.infer(crops)  # type: ignore[arg-type]


def test_a_closed_lane_says_so(tiny_bundle: Any, graph: Path, backend: str) -> None:
    engine = open_engine(graph, EngineOptions(), backend=backend)
    engine.close()
    with pytest.raises(EngineError, match="closed"):
        engine.lanes[0].infer(tiny_bundle.crops(1))


@pytest.mark.parametrize(
    "kind", [*openvino_core.FOREIGN, *onnxruntime_cpu.is_onnxruntime_error()], ids=lambda kind: kind.__name__
)
def test_every_foreign_exception_becomes_an_engine_error(kind: type[Exception]) -> None:
    own = openvino_core.translate_errors if kind in openvino_core.FOREIGN else onnxruntime_cpu.translate_errors
    with pytest.raises(EngineError) as caught, own("a test"):
        raise kind("what it said")
    assert isinstance(caught.value.__cause__, kind)


def test_the_list_of_foreign_exceptions_is_the_librarys() -> None:
    names = {kind.__name__ for kind in onnxruntime_cpu.is_onnxruntime_error()}
    assert {"Fail", "InvalidArgument", "InvalidGraph", "InvalidProtobuf", "NoSuchFile", "NotImplemented"} <= names


@pytest.mark.parametrize("name", ALL)
def test_a_missing_library_is_named_with_the_command_that_brings_it(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    module = load_backend(name)
    if name == "openvino":
        openvino_core.import_openvino.cache_clear()
        openvino_core.core.cache_clear()
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MissingLibrary, match="pip install") as caught:
        module.fingerprint("CPU")
    assert caught.value.library == name


def test_a_backend_that_is_not_known_is_refused_with_the_known_ones() -> None:
    with pytest.raises(UsageError, match="onnxruntime or openvino"):
        load_backend("tensorrt")


def cached(graph: Path, cache: Path, **options: Any) -> Engine:
    return open_engine(graph, EngineOptions(cache_dir=cache, **options), backend="openvino")


def test_an_engine_from_the_cache_answers_to_the_bit(tiny_bundle: Any, graph: Path, tmp_path: Path) -> None:
    crops = tiny_bundle.crops(9)
    first = cached(graph, tmp_path)
    (file,) = (tmp_path / "engines").iterdir()
    content = graph.read_bytes()
    graph.write_bytes(b"")  # the second opening doesn't read it
    second = open_engine(graph, EngineOptions(cache_dir=tmp_path), backend="openvino", sha256=sha256(content).hexdigest())
    assert second.digest == first.digest == file.stem
    np.testing.assert_array_equal(first.lanes[0].infer(crops), second.lanes[0].infer(crops))


@pytest.mark.parametrize("damage", [b"", b"short", None])
def test_a_damaged_engine_is_compiled_anew_and_replaced(tiny_bundle: Any, graph: Path, tmp_path: Path, damage: Any) -> None:
    cached(graph, tmp_path).close()
    (file,) = (tmp_path / "engines").iterdir()
    good = file.read_bytes()
    file.write_bytes(good[:-100] + b"x" + good[-99:] if damage is None else damage)
    engine = cached(graph, tmp_path)
    assert any("damaged" in note for note in engine.notes)
    np.testing.assert_allclose(
        engine.lanes[0].infer(tiny_bundle.crops(3)), tiny_bundle.expected(tiny_bundle.crops(3)), atol=2e-6
    )
    assert not cached(graph, tmp_path).notes


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="POSIX owners and modes")
def test_an_engine_that_others_may_write_is_replaced_and_kept_privately(graph: Path, tmp_path: Path) -> None:
    cached(graph, tmp_path).close()
    (file,) = (tmp_path / "engines").iterdir()
    assert [stat.S_IMODE(path.stat().st_mode) for path in (file, file.parent)] == [0o600, 0o700]
    file.chmod(0o666)
    assert any("others could have written it" in note for note in cached(graph, tmp_path).notes)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert not cached(graph, tmp_path).notes


def test_an_engine_under_anothers_name_is_none(tiny_bundle: Any, graph: Path, graph8: Path, tmp_path: Path) -> None:
    one, other = cached(graph, tmp_path), cached(graph8, tmp_path, execution="int8")
    place = engine_file(tmp_path, one.digest)
    place.write_bytes(engine_file(tmp_path, other.digest).read_bytes())
    assert any("replaced" in note for note in cached(graph, tmp_path).notes)
    crops = tiny_bundle.crops(3)
    np.testing.assert_array_equal(cached(graph, tmp_path).lanes[0].infer(crops), one.lanes[0].infer(crops))


def test_a_graph_that_changed_since_it_was_verified_is_not_loaded(tiny_bundle: Any, graph: Path, tmp_path: Path) -> None:
    digest = sha256(graph.read_bytes()).hexdigest()
    graph.write_bytes(tiny_bundle.graph(wrong=5.0))
    for name in ALL:
        with pytest.raises(EngineError, match="was changed since it was verified"):
            open_engine(graph, EngineOptions(cache_dir=tmp_path), backend=name, sha256=digest)
    assert not (tmp_path / "engines").exists()


@pytest.mark.skipif(os.name == "nt", reason="there a file of today may be one that is being written")
def test_what_killed_writers_left_in_the_cache_goes_at_the_next_writing(graph: Path, tmp_path: Path) -> None:
    engines = tmp_path / "engines"
    engines.mkdir()
    for name in (".a.engine.0123abcd.new", ".c.proof.0.new"):
        (engines / name).write_bytes(b"half")
    with temporary_file(engines / "b.engine") as written:
        cached(graph, tmp_path).close()
        assert list(engines.glob(".*")) == [written]


def test_an_engine_that_the_library_refuses_is_replaced(graph: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    digest = cached(graph, tmp_path).digest
    write_blob(engine_file(tmp_path, digest), b"sealed, but of another library" * 100)
    assert any("replaced" in note for note in cached(graph, tmp_path).notes)
    assert not cached(graph, tmp_path).notes


def test_a_cache_that_cannot_be_written_is_noted_and_no_more(tiny_bundle: Any, graph: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    engine = cached(graph, tmp_path / "file")
    assert any("can't be written" in note for note in engine.notes)
    assert engine.lanes[0].infer(tiny_bundle.crops(1)).shape == (1, 3, 2)


def test_whatever_changes_an_engine_changes_its_digest(graph: Path, graph8: Path, tmp_path: Path) -> None:
    engines = [
        cached(graph, tmp_path),
        cached(graph, tmp_path, threads=3),
        cached(graph, tmp_path, workload="throughput"),
        cached(graph8, tmp_path, execution="int8"),
        open_engine(graph, EngineOptions(), backend="onnxruntime"),
    ]
    assert len({engine.digest for engine in engines}) == len(engines)
    assert engine_digest({"version": "1"}) != engine_digest({"version": "2"})


def test_openvino_is_imported_without_its_converter_and_still_shows_it() -> None:
    code = (
        "from blastscope.runtime.backends.openvino.infer_request import import_openvino\n"
        "import sys; openvino = import_openvino(); assert 'openvino.tools.ovc' not in sys.modules\n"
        "assert callable(openvino.convert_model)\n"
        "import openvino.tools.ovc"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


REPORTING = """
import sys
from pathlib import Path
from blastscope.runtime.backends.onnxruntime.cpu import load_onnxruntime
from blastscope.runtime.backends.openvino.infer_request import convert_model

load_onnxruntime().InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
assert convert_model(sys.argv[1]).inputs
print(sorted(path.name for path in Path.home().iterdir()), "openvino_telemetry" in sys.modules)
"""


def test_no_library_keeps_an_id_of_the_machine_to_report_by(graph: Path, tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    suppressing = ("CI", "TF_BUILD", "GITHUB_ACTIONS", "ORT_", "XDG_")  # under a build server they don't report anyway
    kept = {name: value for name, value in os.environ.items() if not name.startswith(suppressing)}
    command = [sys.executable, "-c", REPORTING, str(graph)]
    done = subprocess.run(command, env={**kept, "HOME": str(home)}, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "[] False\n"), done.stderr
