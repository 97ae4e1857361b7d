"""Pictures and pages of frames: what is drawn where, in colours that everybody can tell apart, shown in a real browser."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from base64 import b64decode
from collections.abc import Sequence
from dataclasses import replace
from io import BytesIO
from itertools import combinations
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from blastscope import synthetic_cell
from blastscope.runtime.errors import UsageError
from blastscope.runtime.frames.doubts import scale_doubts
from blastscope.runtime.frames.report.contact_sheet import MOST_CELLS, cards_of, draw_contact_sheet, sheet_summary
from blastscope.runtime.frames.report.html_report import REASONS, diameter_um, render_slide_report
from blastscope.runtime.frames.report.overlay import MOST_NUMBERS, draw_overlay
from blastscope.runtime.frames.report.theme import CALL_STYLES, CAUTION, VALIDATED, rgb, style_of
from blastscope.runtime.frames.report.thumbnails import THUMB_PX, Thumbnail, ThumbnailCollector, draw_thumbnail
from blastscope.runtime.frames.types import FrameCell, FrameParameters, FrameReport, SegmentedCell
from blastscope.runtime.inference.explanation import Explanation
from blastscope.runtime.inference.neighbours import ArchiveCell, Neighbour
from blastscope.runtime.io.slides.slide import ArraySlide
from blastscope.runtime.types import REFUSALS, Audit, Prediction, Refusal

AUDIT = Audit("b" * 64, "e", "openvino", "CPU", "fp16", "f32")
FACTS = FrameParameters(
    0.1, "red-cells", (200.0, 201.0, 199.0), (0.4, 0.5, -0.7), 0.3, 0.06, (0, 0, 640, 480), (0, 0, 640, 480)
)
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


def cell(x: int, y: int, *, score: float | None, radius: int = 30, code: str = "clumped") -> FrameCell:
    """A round cell around (x, y)."""
    turn = np.linspace(0, 2 * np.pi, 200, endpoint=False)
    contour = np.unique(np.stack([x + radius * np.cos(turn), y + radius * np.sin(turn)], 1).round().astype(np.int32), axis=0)
    angle = np.arctan2(contour[:, 1] - y, contour[:, 0] - x)
    contour = contour[np.argsort(angle)]
    box = (x - radius, y - radius, x + radius + 1, y + radius + 1)
    if score is None:
        return FrameCell(SegmentedCell(box, contour, contour, Refusal(code, "two <nuclei>")), None)  # type: ignore[arg-type]
    label = "all" if score >= 0.5 else "hem"
    call = Prediction(label, max(score, 1 - score), score, "combined", None, box, None, AUDIT)
    return FrameCell(SegmentedCell(box, contour, contour), call)


def report(*cells: FrameCell, name: str = "slide.png", validated: bool = False) -> FrameReport:
    return FrameReport(tuple(cells), FACTS, path=Path(name), size=(400, 300), validated=validated)


FRAME = np.full((300, 400, 3), (205, 190, 200), np.uint8)
THREE = report(cell(60, 80, score=0.97), cell(200, 150, score=0.12, radius=40), cell(330, 220, score=None))


def where(picture: NDArray[np.uint8], colour: str) -> NDArray[np.bool_]:
    """The pixels of about that colour."""
    return np.abs(picture.astype(np.int16) - rgb(colour)).max(axis=2) < 40


def explained(image: NDArray[np.uint8]) -> Explanation:
    """An explanation in which the left half of the crop speaks for ALL, and the right half for HEM."""
    crop = np.zeros((288, 288, 3), np.uint8)
    top, left = (288 - image.shape[0]) // 2, (288 - image.shape[1]) // 2
    crop[top : top + image.shape[0], left : left + image.shape[1]] = image
    call = Prediction("all", 0.9, 0.9, "a", None, (0, 0, 288, 288), None, AUDIT)
    return Explanation(call, crop, ((0, 0, 144, 288), (144, 0, 288, 288)), (1.0, -1.0))


@pytest.mark.parametrize("most", [0, 1, 2, 9])
def test_the_page_shows_what_the_likeliest_calls_rest_on(most: int) -> None:
    album = ThumbnailCollector(cells=True)
    album.explain_with(explained, None, most)
    album.collect(ArraySlide(FRAME), THREE)
    shown = album.shown(THREE)
    assert list(shown.explained) == [0, 1][:most]  # the third cell has no call
    page = render_slide_report([shown], "slide")
    assert page.count("<summary>why</summary>") == len(shown.explained)
    assert ("Vermilion parts speak for ALL" in page) == bool(shown.explained)
    for why in shown.explained.values():
        heat = np.asarray(Image.open(BytesIO(why.heat)))
        middle, side = heat[THUMB_PX // 2], THUMB_PX
        assert heat.shape == (side, side, 3)
        assert middle[side // 3, 0] > middle[side // 3, 2] + 30  # vermilion
        assert middle[2 * side // 3, 2] > middle[2 * side // 3, 0] + 30  # blue
        assert heat[0].max() < 20  # black around the cell


def test_the_page_shows_labelled_cells_that_are_like_an_explained_one(tmp_path: Path) -> None:
    cell_file = tmp_path / "cell.png"
    Image.fromarray(synthetic_cell(seed=3)).save(cell_file)
    files = (cell_file, "hem", "H<4>"), (tmp_path / "gone.png", "all", "57")
    cells = [ArchiveCell(file.name, label, who, who, file, image=file) for file, label, who in files]  # type: ignore[arg-type]
    alike = [Neighbour(cells[0], 0.5), Neighbour(cells[1], 1.25)]
    album = ThumbnailCollector(cells=True)
    album.explain_with(explained, None, 1, nearest=lambda image: alike)
    album.collect(ArraySlide(FRAME), THREE)
    shown = album.shown(THREE)
    page = render_slide_report([shown], "slide")
    items = re.findall(r'<li class="(hem|all)">.*?<b>(\w+)</b> ([\d.]+)<span>patient (.*?)</span>', page)
    assert items == [("hem", "HEM", "0.50", "H&lt;4&gt;"), ("all", "ALL", "1.25", "57")]
    assert "most like it by the networks" in page
    assert "pictures need --archive" not in page
    ((_, drawn), (_, gone)) = shown.explained[0].alike
    assert drawn is not None
    assert gone is not None
    assert np.asarray(Image.open(BytesIO(drawn))).std() > 20
    assert np.asarray(Image.open(BytesIO(gone))).std() < 1  # the file was deleted meanwhile: an empty place


def test_the_page_tells_cells_that_have_no_picture() -> None:
    alike = [Neighbour(ArchiveCell("UID_75_1_1_all.bmp", "all", "75", "51"), 0.5)]
    album = ThumbnailCollector(cells=True)
    album.explain_with(explained, None, 1, nearest=lambda image: alike)
    album.collect(ArraySlide(FRAME), THREE)
    page = render_slide_report([album.shown(THREE)], "slide")
    assert re.findall(r'<li class="all"><b>ALL</b> ([\d.]+)<span>(.*?)</span>', page) == [("0.50", "patient 75, person 51")]
    assert "pictures need --archive" in page


def test_a_cell_that_is_refused_by_itself_has_no_explanation() -> None:
    def refuse(image: NDArray[np.uint8]) -> Explanation:
        raise UsageError(f"there is no call to explain, the cell is refused: {image.shape}")

    album = ThumbnailCollector(cells=True)
    album.explain_with(refuse, None, 5)
    album.collect(ArraySlide(FRAME), THREE)
    assert album.shown(THREE).explained == {}


def test_every_cell_is_outlined_in_the_colour_of_its_call() -> None:
    drawn = np.asarray(draw_overlay(FRAME, THREE))
    assert drawn.shape[1] >= 400
    for one in THREE.cells:
        x0, y0, x1, y1 = one.box
        near = drawn[y0 - 2 : y1 + 2, x0 - 2 : x1 + 2]
        others = [style.colour for kind, style in CALL_STYLES.items() if kind != style_of(one)]
        assert where(near, CALL_STYLES[style_of(one)].colour).sum() > 60
        assert not any(where(near, colour).any() for colour in others)


def test_inside_cells_and_away_from_them_the_frame_stays_as_it_was() -> None:
    before = FRAME.copy()
    drawn = np.asarray(draw_overlay(FRAME, THREE))
    assert np.array_equal(FRAME, before)
    assert np.array_equal(drawn[150 - 20 : 150 + 20, 200 - 20 : 200 + 20], FRAME[130:170, 180:220])
    assert np.array_equal(drawn[280:300, :200], FRAME[280:300, :200])


def test_the_scale_bar_is_as_long_as_it_says() -> None:
    foot = np.asarray(draw_overlay(FRAME, report()))[300:]
    dark = where(foot, "#1b1f24")
    runs = max(len(run) for row in dark for run in bytes(row.astype(np.uint8)).split(b"\0"))
    assert runs - 1 == 100  # 10 micrometres of 0.1 each: the longest round length that fits


def test_an_overlay_of_a_smaller_picture_goes_with_it() -> None:
    drawn = np.asarray(draw_overlay(cv2.resize(FRAME, (200, 150)), THREE))
    assert where(drawn[48 // 2 : 112 // 2 + 4, 28 // 2 : 92 // 2 + 4], CALL_STYLES["all"].colour).sum() > 30


def test_lines_are_wider_where_a_picture_is_seen_smaller() -> None:
    inked = []
    for width in (1000, 4000):
        small = replace(report(cell(300, 200, score=0.9, radius=30)), size=(width, 1000))
        picture = np.asarray(draw_overlay(np.full((1000, width, 3), 255, np.uint8), small))[150:260, 250:360]
        inked.append(int(where(picture, CALL_STYLES["all"].colour).sum()))
    assert inked[1] > 2 * inked[0]


def test_the_colours_of_calls_are_apart_for_everybody() -> None:
    # Machado, Oliveira and Fernandes 2009, severity 1: protanopia, deuteranopia, tritanopia
    views = (
        np.eye(3),
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
        [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
    )
    for view in views:
        seen = [np.asarray(view) @ np.asarray(rgb(style.colour)) for style in CALL_STYLES.values()]
        assert min(np.linalg.norm(one - other) for one, other in combinations(seen, 2)) > 60
    assert [kind for kind, style in CALL_STYLES.items() if style.dashed] == ["refused"]  # and by its line


def test_a_thumbnail_shows_a_cell_at_the_edge_with_glass_around_it() -> None:
    thumb = draw_thumbnail(ArraySlide(FRAME), cell(5, 5, score=0.9))
    assert thumb.shape == (THUMB_PX, THUMB_PX, 3)
    assert (thumb[:5, :5] == 255).all()
    assert np.array_equal(thumb[-3, -3], FRAME[0, 0])


def shown(*reports: FrameReport) -> list[Thumbnail]:
    album = ThumbnailCollector(cells=True, maps=9)
    for one in reports:
        album.collect(ArraySlide(FRAME), one)
    return [album.shown(one) for one in reports]


def test_pictures_are_handed_out_once_for_each_time_that_a_frame_was_given() -> None:
    album = ThumbnailCollector(cells=True, maps=1)
    for _ in range(2):
        album.collect(ArraySlide(FRAME), THREE)
    assert [bool(album.shown(THREE).map) for _ in range(3)] == [True, False, False]
    album.collect(ArraySlide(FRAME), THREE)
    assert [len(album.shown(THREE).thumbs) for _ in range(2)] == [3, 0]


def test_a_sheet_begins_with_the_likeliest_all_and_ends_with_the_refused() -> None:
    other = report(cell(100, 100, score=0.55), cell(200, 200, score=None), cell(300, 90, score=0.99), name="other.png")
    frames = shown(THREE, other)
    assert [card.cell.prediction and card.cell.prediction.score for card in cards_of(frames)] == [
        0.99,
        0.97,
        0.55,
        0.12,
        None,
        None,
    ]
    assert sheet_summary(cards_of(frames)).startswith("6 white cells: 3 ALL, 1 HEM, 2 refused")
    sheet = draw_contact_sheet(frames, "two frames")
    pixels = np.asarray(sheet)
    assert where(pixels[90:100, :160], CALL_STYLES["all"].colour).any()
    assert not where(pixels[90:100, :160], CALL_STYLES["hem"].colour).any()
    many = Thumbnail(report(*[cell(60, 60, score=0.9)] * (MOST_CELLS + 5)))
    assert f"the first {MOST_CELLS} are shown" in sheet_summary(cards_of([many]))


def test_the_page_needs_nothing_beside_it_and_takes_no_name_for_markup() -> None:
    evil = '<script>alert("x")</script>&.png'
    page = render_slide_report(shown(THREE, report(cell(90, 90, score=0.7), name=evil)), evil, audit=AUDIT)
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert(&#34;x&#34;)&lt;/script&gt;&amp;.png" in page
    assert "two &lt;nuclei&gt;" in page
    assert not re.search(r'(?:src|href)="(?!data:image/jpeg;base64,|#)', page)
    assert not re.search(r"https?://|@import|url\(", page)
    assert AUDIT.bundle in page
    for number, picture in enumerate(re.findall(r'src="data:image/jpeg;base64,([^"]+)"', page)):
        with Image.open(BytesIO(b64decode(picture))) as image:
            assert image.format == "JPEG", number


def test_cells_come_before_the_table_of_frames_that_leads_back_to_them() -> None:
    page = render_slide_report(
        shown(THREE, report(name="none.png"), report(cell(90, 90, score=0.7))), "a", alarms=["larger <cells>"]
    )
    assert page.index("<h2>Cells") < page.index("<h2>Why cells") < page.index("<h2>Where") < page.index("<h2>Frames")
    assert re.findall(r'href="(#[^"]*)"', page) == ["#frame=0", "#frame=2"]
    assert '<p class="warning">larger &lt;cells&gt;</p>' in page
    assert "#frame" not in render_slide_report(shown(THREE), "a")  # it is alone
    index = render_slide_report(shown(THREE), "a", links={0: "three.html"})
    assert 'href="three.html"' in index
    assert "<h2>Cells" not in index


def test_the_page_doubts_calls_on_a_scale_that_nobody_knows() -> None:
    assumed = replace(FACTS, scale_source="assumed")
    unknown = replace(THREE, parameters=assumed, doubts=tuple(scale_doubts(assumed, cells=True)))
    assert "so it is only assumed" not in render_slide_report(shown(THREE), "a")
    empty = replace(unknown, cells=(), doubts=tuple(scale_doubts(assumed, cells=False)))
    assert "so it is only assumed" not in render_slide_report(shown(THREE, empty), "a")
    noted = replace(assumed, scale_note="assumed")  # none may be found on a wrong one
    stained = replace(empty, parameters=noted, doubts=tuple(scale_doubts(noted, cells=False)))
    for frames in ((unknown,), (THREE, unknown), (THREE, stained), (empty, stained)):
        page = render_slide_report(shown(*frames), "a")
        assert "too few red cells show the scale of 1 of the frames, so it is only assumed" in page


def test_a_page_without_a_cell_doesnt_speak_of_any() -> None:
    unread = FrameReport((), None, Refusal("undecodable", "the file is empty"), Path("a.png"))
    for one, said in ((report(), "No white cell was found."), (unread, "No frame could be examined.")):
        page = render_slide_report(shown(one), "a")
        assert said in page
        assert not re.search("Where the cells lie|see the reasons below|Why cells", page)


def test_in_a_crowd_where_no_number_is_drawn_a_cell_is_found_by_its_place() -> None:
    few = render_slide_report(shown(THREE), "a")
    assert "number 1, at 30, 50<" in few
    many = render_slide_report(shown(report(*[cell(90, 90, score=0.7)] * (MOST_NUMBERS + 1))), "a")
    assert [f"where there are more than {MOST_NUMBERS} go by its place" in page for page in (few, many)] == [False, True]


def test_the_page_says_whether_the_site_has_validated_its_frames() -> None:
    assert CAUTION in render_slide_report(shown(THREE), "a")
    page = render_slide_report(shown(report(cell(60, 60, score=0.7), validated=True)), "a")
    assert VALIDATED in page
    assert CAUTION not in page
    assert "research use, not a medical device" in VALIDATED


def test_every_refusal_has_a_sentence_for_people() -> None:
    assert set(REASONS) == set(REFUSALS)


def test_a_name_that_is_no_text_can_be_shown() -> None:
    odd = report(cell(60, 60, score=0.7), name=os.fsdecode(b"slide\xff.png"))
    render_slide_report(shown(odd), "a").encode("utf-8")
    draw_contact_sheet(shown(odd), "a")


@pytest.mark.parametrize("radius", [6, 12, 40, 60.5])
@pytest.mark.parametrize("corners", [cv2.CHAIN_APPROX_NONE, cv2.CHAIN_APPROX_SIMPLE])
def test_the_diameter_is_that_of_a_disk_of_the_cells_area(radius: float, corners: int) -> None:
    y, x = np.mgrid[:130, :130] - 64.5
    mask = (x * x + y * y <= radius * radius).astype(np.uint8)
    contour = np.asarray(cv2.findContours(mask, cv2.RETR_EXTERNAL, corners)[0][0][:, 0], np.int32)
    one = FrameCell(SegmentedCell((0, 0, 130, 130), contour, contour), None)  # type: ignore[arg-type]
    of_pixels = 2 * (np.count_nonzero(mask) / np.pi) ** 0.5 * FACTS.pixel_um
    assert diameter_um(one, report(one)) == pytest.approx(of_pixels)
    assert diameter_um(one, report(one)) == pytest.approx(2 * radius * FACTS.pixel_um, rel=0.02)


# ---- in a browser


def browse(tmp_path: Path, address: str, *options: str) -> str:
    if CHROMIUM is None:
        if os.environ.get("CI"):
            pytest.fail("CI must open the page in a browser: install Debian's chromium")
        pytest.skip("no browser at hand: install Debian's chromium")
    command = [
        CHROMIUM,
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--hide-scrollbars",
        f"--user-data-dir={tmp_path / 'user'}",
    ]
    done = subprocess.run([*command, *options, address], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def write_page(tmp_path: Path) -> str:
    other = report(cell(100, 100, score=0.55, radius=20), cell(200, 200, score=0.3), name="other.png")
    (tmp_path / "page.html").write_text(render_slide_report(shown(THREE, other), "Two slides", audit=AUDIT), encoding="utf-8")
    return (tmp_path / "page.html").as_uri()


def order_in(dom: str) -> Sequence[tuple[str, bool]]:
    """The scores of the cells in a page's tree, with whether each is hidden."""
    items = re.findall(r'<li class="cell [^>]*>', dom)
    return [(re.search(r'data-score="([^"]*)"', item)[1], "hidden" in item) for item in items]  # type: ignore[index]


def test_the_page_sorts_and_filters_in_a_browser(tmp_path: Path) -> None:
    dom = browse(tmp_path, write_page(tmp_path) + "#show=hem&sort=size", "--dump-dom")
    assert 'class="live"' in dom
    assert "2 of 5 cells" in dom
    assert [score for score, hidden in order_in(dom) if not hidden] == ["0.120000", "0.300000"]  # the larger one first
    assert sum(hidden for _, hidden in order_in(dom)) == 3


def test_the_page_shows_its_pictures_in_a_browser(tmp_path: Path) -> None:
    place = tmp_path / "page.png"
    browse(tmp_path, write_page(tmp_path), "--window-size=1100,2200", f"--screenshot={place}")
    with Image.open(place) as picture:
        pixels = np.asarray(picture.convert("RGB"))
    assert where(pixels, "#b54a00").sum() > 500  # frames of cells called ALL, in the light theme
    assert where(pixels, "#0067a5").sum() > 500
    assert np.abs(pixels.astype(np.int16) - FRAME[0, 0]).max(axis=2).min() <= 6  # thumbnails are decoded
    assert (np.abs(pixels.astype(np.int16) - FRAME[0, 0]).max(axis=2) <= 6).sum() > 20_000
