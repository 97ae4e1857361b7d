"""The live page without a browser: where frames come from, what is served to whom, and how the verb ends."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from typer.testing import CliRunner

from blastscope.cli import app
from blastscope.runtime import scope
from blastscope.runtime.errors import DataError, DeviceError, UsageError
from blastscope.runtime.frames.found import FoundCell
from blastscope.runtime.frames.pages.colours import CAUTION, LOOKS, VALIDATED
from blastscope.runtime.frames.report import FrameCell, FrameReport
from blastscope.runtime.live import LivePage, board, open_source, sources
from blastscope.runtime.live.sources import paced
from blastscope.runtime.prediction import Refusal
from blastscope.runtime.stream import Frame, Stream

PATIENCE_S = 30.0


def picture(value: int = 200, shape: tuple[int, int] = (48, 64)) -> NDArray[np.uint8]:
    return np.full((*shape, 3), value, np.uint8)


def save(path: Path, value: int = 200) -> Path:
    cv2.imwrite(str(path), picture(value))
    return path


def report(frame: NDArray[np.uint8] | None, **words: Any) -> FrameReport:
    return FrameReport((), None, metadata={"pixels": frame}, id=0, **words)


def cell(code: str = "clumped") -> FrameCell:
    ring = np.array([[10, 10], [30, 10], [30, 30], [20, 31], [10, 30]], np.int32)
    return FrameCell(FoundCell((10, 10, 31, 32), ring, ring, Refusal(code, "told")), None)  # type: ignore[arg-type]


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


# ---- sources


def test_a_folder_and_a_file_are_frames_with_their_pixels_and_path(tmp_path: Path) -> None:
    for name in ("b.png", "a.png"):
        save(tmp_path / name)
    (tmp_path / "c.png").write_bytes(b"no picture")
    stopped = threading.Event()
    for text in (str(tmp_path), f"folder:{tmp_path}"):
        source = open_source(text, stopped=stopped)
        frames = list(source)
        assert [frame.id for frame in frames] == [str(tmp_path / name) for name in ("a.png", "b.png", "c.png")]
        assert frames[0].metadata["pixels"] is frames[0].pixels
        assert frames[0].pixels.shape == (48, 64, 3)
        assert isinstance(frames[2].pixels, Refusal)
        assert not source.live
    (frame,) = open_source(str(tmp_path / "a.png"), stopped=stopped)
    assert frame.metadata["path"] == tmp_path / "a.png"


def test_a_tiff_brings_its_scale_and_a_scan_too_large_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import tifffile

    words: dict[str, Any] = {"photometric": "rgb", "resolution": (1e4 / 0.25, 1e4 / 0.25), "resolutionunit": "CENTIMETER"}
    tifffile.imwrite(tmp_path / "a.tif", picture(), **words)
    (frame,) = open_source(str(tmp_path / "a.tif"), stopped=threading.Event())
    assert frame.metadata["pixel_um"] == pytest.approx(0.25)
    assert np.array_equal(frame.pixels, picture())
    monkeypatch.setattr(sources, "MAX_PIXELS", 1000)
    (frame,) = open_source(str(tmp_path / "a.tif"), stopped=threading.Event())
    assert isinstance(frame.pixels, Refusal)
    assert (frame.pixels.code, "64 x 48 pixels are too many" in frame.pixels.detail) == ("bomb", True)


@pytest.mark.parametrize(
    ("text", "watch", "error", "message"),
    [
        ("camera:x", False, UsageError, "a camera has a number, such as camera:0"),
        ("camera", True, UsageError, "a camera isn't watched"),
        ("camera:99", False, DeviceError, "camera 99 can't be opened: is it plugged in, and free"),
        ("folder:nowhere", False, DataError, "'nowhere': no such folder"),
        ("nowhere.png", False, DataError, "'nowhere.png': no such file, folder or camera"),
        ("EMPTY", False, DataError, "holds no frame"),
        ("FILE", True, UsageError, "only a folder can be watched"),
        ("VIDEO", False, DataError, "film.avi': can't be read as a video"),
    ],
)
def test_a_source_that_can_not_be_is_named(
    text: str, watch: bool, error: type[Exception], message: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "film.avi").write_bytes(b"no film")
    places = {"EMPTY": tmp_path / "empty", "FILE": save(tmp_path / "a.png"), "VIDEO": tmp_path / "film.avi"}
    with pytest.raises(error, match=message):
        open_source(str(places.get(text, text)), watch=watch, stopped=threading.Event())
    capfd.readouterr()  # OpenCV says what it tried


def test_a_video_is_read_through_opencv_in_rgb_to_its_end(tmp_path: Path) -> None:
    path, red = tmp_path / "film.avi", picture()
    red[:] = (220, 30, 30)
    film = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 5.0, (64, 48))
    if not film.isOpened():
        pytest.skip("this OpenCV writes no video")
    for _ in range(5):
        film.write(cv2.cvtColor(red, cv2.COLOR_RGB2BGR))
    film.release()
    frames = list(open_source(str(path), stopped=threading.Event()))
    assert [frame.id for frame in frames] == list(range(5))
    assert np.abs(frames[2].pixels.astype(int) - red).max() < 25
    assert frames[2].metadata["pixels"] is frames[2].pixels


class PaperCapture:
    """A camera that fails now and then, and for good in the end."""

    def __init__(self, *shots: bool) -> None:
        self.shots, self.released = iter(shots), False

    def isOpened(self) -> bool:  # noqa: N802
        return True

    def read(self) -> tuple[bool, Any]:
        there = next(self.shots, False)
        return there, picture() if there else None

    def release(self) -> None:
        self.released = True


def test_a_camera_may_miss_a_picture_but_not_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    capture = PaperCapture(True, False, False, True, True)
    monkeypatch.setattr(cv2, "VideoCapture", lambda where: capture)
    monkeypatch.setattr(sources, "MISS_S", 0.001)
    source = open_source("camera:2", stopped=threading.Event())
    assert (source.live, source.name) == (True, "camera 2")
    frames: list[Frame] = []
    with pytest.raises(DeviceError, match="camera 2 gives no more pictures"):
        frames.extend(source)  # what came before stays
    assert [frame.id for frame in frames] == [0, 1, 2]
    assert capture.released


def test_a_watched_folder_goes_on_with_files_that_come_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "LOOK_S", 0.05)
    stopped = threading.Event()
    frames = iter(open_source(f"folder:{tmp_path}", watch=True, stopped=stopped))  # empty so far
    save(tmp_path / "first.png")
    assert next(frames).id == str(tmp_path / "first.png")
    content = save(tmp_path / "later.png").read_bytes()
    (tmp_path / "later.png").unlink()
    growing = tmp_path / "a-growing.png"  # comes before by its name

    def write() -> None:
        with growing.open("wb") as file:
            for part in range(0, len(content), max(1, len(content) // 8)):
                file.write(content[part : part + max(1, len(content) // 8)])
                file.flush()
                time.sleep(0.02)

    writer = threading.Thread(target=write)
    writer.start()
    (frame,) = islice(frames, 1)
    writer.join()
    assert (frame.id, frame.pixels.shape) == (str(growing), (48, 64, 3))
    (tmp_path / "first.png").unlink()
    stopped.set()
    assert list(frames) == []


class Clip:
    """Four frames, from a camera or not."""

    name = "clip"

    def __init__(self, *, live: bool, gap_s: float = 0.0) -> None:
        self.live, self.gap_s = live, gap_s

    def __iter__(self) -> Iterator[Frame]:
        for number in range(4):
            time.sleep(self.gap_s)
            yield Frame(None, number)


def test_a_pace_is_kept_and_left_when_it_is_over() -> None:
    stopped = threading.Event()
    started = time.monotonic()
    assert len(list(paced(Clip(live=False), 50.0, stopped))) == 4
    assert time.monotonic() - started >= 0.055
    stopped.set()
    started = time.monotonic()
    assert len(list(paced(Clip(live=False), 0.1, stopped))) == 4
    assert time.monotonic() - started < 5


def test_a_cameras_pictures_between_are_passed_over_and_not_held_back() -> None:
    stopped = threading.Event()
    assert [frame.id for frame in paced(Clip(live=True), 0.1, stopped)] == [0]
    assert [frame.id for frame in paced(Clip(live=True, gap_s=0.005), 1000.0, stopped)] == [0, 1, 2, 3]


# ---- what is served, and to whom


def test_the_page_and_its_parts_are_served_with_headers_that_keep_others_out(quiet_page: LivePage) -> None:
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
        assert [look.colour for look in LOOKS.values() if look.colour not in ask(quiet_page, path)[2].decode()] == []


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
    page.show(FrameReport((cell(),), None, path=Path("slide/a.png"), metadata={"pixels": frame}, id="a"))
    told = following(page)
    assert told["frame"]["counts"] == {"cells": 1, "hem": 0, "all": 0, "refused": 1}
    assert (told["frame"]["name"], told["frame"]["width"], told["frame"]["height"]) == ("a.png", 64, 48)
    assert told["frame"]["caution"] == CAUTION
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


@pytest.mark.parametrize("pixels", [None, np.zeros((4, 4), np.uint8), np.zeros((0, 4, 3), np.uint8), "text"], ids=str)
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


def test_there_is_room_for_so_many_connections_and_it_is_given_back(page: LivePage, monkeypatch: pytest.MonkeyPatch) -> None:
    with LivePage("x", patience_s=0.1) as small:
        small._server._room = threading.BoundedSemaphore(2)
        port = int(small.url.rstrip("/").rpartition(":")[2])
        held = [socket.create_connection(("127.0.0.1", port)) for _ in range(2)]
        for one in held:
            one.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert one.recv(12) == b"HTTP/1.1 200"
        with pytest.raises((http.client.HTTPException, OSError)):
            ask(small, "/")
        for one in held:
            one.close()
        limit = time.monotonic() + PATIENCE_S
        while small._server._room._value < 2 and time.monotonic() < limit:
            time.sleep(0.01)
        assert ask(small, "/")[0] == 200


def test_a_port_that_is_taken_is_said() -> None:
    with LivePage("x") as first, pytest.raises(UsageError, match="take another, or 0 for any free one"):
        LivePage("y", port=int(first.url.rstrip("/").rpartition(":")[2]))
    with pytest.raises(UsageError, match="can't be had"):
        LivePage("x", host="no.such.host.invalid")


def test_closing_lets_viewers_go_and_may_be_done_twice() -> None:
    opened = LivePage("x", patience_s=PATIENCE_S)
    viewer = threading.Thread(target=lambda: following(opened))
    viewer.start()
    time.sleep(0.1)
    opened.close()
    viewer.join(PATIENCE_S)
    assert not viewer.is_alive()
    opened.close()


def test_the_stream_is_told_beside_the_frames(page: LivePage) -> None:
    def examine(frame: Any, *, metadata: Any) -> FrameReport:
        return FrameReport((cell(),), None)

    frames = [Frame(picture(value), metadata={"pixels": picture(value)}) for value in range(5)]
    with Stream(examine, page.show, frames, when_full="block") as stream:
        page.watch(stream)
        assert stream.wait(PATIENCE_S)
    told = following(page)
    assert told["status"]["stream"]["state"] == "ended"
    assert told["status"]["stream"]["reported"] == told["status"]["totals"]["frames"] == 5
    assert told["status"]["stream"]["latency_p50_ms"] > 0
    assert told["frame"]["id"] == 4


# ---- the verb


@pytest.fixture
def bundle(tiny_bundle: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return Path(tiny_bundle.make("fp32"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "frames"
    folder.mkdir()
    for value in (210, 220):
        save(folder / f"{value}.png", value)
    return folder


def live(*words: object) -> Any:
    return CliRunner().invoke(app, ["live", "--port", "0", *map(str, words)])


def test_a_folder_is_shown_to_its_end_with_a_line_of_json_a_frame(bundle: Path, folder: Path) -> None:
    result = live("--source", f"folder:{folder}", "--bundle", bundle, "--until-end", "--json", "--pixel-um", "0.1")
    rows = [json.loads(line) for line in result.stdout.splitlines()]
    assert result.exit_code == 0, result.stderr
    assert [row["path"] for row in rows] == [str(folder / "210.png"), str(folder / "220.png")]
    assert [row["id"] for row in rows] == [row["path"] for row in rows]
    assert {"path", "refusal", "validated", "pixel_um", "counts", "cells"} <= set(rows[0])
    assert "the page is at http://127.0.0.1:" in result.stderr
    assert "2 frames reported, 0 could not be examined, 0 dropped, 0 failures" in result.stderr


def test_what_is_assumed_of_frames_may_come_from_a_file(bundle: Path, folder: Path, tmp_path: Path) -> None:
    config = tmp_path / "frames.toml"
    config.write_text("pixel_um = 0.2", "utf-8")
    result = live("--source", folder, "--bundle", bundle, "--until-end", "--json", "--config", config)
    assert [json.loads(line)["pixel_um"] for line in result.stdout.splitlines()] == [0.2, 0.2]
    config.write_text("pixel_mm = 0.2", "utf-8")
    assert live("--source", folder, "--bundle", bundle, "--until-end", "--config", config).exit_code == 2


def test_damaged_files_are_told_once_and_the_rest_is_shown(bundle: Path, folder: Path) -> None:
    for name in ("215.png", "216.png"):
        (folder / name).write_bytes(b"")
    result = live("--source", folder, "--bundle", bundle, "--until-end", "--json")
    assert [json.loads(line)["refusal"] for line in result.stdout.splitlines()] == [None, "undecodable", "undecodable", None]
    assert result.exit_code == 1
    assert result.stderr.count("the file is empty") == 1
    assert f"frame {folder / '215.png'}, undecodable: the file is empty" in result.stderr
    assert "4 frames reported, 2 could not be examined" in result.stderr


def test_a_site_that_validated_its_frames_is_not_warned_of_the_scope(
    bundle: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    result = live("--source", folder, "--bundle", bundle, "--until-end", "--validation", tmp_path / "none.json")
    assert (result.exit_code, "none.json" in result.stderr) == (2, True)
    monkeypatch.setattr(scope, "_record", lambda path: Passed() if path else None)
    result = live("--source", folder, "--bundle", bundle, "--until-end", "--json", "--validation", tmp_path / "passed.json")
    assert [json.loads(line)["validated"] for line in result.stdout.splitlines()] == [True, True], result.stderr
    assert VALIDATED in result.stderr


class Passed:
    """A record that holds for everything."""

    spec = None

    def objection(self, *_: object) -> None:
        return None


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["--source", "nowhere"], 2),
        (["--source", "camera:99"], 4),
        (["--source", "FOLDER", "--pixel-um", "900"], 2),
        (["--source", "FOLDER", "--queue", "0"], 2),
        ([], 2),
        (["--source", "FOLDER", "--bundle", "nowhere"], 3),
    ],
)
def test_the_exit_code_says_what_was_wrong(words: list[str], code: int, bundle: Path, folder: Path) -> None:
    result = live("--bundle", bundle, "--until-end", *[str(folder) if word == "FOLDER" else word for word in words])
    assert result.exit_code == code, result.stderr
    assert "Traceback" not in result.stderr


def test_control_c_ends_the_page_cleanly(bundle: Path, folder: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "blastscope", "live", "--source", f"folder:{folder}", "--watch", "--port", "0"]
    child = subprocess.Popen(
        [*command, "--bundle", str(bundle), "--json", "--precision", "fp32", "--backend", "onnxruntime"],  # nothing to measure
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "XDG_CACHE_HOME": str(tmp_path / "cache")},
    )
    try:
        assert child.stdout is not None
        first = [json.loads(child.stdout.readline()) for _ in range(2)]
        save(folder / "230.png", 230)
        later = json.loads(child.stdout.readline())
        child.send_signal(signal.SIGINT)
        _, error = child.communicate(timeout=PATIENCE_S)
    finally:
        child.kill()
    assert [Path(row["path"]).name for row in [*first, later]] == ["210.png", "220.png", "230.png"]
    assert child.returncode == 130, error
    assert "Traceback" not in error
