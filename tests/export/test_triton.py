"""The model repository for Triton: read back with the server's own schema, and its graph run as the server would."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, json_format, message_factory, text_format
from typer.testing import CliRunner

import blastscope
from blastscope.cli import app
from blastscope.export.model_repositories import write_triton_repository
from blastscope.runtime.backends.tensorrt.engine_store import Sidecar, engine_path, store_engine
from blastscope.runtime.backends.tensorrt.key import BatchProfile, EngineKey, engine_key
from blastscope.runtime.bundle import Bundle, read_bundle
from blastscope.runtime.cuda.driver import GpuFacts
from blastscope.runtime.errors import EngineError, UngatedBundle, UsageError

GPU = GpuFacts(name="NVIDIA RTX A4000", capability="8.6", driver="580.65.06")


@pytest.fixture(scope="module")
def shipped() -> Bundle:
    return read_bundle(blastscope.SHIPPED_BUNDLE)


@pytest.fixture(scope="module")
def model_config() -> Any:
    """The message class of a model's configuration, as Triton's client declares it."""
    schema = json.loads(Path(__file__).with_name("triton_schema.json").read_text(encoding="utf-8"))
    pool = descriptor_pool.DescriptorPool()
    pool.Add(json_format.ParseDict(schema["file"], descriptor_pb2.FileDescriptorProto()))
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("inference.ModelConfig"))


def read_config(model: Path, model_config: Any) -> Any:
    return text_format.Parse((model / "config.pbtxt").read_text(encoding="utf-8"), model_config())


def test_the_config_says_what_the_graph_takes_and_gives(shipped: Bundle, model_config: Any, tmp_path: Path) -> None:
    config = read_config(write_triton_repository(shipped, tmp_path), model_config)
    session = onnxruntime.InferenceSession(str(tmp_path / "crops" / "1" / "model.onnx"), providers=["CPUExecutionProvider"])
    types = {"tensor(uint8)": "TYPE_UINT8", "tensor(float)": "TYPE_FP32", "tensor(int32)": "TYPE_INT32"}
    kinds = config.DESCRIPTOR.file.enum_types_by_name["DataType"].values_by_number
    for configured, real in ((config.input, session.get_inputs()), (config.output, session.get_outputs())):
        assert [tensor.name for tensor in configured] == [tensor.name for tensor in real]
        assert [kinds[tensor.data_type].name for tensor in configured] == [types[tensor.type] for tensor in real]
        shapes = [list(tensor.reshape.shape) if tensor.HasField("reshape") else list(tensor.dims) for tensor in configured]
        assert shapes == [tensor.shape[1:] for tensor in real]
        assert all(len(tensor.dims) for tensor in configured)  # the server refuses an empty shape
    assert (config.name, config.backend, config.max_batch_size) == ("crops", "onnxruntime", 64)


def test_requests_share_batches_and_every_preferred_size_is_warmed_up(
    shipped: Bundle, model_config: Any, tmp_path: Path
) -> None:
    config = read_config(write_triton_repository(shipped, tmp_path), model_config)
    assert list(config.dynamic_batching.preferred_batch_size) == [8, 64]
    assert config.dynamic_batching.max_queue_delay_microseconds == 2000
    assert [warm.batch_size for warm in config.model_warmup] == [1, 8, 64]
    side = shipped.manifest.crop.side_px
    session = onnxruntime.InferenceSession(str(tmp_path / "crops" / "1" / "model.onnx"), providers=["CPUExecutionProvider"])
    for warm in config.model_warmup:
        crops = warm.inputs["crops"]
        assert list(crops.dims) == [side, side, 3]
        assert crops.zero_data
    (answers,) = session.run(["probabilities"], {"crops": np.zeros((2, side, side, 3), np.uint8)})
    assert np.isfinite(answers).all()  # black crops are good for warming up


def test_the_config_carries_what_a_client_must_know_to_crop(shipped: Bundle, model_config: Any, tmp_path: Path) -> None:
    config = read_config(write_triton_repository(shipped, tmp_path), model_config)
    facts = {key: value.string_value for key, value in config.parameters.items()}
    assert json.loads(facts["blastscope.crop"]) == shipped.manifest.crop.model_dump(mode="json")
    assert facts["blastscope.bundle"] == shipped.digest
    graph = shipped.manifest.graph("fp16")
    assert graph
    assert facts["blastscope.graph"] == graph.sha256


def kept(bundle: Bundle, cache: Path, **changes: Any) -> Path:
    """An engine of the bundle in the cache, of bytes that no library reads here."""
    options: dict[str, Any] = {"gpu": GPU, "profile": BatchProfile(least=1, likely=4, most=16)}
    graph = bundle.manifest.graph("fp16")
    assert graph
    key = engine_key(graph, changes.pop("library", "tensorrt"), "10.16.1.11", **{**options, **changes})
    return store_engine(cache, key, b"engine")


def test_an_engine_of_tensorrt_takes_the_graphs_place(shipped: Bundle, model_config: Any, tmp_path: Path) -> None:
    model = write_triton_repository(shipped, tmp_path / "repository", engine=kept(shipped, tmp_path / "cache"))
    config = read_config(model, model_config)
    assert (config.backend, config.max_batch_size) == ("tensorrt", 16)
    assert list(config.dynamic_batching.preferred_batch_size) == [4, 16]
    assert (model / "1" / "model.plan").read_bytes() == b"engine"
    assert not (model / "1" / "model.onnx").exists()


def test_an_engine_that_triton_cannot_run_or_nobody_vouches_for_is_refused(shipped: Bundle, tmp_path: Path) -> None:
    rtx = kept(shipped, tmp_path, library="tensorrt-rtx", gpu=None)
    with pytest.raises(UsageError, match="Triton runs those of tensorrt"):
        write_triton_repository(shipped, tmp_path / "r", engine=rtx)
    eight = kept(shipped, tmp_path, profile=BatchProfile(least=8, likely=8, most=8))
    with pytest.raises(UsageError, match="takes 8 crops at least"):
        write_triton_repository(shipped, tmp_path / "r", engine=eight)
    good = kept(shipped, tmp_path)
    with pytest.raises(UsageError, match="is fp16, not fp32"):
        write_triton_repository(shipped, tmp_path / "r", engine=good, precision="fp32")
    good.write_bytes(b"other!")
    with pytest.raises(EngineError, match="can't be served: it is damaged"):
        write_triton_repository(shipped, tmp_path / "r", engine=good)
    stranger = EngineKey(
        **{**Sidecar.model_validate_json(eight.with_suffix(".json").read_text()).key.__dict__, "graph": "0" * 64}
    )
    with pytest.raises(UsageError, match="not of the fused ensemble"):
        write_triton_repository(shipped, tmp_path / "r", engine=store_engine(tmp_path, stranger, b"engine"))
    assert engine_path(tmp_path, stranger).exists()
    assert not (tmp_path / "r").exists()


def test_a_bundle_whose_gate_was_waived_is_not_served(tiny_bundle: Any, tmp_path: Path) -> None:
    bundle = read_bundle(tiny_bundle.make("fp32"))
    waived = Bundle(bundle.path, bundle.manifest.model_copy(update={"gate": "waived"}), bundle.digest)
    with pytest.raises(UngatedBundle):
        write_triton_repository(waived, tmp_path)


def test_the_verb_prints_where_the_model_lies_and_says_what_it_lacks(tiny_bundle: Any, tmp_path: Path) -> None:
    without_int8 = str(tiny_bundle.make("fp32"))
    done = CliRunner().invoke(app, ["export", "--triton", str(tmp_path / "models")])
    assert (done.exit_code, done.stdout) == (0, f"{tmp_path / 'models' / 'crops'}\n")
    assert [path.name for path in (tmp_path / "models").iterdir()] == ["crops"]  # the server looks at all that lies there
    for words, problem in (
        ([], "where to?"),
        (["--out", str(tmp_path / "b")], "which run?"),
        (["run", "--out", "b", "--precision", "fp16"], "--precision goes with --triton"),
        ([without_int8, "--triton", str(tmp_path / "models"), "--precision", "int8"], "has no fused int8 graph"),
    ):
        done = CliRunner().invoke(app, ["export", *words])
        assert done.exit_code == 2
        assert problem in done.stderr
