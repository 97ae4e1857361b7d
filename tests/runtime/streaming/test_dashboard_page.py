"""The live page in a real browser: what is drawn where, pausing, and how it tells of the end."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from blastscope.runtime.errors import DeviceLost
from blastscope.runtime.evaluation.drift import shipped_reference
from blastscope.runtime.frames.features import CellFeatures
from blastscope.runtime.frames.report.theme import CALL_STYLES, CAUTION, VALIDATED, rgb
from blastscope.runtime.frames.types import FrameCell, FrameParameters, FrameReport, SegmentedCell
from blastscope.runtime.io.image import read_image
from blastscope.runtime.session import open_bundle
from blastscope.runtime.streaming.dashboard import LivePage
from blastscope.runtime.streaming.frame_queue import Frame
from blastscope.runtime.streaming.stream import Stream
from blastscope.runtime.types import CLASSES, Audit, ClassName, Prediction, Refusal

if TYPE_CHECKING:
    from browser import Browser

GLASS, NUCLEUS = (214, 205, 212), (94, 62, 150)
PATIENCE_S = 60.0
AUDIT = Audit("0" * 64, "1" * 64, "openvino", "CPU", "fp32", "f32")
PLACES: dict[ClassName | None, tuple[int, int]] = {
    "all": (150, 150),
    "hem": (420, 160),
    None: (610, 330),
}  # middles
RADIUS = 60
INK = {label: rgb(CALL_STYLES[label or "refused"].colour) for label in PLACES}


def smear() -> NDArray[np.uint8]:
    frame = np.full((480, 640, 3), GLASS, np.uint8)
    for place in PLACES.values():
        cv2.circle(frame, place, RADIUS - 8, NUCLEUS, -1, cv2.LINE_AA)
    return frame


def cells() -> tuple[FrameCell, ...]:
    return tuple(_cell(label, *place) for label, place in PLACES.items())


def _cell(label: Any, x: int, y: int) -> FrameCell:
    turns = np.linspace(0, 2 * np.pi, 90, endpoint=False)
    ring = np.stack([x + RADIUS * np.cos(turns), y + RADIUS * np.sin(turns)], 1).round().astype(np.int32)
    box = (x - RADIUS, y - RADIUS, min(640, x + RADIUS + 1), y + RADIUS + 1)
    refusal = None if label else Refusal("touches-border", "cut off by the frame's right side")
    prediction = Prediction(label, 0.93, 0.93, "a", ((0.07, 0.93),) * 3, (0, 0, 1, 1), None, AUDIT) if label else None
    return FrameCell(SegmentedCell(box, ring, ring, refusal), prediction)


def report(number: int = 0, **words: Any) -> FrameReport:
    words = {"pixels": smear(), "path": Path(f"slide/field-{number}.png"), **words}
    return FrameReport(words.pop("cells", cells()), None, id=number, **words)


@pytest.fixture
def page(browser: Browser) -> Iterator[LivePage]:
    with LivePage("folder <b>slide</b>", patience_s=0.2) as served:
        yield served
    browser.open("about:blank")


def drawn(browser: Browser, number: int) -> None:
    browser.see(f"document.body.dataset.drawn === '{number}'")


def inked(browser: Browser, x: float, y: float) -> tuple[int, ...]:
    """The colour on the page's canvas at a place of the frame."""
    told = browser.value(f"Array.from(document.querySelector('#view').getContext('2d').getImageData({x}, {y}, 1, 1).data)")
    return tuple(told[:3])


def test_cells_are_outlined_where_they_are_in_the_colour_of_their_call(
    page: LivePage, browser: Browser, tmp_path: Path
) -> None:
    page.show(report())
    browser.open(page.url)
    drawn(browser, 1)
    for label in CLASSES:
        x, y = PLACES[label]
        for place in ((x - RADIUS, y), (x, y + RADIUS), (x + RADIUS - 1, y)):
            assert np.abs(np.subtract(inked(browser, *place), INK[label])).max() < 40
        assert np.abs(np.subtract(inked(browser, x, y), NUCLEUS)).max() < 12  # the picture itself, beneath
    assert np.abs(np.subtract(inked(browser, 300, 400), GLASS)).max() < 8
    row = [inked(browser, 610 - RADIUS, 330 + step) for step in range(-30, 30)]
    assert {bool(np.abs(np.subtract(ink, INK[None])).max() < 40) for ink in row} == {True, False}  # dashed
    assert browser.text("#counts").split() == ["cells", "3", "ALL", "1", "HEM", "1", "refused", "1"]
    assert browser.text("#cells").split() == ["ALL", "0.93", "HEM", "0.93"]
    assert browser.text("#name") == "field-0.png"
    assert browser.value("document.querySelector('#stream').parentElement.hidden")  # nobody told of one
    assert browser.text("#source") == "folder <b>slide</b>"  # text, never markup
    assert browser.text("#notice") == CAUTION
    assert browser.console == []
    assert browser.picture(tmp_path / "live.png").stat().st_size > 10_000


def test_in_a_crowd_no_caption_hides_another_and_likely_cells_are_whole(page: LivePage, browser: Browser) -> None:
    x, y = PLACES["all"]
    crowd = (_cell(None, x + 20, y), *cells() * 15, _cell(None, x + 25, y))
    page.show(
        replace(
            report(cells=crowd),
            parameters=FrameParameters(
                0.07437, "assumed", GLASS, (0.4, 0.5, -0.7), 0.3, 0.06, (0, 0, 640, 480), (0, 0, 640, 480)
            ),
        )
    )
    browser.open(page.url)
    drawn(browser, 1)
    for step in (25, 30, 40):  # along the upper edge of the call's caption, which the refused cells' would cover
        assert np.abs(np.subtract(inked(browser, x - RADIUS + step, y - RADIUS - 17), INK["all"])).max() < 40
    assert browser.text("#called") == "Cells with a call, the likeliest ALL first, 24 of 30"
    assert browser.text("#counts").split()[8:] == ["\u00b5m", "a", "pixel", "0.0744", "scale", "only", "assumed"]
    assert browser.console == []


def test_a_files_scale_that_red_cells_overruled_is_told(page: LivePage, browser: Browser) -> None:
    note = "the file says 1 micrometres a pixel, the red cells say 0.074"
    usual = (0.074, "red-cells", GLASS, (0.4, 0.5, -0.7), 0.3, 0.06, (0, 0, 640, 480), (0, 0, 640, 480))
    page.show(replace(report(cells=()), parameters=FrameParameters(*usual, note)))  # type: ignore[arg-type]
    browser.open(page.url)
    drawn(browser, 1)
    assert note in " ".join(browser.text("#counts").split())
    assert browser.console == []


def test_a_validated_site_is_not_warned_of_the_scope(page: LivePage, browser: Browser) -> None:
    page.show(report(validated=True))
    browser.open(page.url)
    drawn(browser, 1)
    assert browser.text("#notice") == VALIDATED


def test_cells_unlike_the_trainings_raise_an_alarm_on_the_page(page: LivePage, browser: Browser, tmp_path: Path) -> None:
    usual = [feature.median for feature in shipped_reference().features.values()]
    looks = [CellFeatures(*usual)._replace(diameter_px=usual[0] * scale) for scale in (1.0, 1.6)]
    page.show(report(0, cells=tuple(replace(cell, appearance=looks[0]) for cell in cells() * 10)))
    browser.open(page.url)
    drawn(browser, 1)
    assert browser.value("document.querySelector('#alarms').hidden")
    page.show(report(1, cells=tuple(replace(cell, appearance=looks[1]) for cell in cells() * 11)))
    drawn(browser, 2)
    browser.see("document.querySelector('#alarms').innerText.startsWith('the cells are larger than the training')")
    assert "check the scale" in browser.text("#alarms")
    assert browser.console == []
    assert browser.picture(tmp_path / "drift.png").stat().st_size > 10_000


def test_pause_holds_the_picture_while_counting_goes_on(page: LivePage, browser: Browser) -> None:
    page.show(report(0))
    browser.open(page.url)
    drawn(browser, 1)
    browser.click("#pause")
    assert browser.value("document.querySelector('#pause').getAttribute('aria-pressed')") == "true"
    page.show(report(1))
    browser.see("document.querySelector('#totals').innerText.includes('frames\\n2')")
    assert browser.text("#name") == "field-0.png"
    browser.click("#pause")
    drawn(browser, 2)
    assert browser.text("#name") == "field-1.png"


def test_a_frame_that_could_not_be_examined_says_why(page: LivePage, browser: Browser) -> None:
    page.show(report(0))
    browser.open(page.url)
    drawn(browser, 1)
    page.show(report(1, cells=(), pixels=None, refusal=Refusal("undecodable", "the pixels are <i>damaged</i>")))
    drawn(browser, 2)
    assert browser.text("#refusal") == "not examined: the pixels are <i>damaged</i>"
    assert browser.value("document.querySelector('#strip').hidden")
    page.show(report(2))
    drawn(browser, 3)
    assert browser.value("document.querySelector('#refusal').hidden")
    assert browser.console == []


def test_the_page_tells_of_a_lost_device_the_end_and_a_gone_server(browser: Browser) -> None:
    def examine(frame: Any, *, metadata: Any) -> FrameReport:
        if "lost" in metadata:
            raise DeviceLost("inference")
        return report()

    with LivePage("camera 0", patience_s=0.2) as page:
        with Stream(examine, page.show, when_full="block") as stream:
            page.watch(stream)
            browser.open(page.url)
            stream.put(smear(), metadata={"lost": True})
            assert stream.wait(PATIENCE_S)
            browser.see("document.querySelector('#state').innerText.includes('the device was lost')")
            browser.see("document.querySelector('#error').innerText.includes('reopen')")
            stream.put(smear())
            browser.see("document.querySelector('#state').innerText === 'running'")
            browser.value("since = performance.now() - 60000")
            browser.see("document.querySelector('#state').innerText.startsWith('no new frame for 6')")
            stream.put(smear())
            browser.see("document.querySelector('#state').innerText === 'running'")
        page.refresh()
        browser.see("document.querySelector('#state').innerText === 'stopped'")
        ended = Stream(examine, page.show, [Frame(smear())], when_full="block")
        page.watch(ended)
        assert ended.wait(PATIENCE_S)
        page.refresh()
        browser.see("document.querySelector('#state').innerText === 'the source is at its end'")
        assert "latency, median" in browser.text("#stream")
    browser.see("document.querySelector('#state').innerText.includes('no connection')")


def test_a_page_of_another_name_is_not_shown(page: LivePage, browser: Browser) -> None:
    browser.open(page.url.replace("127.0.0.1", "attacker.localhost"))  # leads to this machine, as a rebound name would
    assert "served to this machine under its own name" in browser.text("body")


def test_real_frames_are_seen_with_their_cells(browser: Browser, shared_data: Path, tiny_bundle: Any, tmp_path: Path) -> None:
    if not (shared_data / "bccd").is_dir():
        pytest.skip("no real frames are at hand: no bccd/ beside cnmc/")
    paths = [shared_data / "bccd" / "JPEGImages" / f"BloodImage_000{number}.jpg" for number in ("00", "14", "64")]
    frames = [Frame(read_image(path), path.name) for path in paths]
    with open_bundle(tiny_bundle.make(), cache_dir=tmp_path) as scope, LivePage("bccd", patience_s=0.2) as page:
        with scope.stream(frames, page.show, when_full="block", keep_pixels=True) as stream:
            page.watch(stream)
            assert stream.wait(PATIENCE_S)
        browser.open(page.url)
        drawn(browser, 3)
        assert browser.text("#totals").startswith("frames\n3")
        assert stream.stats.refused == 0
        assert int(browser.text("#counts").split()[1]) >= 1
        assert browser.text("#name") == "BloodImage_00064.jpg"
        assert browser.console == []
        assert browser.picture(tmp_path / "live.png").stat().st_size > 100_000
