"""What a server does with too much: status, and the others go on."""

from __future__ import annotations

import json
import socket
import struct
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import urlsplit

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton_grpc
from served import Served, png
from tritonclient.utils import InferenceServerException

Serve = Callable[..., Served]


def over_grpc(server: Served, images: list[bytes], **words: Any) -> Any:
    with triton_grpc.InferenceServerClient(server.grpc_address) as client:
        given = triton_grpc.InferInput("image", [len(images)], "BYTES")
        given.set_data_from_numpy(np.array(images, dtype=np.object_))
        return client.infer("cells", [given], **words)


def code_of(error: pytest.ExceptionInfo[InferenceServerException]) -> str:
    return str(error.value.status())


def test_a_body_above_the_limit_gets_413_and_resource_exhausted(serve: Serve, cells: list[bytes]) -> None:
    server = serve(body_bytes=1000)
    assert server.ask("/v2/models/cells/infer", b"x" * 1001).status == 413
    chunked = server.ask("/v2/models/cells/infer", method="POST", headers={"Transfer-Encoding": "chunked"})
    assert chunked.status == 400
    with pytest.raises(InferenceServerException) as error:
        over_grpc(server, [b"x" * 100_000])
    assert code_of(error) == "StatusCode.RESOURCE_EXHAUSTED"
    assert server.infer([cells[0][:200]]).status == 200


def test_a_body_without_a_length_is_cut_off_at_the_limit(serve: Serve) -> None:
    server = serve(body_bytes=1000)
    pieces = (b"x" * 500 for _ in range(10))
    answer = server._pool.request("POST", f"{server.url}/v2/models/cells/infer", body=pieces, retries=False)
    assert answer.status == 413


def test_too_many_images_or_pixels_get_413(serve: Serve, cells: list[bytes]) -> None:
    server = serve(images=3, pixels=30_000)
    assert server.infer(cells[:2]).status == 200  # 80 x 80 pixels each
    assert server.infer(cells[:4]).status == 413
    large = png(np.zeros((200, 200, 3), np.uint8))
    assert server.infer([large]).status == 413
    with pytest.raises(InferenceServerException, match="40000 pixels") as error:
        over_grpc(server, [large])
    assert code_of(error) == "StatusCode.RESOURCE_EXHAUSTED"


def test_a_full_queue_gets_429_and_nothing_that_waits_is_lost(serve: Serve, cells: list[bytes]) -> None:
    server = serve(queue=4, batch_delay_s=0)
    with server.blocked() as gate, ThreadPoolExecutor(16) as clients:
        batcher = server.running.server.repository.find("cells")[1].batcher
        running = [clients.submit(server.infer, [cells[0]]) for _ in range(batcher._workers)]
        server.until(lambda: batcher._busy == batcher._workers)
        waiting = [clients.submit(server.infer, [cells[number]]) for number in range(4)]
        server.until(lambda: batcher.waiting == 4)
        answer = server.infer([cells[0]])
        assert (answer.status, answer.headers["Retry-After"]) == (429, "1")
        with pytest.raises(InferenceServerException, match="wait") as error:
            over_grpc(server, cells[:1])
        assert code_of(error) == "StatusCode.RESOURCE_EXHAUSTED"
        gate.set()
        assert {one.result().status for one in (*running, *waiting)} == {200}


def test_more_requests_than_places_get_429(serve: Serve, cells: list[bytes]) -> None:
    server = serve(requests=2)
    with server.blocked() as gate, ThreadPoolExecutor(4) as clients:
        running = [clients.submit(server.infer, [cells[0]]) for _ in range(2)]
        server.until(lambda: server.waiting == 2)
        assert server.infer([cells[0]]).status == 429
        assert server.ask("/v2/health/ready").status == 200
        gate.set()
        assert {one.result().status for one in running} == {200}


def test_a_deadline_gets_504_and_deadline_exceeded(serve: Serve, cells: list[bytes]) -> None:
    server = serve()
    batcher = server.running.server.repository.find("cells")[1].batcher
    with server.blocked():
        assert server.infer([cells[0]], timeout=20_000).status == 504  # microseconds, as Triton has it
        with pytest.raises(InferenceServerException) as error:
            over_grpc(server, cells[:1], timeout=20_000)
        assert code_of(error) == "StatusCode.DEADLINE_EXCEEDED"
        with pytest.raises(InferenceServerException) as error:
            over_grpc(server, cells[:1], client_timeout=0.2)  # the client's own, which gRPC carries along
        assert code_of(error) == "StatusCode.DEADLINE_EXCEEDED"
        server.until(lambda: batcher.waiting == 0 and server.waiting == 0)
    assert server.infer([cells[0]]).status == 200


def test_the_servers_own_deadline_holds_without_the_clients(serve: Serve, cells: list[bytes]) -> None:
    server = serve(timeout_s=0.05)
    with server.blocked():
        assert server.infer([cells[0]]).status == 504


@pytest.mark.parametrize("timeout", [-1, 0.5, "1", True])
def test_a_deadline_that_is_none_gets_400(serve: Serve, cells: list[bytes], timeout: object) -> None:
    assert serve().infer([cells[0]], timeout=timeout).status == 400


def connected(server: Served) -> socket.socket:
    parts = urlsplit(server.url)
    return socket.create_connection((parts.hostname or "", parts.port or 0), timeout=20)


def ended(client: socket.socket) -> bool:
    """Waits until the server closes the connection, without a word."""
    try:
        return client.recv(1) == b""
    except ConnectionResetError:
        return True


def test_a_client_that_goes_away_frees_its_place_in_the_queue(serve: Serve, cells: list[bytes]) -> None:
    server = serve(batch_delay_s=0)
    batcher = server.running.server.repository.find("cells")[1].batcher
    with server.blocked() as gate:
        gone = []
        for number in range(batcher._workers + 3):
            client = connected(server)
            head = f"POST /v2/models/cells/infer HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(cells[0])}\r\n"
            client.sendall(f"{head}Inference-Header-Content-Length: 0\r\n\r\n".encode() + cells[0])
            gone.append(client)
            server.until(lambda count=number + 1: server.waiting == count)  # type: ignore[misc]
        assert batcher.waiting == 3
        for client in gone:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            client.close()  # with a reset
        server.until(lambda: server.waiting == 0)
        assert batcher.waiting == 0
        gate.set()
    assert server.infer([cells[0]]).status == 200


def test_a_grpc_call_that_is_cancelled_frees_its_place(serve: Serve, cells: list[bytes]) -> None:
    server = serve()
    with server.blocked(), triton_grpc.InferenceServerClient(server.grpc_address) as client:
        given = triton_grpc.InferInput("image", [1], "BYTES")
        given.set_data_from_numpy(np.array(cells[:1], dtype=np.object_))
        call = client.async_infer("cells", [given], callback=lambda result, error: None)
        server.until(lambda: server.waiting == 1)
        call.cancel()
        server.until(lambda: server.waiting == 0)


def test_a_slow_sender_gets_408_and_holds_up_nobody(serve: Serve, cells: list[bytes]) -> None:
    server = serve(receive_s=0.3)
    with connected(server) as client:
        client.sendall(b"POST /v2/models/cells/infer HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\nx")
        assert server.infer([cells[0]]).status == 200
        assert client.recv(100).startswith(b"HTTP/1.1 408")


def test_headers_that_never_end_are_cut_off(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("blastscope.serve.server.HEAD_S", 0.2)
    server = serve()
    for sent in (b"", b"GET /v2/health/live HTTP/1.1\r\nHost: localhost\r\nX: "):
        with connected(server) as client:
            client.sendall(sent)
            assert ended(client)
    with connected(server) as client, pytest.raises(ConnectionError):
        client.sendall(b"GET /v2 HTTP/1.1\r\nHost: localhost\r\n" + b"X-Filler: x\r\n" * 2_000_000)


def test_connections_above_the_limit_are_closed(serve: Serve) -> None:
    server = serve(connections=2)
    with connected(server), connected(server), connected(server) as third:
        assert ended(third)


def test_one_request_of_many_images_does_not_hold_up_a_single_one(serve: Serve, cells: list[bytes]) -> None:
    server = serve()
    batcher = server.running.server.repository.find("cells")[1].batcher
    order: list[str] = []
    with server.blocked() as gate, ThreadPoolExecutor(4) as clients:
        many = clients.submit(server.infer, cells * 8)
        many.add_done_callback(lambda _: order.append("many"))
        server.until(lambda: batcher._busy == batcher._workers)
        one = clients.submit(server.infer, [cells[0]])
        one.add_done_callback(lambda _: order.append("one"))
        server.until(lambda: server.waiting == 2)
        gate.set()
        assert (one.result().status, many.result().status) == (200, 200)
    assert order == ["one", "many"]


def test_an_engine_that_breaks_off_costs_its_own_requests_alone(
    serve: Serve, cells: list[bytes], caplog: pytest.LogCaptureFixture
) -> None:
    server = serve()
    batcher = server.running.server.repository.find("cells")[1].batcher
    run = batcher._run

    def broken(items: Any) -> Any:
        raise ZeroDivisionError

    batcher._run = broken
    answer = server.infer([cells[0]])
    assert (answer.status, json.loads(answer.data)["error"]) == (
        500,
        "the work broke off: ZeroDivisionError, see the server's log",
    )
    with pytest.raises(InferenceServerException) as error:
        over_grpc(server, cells[:1])
    assert code_of(error) == f"StatusCode.{grpc.StatusCode.INTERNAL.name}"
    batcher._run = run
    assert server.infer([cells[0]]).status == 200
    assert "a batch failed" in caplog.text
