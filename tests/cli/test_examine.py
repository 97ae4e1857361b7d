"""`blastscope examine`: what it prints, what it writes, and what it exits with."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from blastscope.cli import app
from blastscope.cli.examine import frame_line
from blastscope.runtime.frames.report.theme import names_of, title_of
from blastscope.runtime.frames.report.writers import COLUMNS, OutputOptions, ReportWriter
from blastscope.runtime.frames.types import FrameCell, FrameParameters, FrameReport, SegmentedCell
from blastscope.runtime.types import Audit, Refusal

RUNNER = CliRunner()


def run(*words: object) -> Result:
    return RUNNER.invoke(app, ["examine", *(str(word) for word in words)])


@pytest.fixture
def bundle(tiny_bundle: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tiny_bundle.make("fp32")


@pytest.fixture
def folder(shared_data: Path, tmp_path: Path) -> Path:
    """Two real frames and a file that is none, in two folders with one name twice."""
    here = tmp_path / "frames"
    (here / "deep").mkdir(parents=True)
    frames = shared_data / "bccd" / "JPEGImages"
    (here / "a.jpg").write_bytes((frames / "BloodImage_00010.jpg").read_bytes())
    (here / "deep" / "A.jpg").write_bytes((frames / "BloodImage_00190.jpg").read_bytes())
    (here / "<i>&.png").write_bytes(b"no frame")
    return here


def test_json_is_a_line_a_frame_with_the_keys_that_programs_count_on(bundle: Path, folder: Path) -> None:
    paths = [folder / "deep" / "A.jpg", folder / "<i>&.png", folder / "a.jpg"]
    result = run(*paths, "--bundle", bundle, "--json")
    rows = [json.loads(line) for line in result.stdout.splitlines()]
    assert result.exit_code == 1  # a frame couldn't be examined
    assert [row["path"] for row in rows] == [str(path) for path in paths]
    for row in rows:
        assert {"path", "refusal", "validated", "pixel_um", "counts", "cells"} <= set(row)
        assert row["validated"] is False
        assert set(row["counts"]) == {"cells", "hem", "all", "refused"}
        for cell in row["cells"]:
            assert {"box", "contour", "label", "probability", "voter", "refusal"} <= set(cell)
            assert (cell["label"] is None) == (cell["refusal"] is not None)
    assert (rows[1]["refusal"], rows[1]["cells"], rows[1]["pixel_um"]) == ("undecodable", [], None)
    assert rows[0]["cells"]
    assert "1 of 3 frames could not be examined" in result.stderr
    assert "outside what was validated" in result.stderr


def test_people_get_a_table_and_a_refused_cell_is_a_finding(bundle: Path, folder: Path) -> None:
    result = run(folder / "a.jpg", "--bundle", bundle, "--pixel-um", "0.08")
    assert result.exit_code == 0
    head, line = result.stdout.splitlines()
    assert head.split() == ["cells", "ALL", "HEM", "refused", "um/pixel", "frame"]
    cells, malignant, normal, refused, scale, source, path = line.split()
    assert int(cells) == int(malignant) + int(normal) + int(refused)
    assert int(refused) > 0  # a cell of this frame is cut off
    assert (scale, source, path) == ("0.0800", "given", str(folder / "a.jpg"))
    assert head.index("frame") == line.index(path)


def test_files_of_a_folder_that_are_left_out_are_told_of(bundle: Path, folder: Path) -> None:
    (folder / "deep" / "phone.avif").touch()
    result = run(folder, "--bundle", bundle)
    assert "left out of the folders, by their suffix: 1 .avif (name a file itself" in result.stderr
    assert "left out" not in run(folder / "a.jpg", "--bundle", bundle).stderr


ODD = "\x1b[31mred\x9b2J\r\n.png"


@pytest.mark.skipif(os.name == "nt", reason="such a name can't be given there")
@pytest.mark.parametrize(
    "words",
    [
        ["examine", "ODD"],
        ["examine", "."],
        ["classify", "ODD"],
        ["explain", "ODD"],
        ["validate", ".", "--labels", "ODD"],
        ["examine", "ODD", "--csv", "ODD"],
        ["examine", "x.png", "--csv", "ODD/x.csv"],
        ["examine", "x.png", "--bundle", "ODD"],
        ["examine", "--ODD"],
        ["ODD"],
    ],
)
def test_escape_sequences_in_names_never_reach_the_terminal(
    words: list[str], bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path(ODD).write_bytes(b"no image")
    words = [word.replace("ODD", ODD) for word in words]
    result = RUNNER.invoke(app, words if "--bundle" in words or len(words) == 1 else [*words, "--bundle", str(bundle)])
    assert result.exit_code in (1, 2, 3), result.exception
    told = result.stdout + result.stderr
    assert not re.search("[\x1b\x9b\r]", told)
    if words[1:2] != ["."] or words[0] == "examine":
        assert "x1b[31mred" in told


def test_a_table_holds_no_formula_whatever_frames_are_called(tmp_path: Path) -> None:
    names = ["=1+1.png", "+1.png", "-1.png", "@a.png", "\t=1.png", 'a\rb,c\n"d.png', "/x/=1.png", "plain.png"]
    audit = Audit("b" * 64, "e", "openvino", "CPU", "fp16", "f32")
    writer = ReportWriter(OutputOptions(csv=tmp_path / "cells.csv"), [Path(name) for name in names])
    outline = np.asarray([(0, 0), (9, 0), (9, 9)], np.int32)
    cell = FrameCell(SegmentedCell((0, 0, 9, 9), outline, None, Refusal("clumped", "it is")), None)  # type: ignore[arg-type]
    for name in names:
        writer.add(FrameReport((cell,), None, path=Path(name)), audit)
    writer.finish("a", audit)
    content = (tmp_path / "cells.csv").read_bytes().decode()
    rows = list(csv.DictReader(io.StringIO(content, newline="")))
    assert [row["number"] for row in rows] == ["1"] * len(names)
    assert [Path(row["path"]) for row in rows] == [Path(name) for name in names]
    assert not any(row["path"].startswith(("=", "+", "-", "@", "\t", "\r")) for row in rows)
    assert content.count("\r") == 1  # that of the name


def test_what_there_is_to_say_of_a_frame_stands_behind_its_path() -> None:
    facts = FrameParameters(
        0.07, "given", (200.0, 201.0, 199.0), (0.4, 0.5, -0.7), 0.3, 0.06, (0, 0, 640, 480), (0, 0, 640, 480)
    )
    told = frame_line(FrameReport((), facts, path=Path("a.tif"), notes=("page 1 of 2", "0.07 by ImageJ")))
    assert told.endswith("0.0700 given       a.tif  (page 1 of 2; 0.07 by ImageJ)")


def test_everything_that_is_wanted_is_written_and_nothing_else(bundle: Path, folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    words = ["--overlay", out / "o", "--sheet", out / "sheet.jpg", "--report", out / "r", "--csv", out / "cells.csv"]
    result = run(folder, "--bundle", bundle, *words)
    assert result.exit_code == 1
    written = sorted(path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file())
    pages = ["r/a.html", "r/deep-A.html", "r/index.html"]
    assert written == ["cells.csv", "o/a.overlay.png", "o/deep-A.overlay.png", *pages, "sheet.jpg"]
    assert f"written: {out / 'cells.csv'}" in result.stderr
    index = (out / "r" / "index.html").read_text(encoding="utf-8")
    assert '<a href="deep-A.html">deep/A.jpg</a>' in index
    assert "&lt;i&gt;&amp;.png" in index
    with (out / "cells.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == COLUMNS
    assert {row["path"] for row in rows} == {str(folder / "a.jpg"), str(folder / "deep" / "A.jpg")}
    for row in rows:
        assert (row["label"] == "") == (row["refusal"] != "")
        assert int(row["x0"]) < int(row["x1"])
        assert 3 < float(row["diameter_um"]) < 40


def test_one_page_holds_all_frames_where_a_file_is_named(bundle: Path, folder: Path, tmp_path: Path) -> None:
    assert run(folder, "--bundle", bundle, "--report", tmp_path / "all.html").exit_code == 1
    page = (tmp_path / "all.html").read_text(encoding="utf-8")
    assert page.count('<li class="cell') >= 3
    assert "<h1>frames: 3 frames</h1>" in page
    assert re.search(r"\d in deep/A\.jpg</span><span>at \d+, \d+<", page)  # the other is called the same


def test_the_page_explains_as_many_calls_as_are_asked_for(bundle: Path, shared_data: Path, tmp_path: Path) -> None:
    frame = shared_data / "bccd" / "JPEGImages" / "BloodImage_00037.jpg"  # with one lymphocyte
    done = run(frame, "--bundle", bundle, "--report", tmp_path / "all.html", "--explain", 1, "--json")
    counts = json.loads(done.stdout)["counts"]
    assert (done.exit_code, counts["all"] + counts["hem"]) == (0, 1)
    assert (tmp_path / "all.html").read_text(encoding="utf-8").count("<summary>why</summary>") == 1


def test_what_is_assumed_of_frames_comes_from_a_toml_file(bundle: Path, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "frames.toml").write_text("pixel_um = 0.09\nstain = 'none'\n", encoding="utf-8")
    result = run(folder / "a.jpg", "--bundle", bundle, "--config", tmp_path / "frames.toml", "--json")
    assert json.loads(result.stdout)["pixel_um"] == 0.09
    (tmp_path / "frames.toml").write_text("pixel = 0.09\n", encoding="utf-8")
    result = run(folder / "a.jpg", "--bundle", bundle, "--config", tmp_path / "frames.toml")
    assert result.exit_code == 2
    assert "known keys" in result.stderr


@pytest.mark.parametrize(
    ("words", "code"),
    [
        ([], 2),
        (["nowhere.png", "--bundle", "nowhere"], 3),
        (["nowhere.png", "--sheet", "cells.gif"], 2),
        (["nowhere.png", "--pixel-um", "0"], 2),
        (["nowhere.png", "--explain", "2"], 2),
        (["nowhere.png", "--device", "cuda"], 4),
    ],
)
def test_exit_codes_say_what_went_wrong(words: list[str], code: int) -> None:
    assert run(*words).exit_code == code


@pytest.mark.parametrize("option", ["--csv", "--sheet", "--report", "--overlay"])
def test_an_unwritable_place_is_said_before_anything_is_examined(option: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    result = run("nowhere.png", "--bundle", "nowhere", option, tmp_path / "file" / "it.png")  # a bundle isn't even looked for
    assert result.exit_code == 2
    assert "file/it.png" in result.stderr
    assert "can't be written" in result.stderr


def test_the_longest_name_of_a_frame_leaves_room_for_what_is_made_of_it(tmp_path: Path) -> None:
    paths = [Path("\u00e4" * 125 + end) for end in ("a.jpg", "b.jpg")]  # 255 bytes
    assert len(paths[0].name.encode()) == 255
    names = ReportWriter(OutputOptions(), paths)._names
    assert len(set(names.values())) == 2
    for name in names.values():
        (tmp_path / f".{name}.overlay.png.01234567.new").touch()  # the longest, while it is being written


def test_a_frame_is_not_written_over(folder: Path) -> None:
    before = (folder / "a.jpg").read_bytes()
    result = run(folder, "--bundle", "nowhere", "--sheet", folder / "deep" / ".." / "a.jpg")
    assert result.exit_code == 2
    assert "is one of the frames" in result.stderr
    assert (folder / "a.jpg").read_bytes() == before


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["--csv", "out.html", "--report", "out.html"], "'out.html': is to hold two things"),
        (["--config", "frames.toml", "--csv", "frames.toml"], "'frames.toml': is read by this command"),
        (["--overlay", "frames.toml"], "'frames.toml': is a file, where a folder is asked for"),
        (["--report", "frames.toml"], "'frames.toml': is a file, where a folder is asked for"),
    ],
)
def test_no_two_things_go_to_one_place_and_none_over_what_is_read(
    words: list[str], problem: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("frames.toml").write_text("pixel_um = 0.1", encoding="utf-8")
    result = run("nowhere.png", "--bundle", "nowhere", *words)
    assert result.exit_code == 2
    assert problem in result.stderr
    assert [path.read_text(encoding="utf-8") for path in tmp_path.iterdir()] == ["pixel_um = 0.1"]


def test_frames_that_are_called_the_same_are_told_apart_by_their_folders(tmp_path: Path) -> None:
    apart = [tmp_path / "slide 1" / "001.png", tmp_path / "slide 1" / "002.png"]
    assert names_of([*apart, None]) == {apart[0]: "001.png", apart[1]: "002.png", None: "frame"}
    assert title_of(apart) == "slide 1: 2 frames"
    both = [*apart, tmp_path / "slide 2" / "001.png"]
    assert list(names_of(both).values())[1:] == ["slide 1/001.png", "slide 1/002.png", "slide 2/001.png"]
    assert title_of(both) == f"{tmp_path.name}: 3 frames"
    assert title_of(both[:1]) == "001.png"
    assert set(ReportWriter(OutputOptions(), both)._names.values()) == {"slide 1-001", "slide 1-002", "slide 2-001"}


def test_the_index_leads_to_the_page_of_a_frame_whatever_it_is_called(tmp_path: Path) -> None:
    audit, path = Audit("b" * 64, "e", "openvino", "CPU", "fp16", "f32"), Path("50 % #3.png")
    writer = ReportWriter(OutputOptions(report=tmp_path), [path])
    writer.add(FrameReport((), None, path=path), audit)
    writer.finish("a", audit)
    (link,) = re.findall(r'<a href="([^"]*)">50 % #3\.png</a>', (tmp_path / "index.html").read_text(encoding="utf-8"))
    assert (tmp_path / unquote(urlsplit(link).path)).is_file()


def test_a_report_is_one_page_only_by_its_name(tmp_path: Path) -> None:
    assert OutputOptions(report=tmp_path / "r.HTML").one_page
    assert not OutputOptions(report=tmp_path / "r").one_page
    assert not OutputOptions().one_page


def test_the_plain_install_examines_and_draws(folder: Path, tmp_path: Path) -> None:
    words = ["examine", folder / "a.jpg", "--overlay", "o", "--sheet", "s.png", "--report", "r.html", "--csv", "c.csv"]
    code = f"""
import sys
extras = ("torch", "timm", "onnx", "onnxruntime", "sklearn", "scipy", "skimage", "matplotlib", "zarr", "imagecodecs")
sys.modules.update(dict.fromkeys(extras))
from blastscope.cli import app
app({[str(word) for word in words]!r})
"""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert {path.name for path in tmp_path.iterdir() if path != folder} == {"o", "s.png", "r.html", "c.csv"}


def test_frames_of_one_folder_are_one_persons_where_that_is_said(bundle: Path, folder: Path) -> None:
    words = ["examine", str(folder), "--json", "--group-by", "folder", "--unlike-training", "call"]
    done = CliRunner().invoke(app, words)
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    smears = {row["smear"]: row for row in rows if "smear" in row}
    frames = [row for row in rows if "path" in row]
    assert set(smears) == {str(folder), str(folder / "deep")}
    for place, smear in smears.items():
        counts = [frame["counts"] for frame in frames if str(Path(frame["path"]).parent) == place]
        assert smear["cells"] == sum(count["all"] + count["hem"] for count in counts)
        assert smear["label"] is None
        assert "needs 10 called cells at least" in smear["detail"]
    refused = CliRunner().invoke(app, ["examine", str(folder), "--bundle", str(bundle), "--group-by", "frame"])
    assert refused.exit_code == 2
    assert "doesn't say how cells become a call on a person" in refused.stderr
