"""The live page without a browser: what is served, and to whom."""

from __future__ import annotations

import http.client
import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from blastscope.runtime.errors import UsageError
from blastscope.runtime.frames.report.theme import CALL_STYLES, CAUTION
from blastscope.runtime.frames.types import FrameCell, FrameReport, SegmentedCell
from blastscope.runtime.streaming import frame_buffer as board
from blastscope.runtime.streaming.dashboard import LivePage
from blastscope.runtime.streaming.frame_queue import Frame
from blastscope.runtime.streaming.stream import Stream
from blastscope.runtime.types import Refusal

PATIENCE_S = 30.0


def picture(value: int = 200, shape: tuple[int, int] = (48, 64)) -> NDArray[np.uint8]:
    return np.full((*shape, 3), value, np.uint8)


def report(frame: NDArray[np.uint8] | None, **words: Any) -> FrameReport:
    return FrameReport((), None, pixels=frame, id=0, **words)


def cell(code: str = "clumped") -> FrameCell:
    ring = np.array([[10, 10], [30, 10], [30, 30], [20, 31], [10, 30]], np.int32)
    return FrameCell(SegmentedCell((10, 10, 31, 32), ring, ring, Refusal(code, "told")), None)  # type: ignore[arg-type]


@pytest.fixture
def page() -> Iterator[LivePage]:
    with LivePage("a <b>folder</b>", patience_s=0.2) as served:
        yield served


@pytest.fixture(scope="module")
def quiet_page() -> Iterator[LivePage]:
    """One that shows nothing, for all who only knock."""
    with LivePage("nothing", patience_s=0.0) as served:
        yield served


def ask(page: LivePage, path: str, *, host: str | None = "localhost", method: str = "GET") -> tuple[int, Any, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", int(page.url.rstrip("/").rpartition(":")[2]), timeout=PATIENCE_S)
    connection.putrequest(method, path, skip_host=True)
    if host is not None:
        connection.putheader("Host", host)
    connection.endheaders()
    answer = connection.getresponse()
    content = answer.read()
    connection.close()
    return answer.status, answer.headers, content


def following(page: LivePage, news: int = 0) -> Any:
    return json.loads(ask(page, f"/next?after={news}")[2])


def test_the_page_is_served_with_headers_that_keep_others_out(quiet_page: LivePage) -> None:
    for path, kind in {"/": "text/html", "/page.js": "text/javascript", "/page.css": "text/css"}.items():
        status, headers, content = ask(quiet_page, path)
        assert (status, headers["Content-Type"]) == (200, f"{kind}; charset=utf-8")
        assert len(content) == int(headers["Content-Length"]) > 500
        assert "Access-Control-Allow-Origin" not in headers
        assert headers["X-Frame-Options"] == "DENY"
        assert headers["Cross-Origin-Resource-Policy"] == "same-origin"
        assert "default-src 'none'" in headers["Content-Security-Policy"]
        assert headers["Cache-Control"] == "no-store"
        assert "Python" not in headers["Server"]
        assert b"//" not in content.replace(b"// ", b"")  # nothing from elsewhere
    assert "not a medical device" in ask(quiet_page, "/")[2].decode()
    assert ask(quiet_page, "/", method="HEAD")[2] == b""


def test_the_page_has_the_colours_of_every_other_picture(quiet_page: LivePage) -> None:
    for path in ("/page.js", "/page.css"):
        assert [style.colour for style in CALL_STYLES.values() if style.colour not in ask(quiet_page, path)[2].decode()] == []


@pytest.mark.parametrize("host", ["localhost", "localhost:8420", "127.0.0.1", "127.0.0.1:9", "[::1]:8420", "LOCALHOST:1"])
def test_this_machines_own_names_are_known(quiet_page: LivePage, host: str) -> None:
    assert ask(quiet_page, "/", host=host)[0] == 200


@pytest.mark.parametrize(
    "host",
    ["evil.example", "evil.example:8420", "127.0.0.1.evil.example", "localhost.evil.example", "10.0.0.1", "", "user@127.0.0.1",
     "127.0.0.1:80:80", "[::1", "[evil]", "localhost/", None],
)  # fmt: skip
def test_a_name_that_is_somebody_elses_is_refused(quiet_page: LivePage, host: str | None) -> None:
    for path in ("/", "/next", "/frame/1.jpg"):
        assert ask(quiet_page, path, host=host)[0] in (400, 403)


def test_served_to_other_machines_every_address_is_known_and_no_name() -> None:
    try:
        opened = LivePage("x", host="0.0.0.0", patience_s=0.1)
    except UsageError as error:
        pytest.skip(str(error))
    with opened:
        assert not opened.private
        assert ask(opened, "/", host="10.0.0.7:8420")[0] == 200
        assert ask(opened, "/", host="evil.example")[0] == 403


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/page.py", 404), ("/../page.py", 404), ("/%2e%2e/page.py", 404), ("//page.js", 200), ("/page.js/..", 404),
        ("/etc/passwd", 404), ("/frame/../page.js.jpg", 404), ("/frame/1.jpg", 404), ("/frame/-1.jpg", 404),
        ("/frame/.jpg", 404), ("/frame/" + "9" * 40 + ".jpg", 404), ("/next?after=-1", 400), ("/next?after=x", 400),
        ("/next?after=" + "9" * 40, 400), ("http://evil.example/page.js", 404), ("/favicon.ico", 404), ("/?x=1", 200),
    ],
)  # fmt: skip
def test_nothing_else_is_served(quiet_page: LivePage, path: str, status: int) -> None:
    assert ask(quiet_page, path)[0] == status


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "TRACE"])
def test_nothing_can_be_changed_over_the_page(quiet_page: LivePage, method: str) -> None:
    status, headers, _ = ask(quiet_page, "/", method=method)
    assert status == 501
    assert "Access-Control-Allow-Origin" not in headers


def test_a_frame_is_told_with_its_cells_and_its_picture(page: LivePage) -> None:
    frame = picture()
    page.show(FrameReport((cell(),), None, path=Path("slide/a.png"), pixels=frame, id="a"))
    told = following(page)
    assert told["frame"]["counts"] == {"cells": 1, "hem": 0, "all": 0, "refused": 1}
    assert (told["frame"]["name"], told["frame"]["width"], told["frame"]["height"]) == ("a.png", 64, 48)
    assert told["frame"]["caution"] == CAUTION
    assert told["frame"]["scale_note"] == ""  # of a frame without facts
    assert told["frame"]["cells"][0]["box"] == [10, 10, 31, 32]
    assert told["frame"]["cells"][0]["refusal"] == "clumped"
    assert told["status"]["source"] == "a <b>folder</b>"
    assert told["status"]["totals"] == {"frames": 1, "refused_frames": 0, "cells": 1, "hem": 0, "all": 0, "refused": 1}
    assert told["status"]["stream"] is None
    status, headers, content = ask(page, f"/frame/{told['frame']['number']}.jpg")
    assert (status, headers["Content-Type"]) == (200, "image/jpeg")
    shown = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR_RGB)
    assert shown is not None
    assert shown.shape == frame.shape
    assert np.abs(shown.astype(int) - frame).max() < 4


def test_a_large_frame_is_shown_smaller_and_its_cells_where_they_are(page: LivePage) -> None:
    page.show(report(picture(shape=(800, 3200))))
    told = following(page)["frame"]
    shown = cv2.imdecode(np.frombuffer(ask(page, f"/frame/{told['number']}.jpg")[2], np.uint8), cv2.IMREAD_COLOR)
    assert shown is not None
    assert (told["width"], told["height"], shown.shape) == (3200, 800, (400, 1600, 3))


@pytest.mark.parametrize("pixels", [None, np.zeros((0, 4, 3), np.uint8)], ids=str)
def test_a_frame_without_pixels_is_told_without_a_picture(page: LivePage, pixels: Any) -> None:
    page.show(report(pixels, refusal=Refusal("undecodable", "cut off")))
    told = following(page)["frame"]
    assert (told["picture"], told["refusal"]) == (False, "cut off")
    assert ask(page, f"/frame/{told['number']}.jpg")[0] == 404


def test_a_viewer_waits_for_news_and_gets_them_when_they_come(page: LivePage) -> None:
    page.show(report(picture()))
    news = following(page)["news"]
    started = time.monotonic()
    assert following(page, news)["news"] == news
    assert time.monotonic() - started >= 0.15
    page.refresh()
    assert following(page, news)["news"] > news


def test_many_viewers_share_one_picture_and_memory_holds_the_last_few(page: LivePage, monkeypatch: pytest.MonkeyPatch) -> None:
    encoded: list[int] = []
    real = cv2.imencode
    monkeypatch.setattr(cv2, "imencode", lambda *words: encoded.append(1) or real(*words))  # type: ignore[func-returns-value]
    for value in range(10):
        page.show(report(picture(value)))
    assert encoded == []  # nobody looked
    number = following(page)["frame"]["number"]
    answers: list[int] = []
    viewers = [threading.Thread(target=lambda: answers.append(ask(page, f"/frame/{number}.jpg")[0])) for _ in range(20)]
    for viewer in viewers:
        viewer.start()
    for viewer in viewers:
        viewer.join()
    assert (answers, encoded) == ([200] * 20, [1])
    assert ask(page, f"/frame/{number - board.KEPT}.jpg")[0] == 404


def test_a_port_that_is_taken_is_said() -> None:
    with LivePage("x") as first, pytest.raises(UsageError, match="take another, or 0 for any free one"):
        LivePage("y", port=int(first.url.rstrip("/").rpartition(":")[2]))
    with pytest.raises(UsageError, match="can't be had"):
        LivePage("x", host="no.such.host.invalid")


def test_closing_lets_viewers_go_and_may_be_done_twice() -> None:
    opened = LivePage("x", patience_s=PATIENCE_S)
    viewer = threading.Thread(target=lambda: following(opened))
    waits, newest = threading.Event(), opened._board.newest
    opened._board.newest = lambda *words, **named: waits.set() or newest(*words, **named)  # type: ignore[method-assign, func-returns-value]
    viewer.start()
    assert waits.wait(PATIENCE_S)
    opened.close()
    viewer.join(PATIENCE_S)
    assert not viewer.is_alive()
    opened.close()


def test_the_stream_is_told_beside_the_frames(page: LivePage) -> None:
    def examine(frame: Any, *, metadata: Any) -> FrameReport:
        return FrameReport((cell(),), None)

    frames = [Frame(picture(value)) for value in range(5)]
    with Stream(examine, page.show, frames, when_full="block", keep_pixels=True) as stream:
        page.watch(stream)
        assert stream.wait(PATIENCE_S)
    told = following(page)
    assert told["status"]["stream"]["state"] == "ended"
    assert told["status"]["stream"]["reported"] == told["status"]["totals"]["frames"] == 5
    assert told["status"]["stream"]["latency_p50_ms"] > 0
    assert (told["frame"]["id"], told["frame"]["picture"]) == (4, True)
