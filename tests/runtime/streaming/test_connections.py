"""Slow and idle connections to the live page: none holds its place for long, and none locks the others out."""

from __future__ import annotations

import http.client
import socket
import threading
import time
from collections.abc import Callable, Iterator

import numpy as np
import pytest

from blastscope.runtime.frames.types import FrameReport
from blastscope.runtime.streaming import dashboard
from blastscope.runtime.streaming import frame_buffer as connections
from blastscope.runtime.streaming.dashboard import LivePage
from blastscope.runtime.streaming.frame_buffer import Connections

PATIENCE_S = 30.0
PICTURE = np.random.default_rng(0).integers(0, 256, (800, 800, 3), np.uint8)  # whose JPEG fills small buffers


@pytest.fixture
def sockets() -> Iterator[list[socket.socket]]:
    """Five, each with its other end behind it."""
    pairs = [socket.socketpair() for _ in range(5)]
    yield [end for pair in pairs for end in pair]
    for pair in pairs:
        for end in pair:
            end.close()


def is_shut(one: socket.socket) -> bool:
    one.settimeout(PATIENCE_S)
    return one.recv(1) == b""


def test_a_newcomer_takes_the_place_of_the_slowest(sockets: list[socket.socket]) -> None:
    taken = Connections(most=2, per_client=2)
    first, first_end, second, second_end, third, *_ = sockets
    assert taken.admit(first, "a")
    assert taken.admit(second, "b")
    taken.wait_for(first, waits=False)  # it was answered meanwhile, and waits anew
    taken.wait_for(first, waits=True)
    assert taken.admit(third, "c")
    assert is_shut(second_end)
    assert len(taken) == 2
    first.sendall(b"x")
    assert first_end.recv(1) == b"x"


def test_who_waits_for_the_server_keeps_its_place(sockets: list[socket.socket]) -> None:
    taken = Connections(most=1, per_client=1)
    assert taken.admit(sockets[0], "a")
    taken.wait_for(sockets[0], waits=False)
    assert not taken.admit(sockets[2], "b")
    taken.leave(sockets[0])
    assert taken.admit(sockets[2], "b")


def test_one_client_takes_its_own_places_only(sockets: list[socket.socket]) -> None:
    taken = Connections(most=9, per_client=2)
    assert taken.admit(sockets[0], "other")
    for one in sockets[2::2]:
        assert taken.admit(one, "greedy")
    assert len(taken) == 3
    assert is_shut(sockets[3])
    sockets[0].sendall(b"x")
    assert sockets[1].recv(1) == b"x"


def port_of(page: LivePage) -> int:
    return int(page.url.rstrip("/").rpartition(":")[2])


def answered(page: LivePage) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port_of(page), timeout=PATIENCE_S)
    connection.request("GET", "/", headers={"Host": "localhost"})
    status = connection.getresponse().status
    connection.close()
    return status == 200


def test_slow_connections_turn_no_viewer_away() -> None:
    with LivePage("x", patience_s=0.1) as page:
        held = [socket.create_connection(("127.0.0.1", port_of(page))) for _ in range(2 * connections.PER_CLIENT)]
        for one in held:
            one.sendall(b"GET / HTTP/1.1\r\nHost: local")  # and nothing more
        assert all(answered(page) for _ in range(5))
        assert is_shut(held[0])
        assert len(page._server.connections) <= connections.PER_CLIENT
        for one in held:
            one.close()


def test_a_request_that_is_dripped_in_ends_at_its_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "REQUEST_S", 0.3)
    with LivePage("x") as page, socket.create_connection(("127.0.0.1", port_of(page))) as slow:
        dripping = threading.Event()

        def drip() -> None:
            try:
                while not dripping.wait(0.01):
                    slow.sendall(b"G")
            except OSError:
                return

        thread = threading.Thread(target=drip)
        thread.start()
        try:
            assert is_shut(slow)
        except ConnectionError:  # it was shut with bytes of ours unread
            pass
        finally:
            dripping.set()
            thread.join()
        assert answered(page)


def with_a_small_buffer(setup: Callable[[dashboard.Viewer], None]) -> Callable[[dashboard.Viewer], None]:
    def small(viewer: dashboard.Viewer) -> None:
        viewer.request.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        setup(viewer)

    return small


def test_an_answer_that_is_not_taken_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dashboard, "ANSWER_S", 0.1)
    monkeypatch.setattr(connections, "REQUEST_S", 10 * PATIENCE_S)  # so nothing else ends the connection
    monkeypatch.setattr(dashboard.Viewer, "setup", with_a_small_buffer(dashboard.Viewer.setup))
    with LivePage("x") as page, socket.socket() as slow:
        page.show(FrameReport((), None, pixels=PICTURE, id=0))
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        slow.connect(("127.0.0.1", port_of(page)))
        slow.sendall(b"GET /frame/1.jpg HTTP/1.1\r\nHost: localhost\r\n\r\n")
        limit = time.monotonic() + PATIENCE_S
        while len(page._server.connections) == 0 and time.monotonic() < limit:
            threading.Event().wait(0.001)
        while len(page._server.connections) > 0 and time.monotonic() < limit:
            threading.Event().wait(0.01)
        assert len(page._server.connections) == 0
        assert answered(page)


def test_a_viewer_that_takes_its_answers_keeps_its_connection() -> None:
    with LivePage("x", patience_s=0.01) as page:
        connection = http.client.HTTPConnection("127.0.0.1", port_of(page), timeout=PATIENCE_S)
        for _ in range(5):
            connection.request("GET", "/next?after=0", headers={"Host": "localhost"})
            answer = connection.getresponse()
            assert (answer.status, answer.will_close) == (200, False)
            answer.read()
        assert len(page._server.connections) == 1
        connection.close()
