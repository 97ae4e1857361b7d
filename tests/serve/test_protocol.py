"""The Open Inference Protocol as NVIDIA's client speaks it, over HTTP and gRPC, against the runtime's own answers."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as triton_grpc
import tritonclient.http as triton_http
from numpy.typing import NDArray
from served import Served, png
from tritonclient.grpc import service_pb2
from tritonclient.utils import InferenceServerException, serialize_byte_tensor

import blastscope
from blastscope import open_bundle, synthetic_cell
from blastscope.serve import grpc_server
from blastscope.serve.models import NO_BOX
from blastscope.serve.tensors import from_binary

Clients = tuple[Served, list[tuple[Any, Any]]]


def test_messages_have_the_numbers_that_nvidias_client_has() -> None:
    for name in service_pb2.DESCRIPTOR.message_types_by_name:
        theirs = service_pb2.DESCRIPTOR.message_types_by_name[name]
        try:
            ours = grpc_server.message(name).DESCRIPTOR
        except KeyError:
            continue  # an extension that isn't offered
        compare(ours, theirs)
    assert len(grpc_server.methods()) == 8


def compare(ours: Any, theirs: Any) -> None:
    for field in ours.fields:
        other = theirs.fields_by_number[field.number]
        assert (field.name, field.type, field.is_repeated) == (other.name, other.type, other.is_repeated)
        if field.message_type:
            assert field.message_type.full_name == other.message_type.full_name
            compare(field.message_type, other.message_type)


def test_the_compiled_messages_are_those_of_the_proto_file() -> None:
    compiled = Path(grpc_server.__file__).with_name(grpc_server.COMPILED).read_bytes()
    assert grpc_server.compile_messages() == compiled


def test_health_and_metadata_are_told_over_both_protocols(triton: Clients) -> None:
    server, clients = triton
    _, rpc = clients[1]
    for _, client in clients:
        assert client.is_server_live()
        assert client.is_server_ready()
        assert client.is_model_ready("cells")
        assert client.is_model_ready("tiny.frames")
    http = clients[0][1]
    assert http.get_server_metadata()["version"] == blastscope.__version__
    told = http.get_model_metadata("crops")
    assert told["inputs"] == [{"name": "crops", "datatype": "UINT8", "shape": [-1, 16, 16, 3]}]
    same = rpc.get_model_metadata("crops", as_json=True)
    assert [one["name"] for one in same["outputs"]] == [one["name"] for one in told["outputs"]]
    served, _ = server.running.server.repository.find("cells")
    assert told["versions"] == [served.scope.bundle.digest[:12]]
    assert {row["state"] for row in http.get_model_repository_index()} == {"READY"}


def answer_of(module: Any, client: Any, images: NDArray[Any], datatype: str, **words: Any) -> Any:
    given = module.InferInput("image", list(images.shape), datatype)
    given.set_data_from_numpy(images)
    return client.infer("cells", [given], **words)


def test_cells_get_the_runtimes_answers_encoded_or_raw(triton: Clients, tiny_bundle: Any) -> None:
    server, clients = triton
    images = [tiny_bundle.cell(seed) for seed in range(6)]
    files = np.array([png(image) for image in images], dtype=np.object_)
    with open_bundle(server.bundle) as scope:
        expected = scope.classify_many(images)
    for module, client in clients:
        for sent, datatype in ((files, "BYTES"), (files[:, None], "BYTES"), (np.stack(images), "UINT8")):
            answer = answer_of(module, client, sent, datatype, request_id="six")
            assert answer.as_numpy("label").tolist() == [one.label.encode() for one in expected]
            assert answer.as_numpy("voter").tolist() == [one.voter.encode() for one in expected]
            np.testing.assert_array_equal(answer.as_numpy("box"), [one.box for one in expected])
            np.testing.assert_allclose(answer.as_numpy("probabilities"), [one.probabilities for one in expected], atol=1e-6)
            np.testing.assert_allclose(answer.as_numpy("score"), [one.score for one in expected], atol=1e-6)
            head = answer.get_response()
            assert (head["id"] if module is triton_http else head.id) == "six"


def test_a_bad_image_is_refused_and_the_others_of_the_batch_are_called(triton: Clients, tiny_bundle: Any) -> None:
    _, clients = triton
    files = np.array([png(tiny_bundle.cell(1)), b"no image", png(np.zeros((40, 40, 3), np.uint8)), b""], dtype=np.object_)
    for module, client in clients:
        answer = answer_of(module, client, files, "BYTES")
        assert answer.as_numpy("refusal").tolist() == [b"", b"undecodable", b"empty", b"undecodable"]
        assert answer.as_numpy("label").tolist()[1:] == [b"", b"", b""]
        assert np.isnan(answer.as_numpy("probability")[1:]).all()
        assert answer.as_numpy("box")[1].tolist() == list(NO_BOX)
        assert answer.as_numpy("detail")[1]


def test_json_holds_null_where_there_is_no_probability(serve: Callable[..., Served]) -> None:
    image = {"name": "image", "datatype": "BYTES", "shape": [1], "data": ["no image"]}
    answer = serve().ask("/v2/models/cells/infer", {"inputs": [image]})
    assert answer.status == 200
    told = json.loads(answer.data, parse_constant=pytest.fail)
    outputs = {one["name"]: one["data"] for one in told["outputs"]}
    assert outputs["probability"] == [None]
    assert outputs["probabilities"] == [None] * 6
    assert outputs["refusal"] == ["undecodable"]


def test_zero_rows_are_answered_with_zero_rows(triton: Clients) -> None:
    _, clients = triton
    for module, client in clients:
        answer = answer_of(module, client, np.array([], dtype=np.object_), "BYTES")
        assert answer.as_numpy("probabilities").shape == (0, 3, 2)
        given = module.InferInput("crops", [0, 16, 16, 3], "UINT8")
        given.set_data_from_numpy(np.empty((0, 16, 16, 3), np.uint8))
        assert client.infer("crops", [given]).as_numpy("label").shape == (0,)


def test_crops_get_the_fused_graphs_outputs(triton: Clients, tiny_bundle: Any) -> None:
    _, clients = triton
    crops = tiny_bundle.crops(7)
    expected = tiny_bundle.expected(crops)
    for module, client in clients:
        given = module.InferInput("crops", list(crops.shape), "UINT8")
        given.set_data_from_numpy(crops)
        wanted = [module.InferRequestedOutput(name) for name in ("voter", "label", "probabilities", "probability")]
        answer = client.infer("crops", [given], outputs=wanted)
        found = answer.as_numpy("probabilities")
        np.testing.assert_allclose(found, expected, atol=1e-4)
        voter, label = answer.as_numpy("voter"), answer.as_numpy("label")
        np.testing.assert_array_equal(found[np.arange(7), voter, label], answer.as_numpy("probability"))
        np.testing.assert_array_equal(answer.as_numpy("probability"), found.max(axis=(1, 2)))


def test_frames_get_the_report_that_the_runtime_gives(triton: Clients, shared_data: Path) -> None:
    server, clients = triton
    path = sorted((shared_data / "bccd").rglob("*.jpg"))[0]
    with open_bundle(server.bundle) as scope:
        (expected,) = (report.row() for report in scope.examine_files([path], pixel_um=0.2))
    for module, client in clients:
        given = module.InferInput("frame", [1], "BYTES")
        given.set_data_from_numpy(np.array([path.read_bytes()], dtype=np.object_))
        words = {"parameters": {"pixel_um": 0.2}} if module is triton_http else {}
        report = json.loads(client.infer("frames", [given], **words).as_numpy("report")[0])
        assert report["size"] == expected["size"]
        if module is triton_http:  # their gRPC client has no numbers with a fraction among its parameters
            assert report == {**expected, "path": None}
            assert report["cells"]


def test_a_file_alone_as_the_body_is_answered_in_json(serve: Callable[..., Served], cells: list[bytes]) -> None:
    answer = serve().ask("/v2/models/cells/infer", cells[0], {"Inference-Header-Content-Length": "0"})
    told = json.loads(answer.data)
    assert (answer.status, told["outputs"][0]["name"], told["outputs"][0]["shape"]) == (200, "label", [1])
    assert set(told["parameters"]) == {"bundle", "engine", "backend", "device", "precision", "execution", "layout"}


def test_several_bundles_answer_side_by_side_each_under_its_name(serve: Callable[..., Served], tiny_bundle: Any) -> None:
    first, second = tiny_bundle.make(name="one"), tiny_bundle.make(name="two")
    server = serve(bundles={"one": first, "two": second})
    image = png(tiny_bundle.cell(3))
    answers = {name: json.loads(server.infer([image], name).data) for name in ("cells", "one.cells", "two.cells")}
    assert answers["cells"]["model_version"] == answers["one.cells"]["model_version"] != answers["two.cells"]["model_version"]
    path = f"/v2/models/cells/versions/{answers['two.cells']['model_version']}"
    assert server.ask(path).status == 404  # a client that names a version gets no other bundle
    assert server.ask(path.replace("/cells/", "/two.cells/")).status == 200


WRONG_JSON = {
    "no JSON": b"{",
    "another kind": b"[]",
    "nesting without end": b'{"inputs":' + b"[" * 100_000,
    "a bare NaN": b'{"inputs":[{"name":"crops","datatype":"UINT8","shape":[1],"data":[NaN]}]}',
    "a number of 5,000 digits": b'{"inputs":[{"name":"crops","datatype":"UINT8","shape":[1],"data":[' + b"9" * 5000 + b"]}]}",
    "no inputs": b"{}",
    "an unknown key": b'{"inputs":[],"input":[]}',
}


@pytest.mark.parametrize("body", WRONG_JSON.values(), ids=WRONG_JSON.keys())
def test_what_is_no_request_gets_400(serve: Callable[..., Served], body: bytes) -> None:
    answer = serve().ask("/v2/models/crops/infer", body)
    assert (answer.status, list(json.loads(answer.data))) == (400, ["error"])


@pytest.mark.parametrize("value", [256, -1, 0.5, True, "7", None, 10**400, [7]])
def test_whole_numbers_outside_of_uint8_are_refused(serve: Callable[..., Served], value: object) -> None:
    server = serve()
    data: list[Any] = [7] * 768
    crops = {"name": "crops", "datatype": "UINT8", "shape": [1, 16, 16, 3], "data": data}
    assert server.ask("/v2/models/crops/infer", {"inputs": [crops]}).status == 200
    data[5] = value
    assert server.ask("/v2/models/crops/infer", {"inputs": [crops]}).status == 400


def test_nested_data_must_be_as_the_shape_says(serve: Callable[..., Served], tiny_bundle: Any) -> None:
    server = serve()
    data = tiny_bundle.crops(2).tolist()
    crops = {"name": "crops", "datatype": "UINT8", "shape": [2, 16, 16, 3], "data": data}
    nested = json.loads(server.ask("/v2/models/crops/infer", {"inputs": [crops]}).data)
    flat = json.loads(
        server.ask("/v2/models/crops/infer", {"inputs": [{**crops, "data": np.array(data).ravel().tolist()}]}).data
    )
    assert nested["outputs"] == flat["outputs"]
    data[1][3] = data[1][3][:-1]
    assert server.ask("/v2/models/crops/infer", {"inputs": [crops]}).status == 400


@pytest.mark.parametrize(
    "damage", ["short", "long", "lying length", "two inputs", "wrong name", "wrong type", "unknown output"]
)
def test_malformed_binary_requests_get_400_and_invalid_argument(triton: Clients, cells: list[bytes], damage: str) -> None:
    server, clients = triton
    body = serialize_byte_tensor(np.array(cells[:2], dtype=np.object_)).item()
    body = {"short": body[:-1], "long": body + b"x", "lying length": b"\xff" + body[1:]}.get(damage, body)
    given = {
        "name": "picture" if damage == "wrong name" else "image",
        "datatype": "FP32" if damage == "wrong type" else "BYTES",
        "shape": [len(body) // 4] if damage == "wrong type" else [2],
        "parameters": {"binary_data_size": len(body)},
    }
    inputs = [given, {**given, "name": "image2"}] if damage == "two inputs" else [given]
    head: dict[str, Any] = {"inputs": inputs}
    if damage == "unknown output":
        head["outputs"] = [{"name": "nothing"}]
    text = json.dumps(head).encode()
    sent = text + body * len(inputs)
    answer = server.ask("/v2/models/cells/infer", sent, {"Inference-Header-Content-Length": str(len(text))})
    assert answer.status == 400
    request = service_pb2.ModelInferRequest(model_name="cells")
    for one in inputs:
        request.inputs.add(name=one["name"], datatype=one["datatype"], shape=one["shape"])
        request.raw_input_contents.append(body)
    for one in head.get("outputs", []):
        request.outputs.add(name=one["name"])
    with pytest.raises(Exception, match="INVALID_ARGUMENT"):
        clients[1][1]._client_stub.ModelInfer(request)


def test_bytes_are_split_as_nvidias_client_joins_them() -> None:
    elements = [b"", b"a", b"\x00" * 300, bytes(range(256))]
    joined = serialize_byte_tensor(np.array(elements, dtype=np.object_)).item()
    assert from_binary("x", "BYTES", (4,), joined).values == elements


def test_unknown_models_and_versions_are_not_found(triton: Clients, cells: list[bytes]) -> None:
    _, clients = triton
    for module, client in clients:
        given = module.InferInput("image", [1], "BYTES")
        given.set_data_from_numpy(np.array(cells[:1], dtype=np.object_))
        for model, version in (("nothing", ""), ("cells", "1")):
            with pytest.raises(InferenceServerException, match=r"404|NOT_FOUND"):
                client.infer(model, [given], model_version=version)
            assert not client.is_model_ready(model, version) if module is triton_http else True


def test_five_hundred_real_cells_get_the_calls_of_classify_many(
    serve: Callable[..., Served], cnmc: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = sorted(cnmc.rglob("*.webp"))[::10][:500]
    server = serve(bundles={"shipped": None})
    with open_bundle(workload="throughput") as scope:
        expected = scope.classify_many(paths)
    client = triton_grpc.InferenceServerClient(server.grpc_address)
    found: list[tuple[Any, ...]] = []
    for start in range(0, len(paths), 50):
        files = np.array([path.read_bytes() for path in paths[start : start + 50]], dtype=np.object_)
        answer = answer_of(triton_grpc, client, files, "BYTES")
        columns = [answer.as_numpy(name) for name in ("label", "score", "refusal", "box", "novelty")]
        found += zip(*columns, strict=True)
    client.close()
    assert len(found) == 500
    for prediction, (label, score, refusal, box, novelty) in zip(expected, found, strict=True):
        assert label.decode() == (prediction.label or "")
        assert refusal.decode() == (prediction.refusal.code if prediction.refusal else "")
        assert tuple(box) == (prediction.box or NO_BOX)
        assert score == pytest.approx(prediction.score, abs=1e-6, nan_ok=True) if prediction.label else np.isnan(score)
        assert novelty == pytest.approx(prediction.novelty, rel=1e-4)


def test_a_drawn_cell_is_refused_as_unlike_the_training(serve: Callable[..., Served]) -> None:
    server = serve(bundles={"shipped": None})
    told = json.loads(
        server.ask("/v2/models/cells/infer", png(synthetic_cell(7)), {"Inference-Header-Content-Length": "0"}).data
    )
    outputs = {one["name"]: one["data"] for one in told["outputs"]}
    assert outputs["refusal"] == ["unlike-training"]
    assert outputs["novelty"][0] > 1
