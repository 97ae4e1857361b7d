"""Report pages: what they show is escaped, they load nothing, and a browser runs no script and no style but their own."""

from __future__ import annotations

import re
from base64 import b64encode
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from jinja2 import UndefinedError

from blastscope.runtime.frames.report.html_report import render_slide_report
from blastscope.runtime.frames.report.templates import render_template
from blastscope.runtime.frames.report.thumbnails import Thumbnail
from blastscope.runtime.frames.types import FrameParameters, FrameReport
from blastscope.train.detector.evaluation import DetectorReport, render

if TYPE_CHECKING:
    from browser import Browser

ROOT = Path(__file__).resolve().parents[3]
FACTS = FrameParameters(0.1, "given", (230.0, 225.0, 228.0), (0.4, 0.5, -0.7), 0.3, 0.06, (0, 0, 90, 90), (0, 0, 90, 90))


def slide_page() -> str:
    return render_slide_report([Thumbnail(FrameReport((), FACTS, path=Path("a.png"), size=(90, 90)))], "a slide")


def detector_page() -> str:
    return render(DetectorReport.model_validate_json((ROOT / "train/shipped_detector/report.json").read_text(encoding="utf-8")))


PAGES = {"slide": slide_page, "detector": detector_page}


def policy(page: str) -> dict[str, list[str]]:
    (content,) = re.findall(r'http-equiv="Content-Security-Policy"\s+content="([^"]*)"', page)
    words = [part.split() for part in content.split(";")]
    return {name: values for name, *values in words}


def hashes(page: str, pattern: str) -> list[str]:
    return [f"'sha256-{b64encode(sha256(text.encode()).digest()).decode()}'" for text in re.findall(pattern, page, re.DOTALL)]


@pytest.mark.parametrize("name", PAGES)
def test_a_page_allows_its_own_scripts_and_style_and_nothing_else(name: str) -> None:
    page = PAGES[name]()
    found = policy(page)
    assert found["default-src"] == found["base-uri"] == found["form-action"] == ["'none'"]
    assert found["img-src"] == ["data:"]
    assert found["style-src"] == hashes(page, "<style>(.*?)</style>")
    assert found["script-src"] == (hashes(page, "<script>(.*?)</script>") or ["'none'"])
    assert not re.search(r"https?://|@import|url\(|\son\w+=|style=", page)


@pytest.mark.parametrize("name", PAGES)
def test_a_browser_applies_the_style_and_runs_no_foreign_script(name: str, browser: Browser, tmp_path: Path) -> None:
    foreign = '<script>window.ran = 1</script><img src="data:," onerror="window.failed = 1"><h1 style="color: red">'
    page = PAGES[name]().replace("<main>", f"<main>{foreign}")
    unguarded = re.sub('<meta http-equiv="Content-Security-Policy"[^>]*>', "", page)
    for text, guarded in ((page, True), (unguarded, False)):
        (tmp_path / "page.html").write_text(text, encoding="utf-8")
        browser.open((tmp_path / "page.html").as_uri())
        assert browser.value("[window.ran, window.failed].includes(1)") == (not guarded)
        assert (browser.value("getComputedStyle(document.querySelector('h1')).color") == "rgb(255, 0, 0)") == (not guarded)
        assert browser.value("getComputedStyle(document.querySelector('table')).borderCollapse") == "collapse"
        assert browser.value("document.documentElement.classList.contains('live')") == (name == "slide")


def test_every_value_is_escaped_and_bytes_that_are_no_text_are_shown() -> None:
    page = render_slide_report([], '<b title="\udcff">&')
    assert page.count("&lt;b title=&#34;?&#34;&gt;&amp;") == 2
    page.encode("utf-8")


def test_a_value_that_a_template_lacks_is_an_error() -> None:
    with pytest.raises(UndefinedError, match="parts"):
        render_template("gallery.html")


def test_the_detectors_page_has_every_figure_and_marks_the_limit() -> None:
    report = DetectorReport.model_validate_json((ROOT / "train/shipped_detector/report.json").read_text(encoding="utf-8"))
    page = render(report)
    for source in report.sources:
        for found in (source.at(report.limit), source.by_stain):
            assert found is not None
            for figure in (found.recall, found.precision):
                assert f"{figure.value:.3f} <small>({figure.low:.3f} to {figure.high:.3f})</small>" in page
        for one in source.by_limit:
            assert one.metrics is not None
            assert f"{one.metrics.recall.value:.3f} / {one.metrics.precision.value:.3f}" in page
    assert re.findall(r'<tr class="strong"><td>([\d.]+)', page) == [f"{report.limit:.3g}"]
