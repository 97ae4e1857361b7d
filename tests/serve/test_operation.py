"""A server in operation: who may ask, what it tells, how bundles change and how it ends."""

from __future__ import annotations

import json
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton_grpc
from prometheus_client.parser import text_string_to_metric_families
from served import Served, serving_process
from tritonclient.utils import InferenceServerException

from blastscope.runtime.errors import DataError, UsageError
from blastscope.serve.options import ServeOptions, Tokens
from blastscope.serve.server import BackgroundServer

TOKEN = "a-token-of-24-letters-xx"
Serve = Callable[..., Served]


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A certificate for 127.0.0.1 and its key, by OpenSSL."""
    folder = tmp_path_factory.mktemp("tls")
    if not shutil.which("openssl"):
        pytest.skip("openssl is not installed")
    words = ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]
    words += ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
    words += ["-keyout", str(folder / "key.pem"), "-out", str(folder / "cert.pem")]
    subprocess.run(["openssl", *words], check=True, capture_output=True)
    return folder / "cert.pem", folder / "key.pem"


def test_an_address_that_others_reach_demands_a_token_and_tls(certificate: tuple[Path, Path]) -> None:
    cert, key = certificate
    for host in ("0.0.0.0", "192.0.2.1", "::", "workstation"):
        with pytest.raises(UsageError, match="demands a token"):
            ServeOptions({"shipped": None}, host=host)
        with pytest.raises(UsageError, match="demands TLS"):
            ServeOptions({"shipped": None}, host=host, tokens=Tokens({"lab": TOKEN}))
        ServeOptions({"shipped": None}, host=host, tokens=Tokens({"lab": TOKEN}), certificate=cert, key=key)
    for host in ("127.0.0.1", "127.1.2.3", "::1", "localhost"):
        ServeOptions({"shipped": None}, host=host)
    with pytest.raises(UsageError, match="at least 16"):
        Tokens({"lab": "short"})


def test_tokens_and_tls_hold_over_both_protocols(
    serve: Serve, cells: list[bytes], certificate: tuple[Path, Path], tmp_path: Path
) -> None:
    cert, key = certificate
    (tmp_path / "tokens").write_text(f"# clients\nscope {TOKEN}\nother {TOKEN[::-1]}\n")
    tokens = Tokens.read(tmp_path / "tokens")
    server = serve(host="127.0.0.1", tokens=tokens, certificate=cert, key=key, audit_log=tmp_path / "log")
    right = {"Authorization": f"Bearer {TOKEN}"}
    assert server.url.startswith("https://")
    assert server.ask("/v2/health/ready").status == 200
    body, raw = cells[0], {"Inference-Header-Content-Length": "0"}
    for wrong in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": f"Basic {TOKEN}"}):
        for path in ("/v2", "/metrics", "/v2/models/cells"):
            assert server.ask(path, headers=wrong).status == 401
        assert server.ask("/v2/models/cells/infer", body, {**raw, **wrong}).status == 401
    assert server.ask("/v2/models/cells/infer", body, {**raw, **right}).status == 200
    credentials = grpc.ssl_channel_credentials(cert.read_bytes())
    with triton_grpc.InferenceServerClient(server.grpc_address, ssl=True, creds=credentials) as client:
        assert client.is_server_ready()
        with pytest.raises(InferenceServerException, match="Bearer"):
            client.get_server_metadata()
        assert client.get_server_metadata(headers={"authorization": f"Bearer {TOKEN}"}).name == "blastscope"
    assert '"client":"scope"' in (tmp_path / "log" / "audit-00000001.jsonl").read_text()


def test_tls_below_1_2_is_not_spoken(serve: Serve, certificate: tuple[Path, Path]) -> None:
    context = ServeOptions({"shipped": None}, certificate=certificate[0], key=certificate[1]).tls()
    assert context
    assert context.minimum_version >= ssl.TLSVersion.TLSv1_2
    with pytest.raises(DataError, match="no certificate"):
        ServeOptions({"shipped": None}, certificate=certificate[1], key=certificate[0]).tls()


def test_a_page_of_another_site_gets_nothing(serve: Serve) -> None:
    server = serve()
    for host, status in (("evil.example", 403), ("localhost:1", 200), ("127.0.0.1", 200), ("[::1]:80", 200), ("", 403)):
        assert server.ask("/v2", headers={"Host": host}).status == status


def test_answers_over_rest_wait_for_no_acknowledgement(serve: Serve) -> None:
    server = serve()
    assert server.ask("/v2").status == 200
    connections = server.running.server._http.server_state.connections
    sockets = [connection.transport.get_extra_info("socket") for connection in connections]
    assert sockets
    assert all(one.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) for one in sockets)


def test_a_port_in_use_is_told(serve: Serve) -> None:
    server = serve()
    for words in (
        {"port": server.running.server.port, "grpc_port": 0},
        {"port": 0, "grpc_port": server.running.server.grpc_port},
    ):
        with pytest.raises(UsageError, match="can't listen"), BackgroundServer(ServeOptions({"tiny": server.bundle}, **words)):
            pass


def test_metrics_count_what_was_asked(serve: Serve, cells: list[bytes]) -> None:
    server = serve(audit_log=None)
    server.infer([*cells[:3], b"no image"])
    server.ask("/v2/models/cells/infer", b"{")
    server.ask("/v2/models/no-such-model/infer", b"{}")
    families = text_string_to_metric_families(server.ask("/metrics").data.decode())
    found = {(sample.name, *sorted(sample.labels.values())): sample.value for family in families for sample in family.samples}
    assert found["blastscope_requests_total", "cells", "http", "ok"] == 1
    assert found["blastscope_requests_total", "cells", "http", "invalid"] == 1
    assert found["blastscope_requests_total", "http", "not_found", "unknown"] == 1
    assert found["blastscope_refusals_total", "tiny.cells", "undecodable"] == 1
    assert found["blastscope_queue_seconds_count", "tiny.cells"] == 4
    assert found["blastscope_requests_in_flight",] == 0
    assert ("blastscope_drift_shift", "lightness", "tiny.cells") in found


def test_an_inference_is_a_span_below_the_clients(serve: Serve, cells: list[bytes]) -> None:
    from opentelemetry import trace
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    trace.set_tracer_provider(provider)
    server = serve()
    parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    headers = {"traceparent": parent, "Inference-Header-Content-Length": "0"}
    assert server.ask("/v2/models/cells/infer", cells[0], headers).status == 200
    (span,) = exporter.get_finished_spans()
    assert (span.name, f"{span.context.trace_id:032x}") == ("infer cells", parent[3:35])
    assert span.parent
    assert f"{span.parent.span_id:016x}" == parent[36:52]


def changed(bundle: Path, fresh: Path) -> None:
    """Puts another bundle into a bundle's place."""
    shutil.rmtree(bundle)
    shutil.copytree(fresh, bundle)


def test_a_bundle_changes_under_load_and_no_request_is_lost(serve: Serve, cells: list[bytes], tiny_bundle: Any) -> None:
    server = serve()
    assert server.bundle
    before, _ = server.running.server.repository.find("cells")
    stop = threading.Event()

    def load(number: int) -> list[tuple[int, str]]:
        seen = []
        while not stop.is_set():
            answer = server.infer([cells[number]])
            seen.append((answer.status, json.loads(answer.data).get("model_version")))
        return seen

    with ThreadPoolExecutor(4) as clients:
        loads = [clients.submit(load, number) for number in range(4)]
        server.until(lambda: server.waiting > 1)
        changed(server.bundle, tiny_bundle.make(name="next"))
        with triton_grpc.InferenceServerClient(server.grpc_address) as client:
            client.load_model("cells")
        after, _ = server.running.server.repository.find("cells")
        server.until(lambda: after.version in server.ask("/v2/models/cells").data.decode())
        server.infer([cells[0]])
        stop.set()
        seen = [one for done in loads for one in done.result()]
    assert {status for status, _ in seen} == {200}
    assert {version for _, version in seen} <= {before.version, after.version}
    assert before.version != after.version
    server.until(lambda: before.uses.now == 0)


def test_a_damaged_bundle_is_not_taken_and_the_old_one_goes_on(serve: Serve, cells: list[bytes]) -> None:
    server = serve()
    assert server.bundle
    version = json.loads(server.infer([cells[0]]).data)["model_version"]
    graph = next(server.bundle.rglob("*.onnx"))
    graph.write_bytes(graph.read_bytes()[:-1])
    answer = server.ask("/v2/repository/models/cells/load", {})
    assert answer.status == 400
    assert graph.name in json.loads(answer.data)["error"]
    assert json.loads(server.infer([cells[0]]).data)["model_version"] == version
    assert server.ask("/v2/repository/models/nothing/load", {}).status == 404


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGTERM")
def test_sigterm_answers_what_is_under_way_and_ends_with_0(tiny_bundle: Any, cells: list[bytes], tmp_path: Path) -> None:
    with serving_process(f"x={tiny_bundle.make()}", tmp_path / "log") as (server, address):
        with triton_grpc.InferenceServerClient(address) as client:
            given = triton_grpc.InferInput("image", [200], "BYTES")
            given.set_data_from_numpy(np.array(cells * 25, dtype=np.object_))
            first = triton_grpc.InferInput("image", [1], "BYTES")
            first.set_data_from_numpy(np.array(cells[:1], dtype=np.object_))
            client.infer("cells", [first])
            answers: list[Any] = []
            done = threading.Event()

            def keep(result: Any, error: Any) -> None:
                answers.append((result, error))
                done.set()

            client.async_infer("cells", [given], callback=keep)
            client.is_server_live()  # so the inference is under way
            server.send_signal(signal.SIGTERM)
            assert done.wait(60)
        assert server.wait(60) == 0
        ((result, error),) = answers
        assert error is None or "about to end" in str(error)
        assert error or len(result.as_numpy("label")) == 200
    assert '"event":"closed"' in (tmp_path / "log" / "audit-00000001.jsonl").read_text().splitlines()[-1]


def test_a_draining_server_says_so_and_takes_nothing_new(serve: Serve, cells: list[bytes]) -> None:
    server = serve()
    server.running.server.service.draining = True
    assert server.ask("/v2/health/live").status == 200
    assert server.ask("/v2/health/ready").status == 503
    answer = server.infer([cells[0]])
    assert (answer.status, answer.headers["Retry-After"]) == (503, "1")
