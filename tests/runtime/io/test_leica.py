"""Leica LIF files, written here as the microscope's program lays them out: read in pieces, in the right colours, or refused."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from leica_file import picture, write_blocks, write_lif

from blastscope.runtime.io.slides import leica
from blastscope.runtime.io.slides.leica import LeicaSlide
from blastscope.runtime.io.slides.slide import Slide, find_frames, open_slide, read_overview
from blastscope.runtime.types import Refusal

# no two of its colours are alike when red and blue change places
FIELD = np.kron(np.random.default_rng(7).integers(0, 256, (13, 21, 3), np.uint8), np.ones((8, 8, 1), np.uint8))
HEIGHT, WIDTH = FIELD.shape[:2]


def opened(path: Path) -> Slide:
    pytest.importorskip("liffile")
    slide = open_slide(path)
    assert not isinstance(slide, Refusal), slide
    return slide


def refused(path: Path) -> Refusal:
    pytest.importorskip("liffile")
    refusal = open_slide(path)
    assert isinstance(refusal, Refusal)
    return refusal


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("order", ["RGB", "BGR", "planes"])
def test_a_colour_picture_is_read_in_pieces_whatever_its_order(tmp_path: Path, order: str, version: int) -> None:
    path = write_lif(tmp_path / "a.lif", {"pixels": FIELD, "um": 0.0645, "order": order}, version=version)
    slide = opened(path)
    assert isinstance(slide, LeicaSlide)
    assert (slide.width, slide.height) == (WIDTH, HEIGHT)
    assert slide.pixel_um == pytest.approx(0.0645)
    assert slide.notes == ("0.0645 micrometres a pixel by the Leica description",)
    assert np.array_equal(slide.read((0, 0, WIDTH, HEIGHT)), FIELD)
    assert np.array_equal(slide.read((17, 5, 90, 101)), FIELD[5:101, 17:90])
    assert not slide.blank((0, 0, 9, 9))
    assert read_overview(slide, WIDTH // 4).shape == (HEIGHT // 4, WIDTH // 4, 3)
    slide.close()


def test_it_agrees_with_the_library_that_reads_it_whole(tmp_path: Path) -> None:
    liffile = pytest.importorskip("liffile")
    path = write_lif(tmp_path / "a.lif", {"pixels": FIELD})
    with liffile.LifFile(path) as file:
        wanted = file.images[0].asarray()
    slide = opened(path)
    assert np.array_equal(slide.read((0, 0, WIDTH, HEIGHT)), wanted)
    slide.close()


def test_rows_that_are_padded_are_read_where_they_lie(tmp_path: Path) -> None:
    odd = FIELD[:, :61]
    slide = opened(write_lif(tmp_path / "a.lif", {"pixels": odd, "row_bytes": 256}))
    assert np.array_equal(slide.read((0, 0, 61, HEIGHT)), odd)
    slide.close()


def test_many_threads_read_while_it_is_closed(tmp_path: Path) -> None:
    slide = opened(write_lif(tmp_path / "a.lif", {"pixels": FIELD}))
    found: list[Any] = []
    threads = [threading.Thread(target=lambda: found.append(slide.read((0, 0, WIDTH, HEIGHT)))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    slide.close()
    slide.close()
    assert all(np.array_equal(one, FIELD) for one in found)
    assert len(found) == 8


def test_a_folder_gives_its_lif_files(tmp_path: Path) -> None:
    write_lif(tmp_path / "a.lif", {"pixels": FIELD})
    assert find_frames([tmp_path]) == [tmp_path / "a.lif"]


WORDS: dict[str, tuple[dict[str, Any], str, str]] = {
    "stack": ({"pixels": FIELD, "planes": 3}, "undecodable", "a Leica stack or mosaic (Z: 3): merge it, or choose a plane"),
    "deep": ({"pixels": FIELD.astype(np.uint16), "bits": 12}, "not-8-bit-rgb", "3 channels of 12 bits in red, green and blue"),
    "gray": ({"pixels": FIELD[..., :1], "tags": (0,)}, "not-8-bit-rgb", "1 channels of 8 bits that aren't a colour camera's"),
    "dyes": ({"pixels": FIELD, "tags": (0, 0, 0), "order": "planes"}, "not-8-bit-rgb", "3 channels of 8 bits that aren't"),
    "claimed": (
        {"pixels": FIELD, "claimed": (WIDTH, HEIGHT + 1)},
        "undecodable",
        f"{WIDTH} x {HEIGHT + 1} pixels don't lie in",
    ),
    "vast": ({"pixels": FIELD, "claimed": (10**6, 10**6)}, "bomb", "1000000 x 1000000 pixels, more than"),
    "empty": ({"pixels": FIELD, "claimed": (0, HEIGHT)}, "undecodable", f"the header says 0 x {HEIGHT} pixels"),
}


@pytest.mark.parametrize("name", WORDS)
def test_what_is_no_colour_picture_is_refused_with_a_remedy(tmp_path: Path, name: str) -> None:
    words, code, told = WORDS[name]
    refusal = refused(write_lif(tmp_path / "a.lif", words))
    assert refusal.code == code
    assert told in refusal.detail


def test_several_pictures_are_to_be_exported_each(tmp_path: Path) -> None:
    refusal = refused(write_lif(tmp_path / "a.lif", {"pixels": FIELD}, {"pixels": FIELD}))
    assert refusal.detail == "a Leica LIF file of 2 pictures: export the ones that you mean as TIFF, each to a file of its own"


@pytest.mark.parametrize("kept", [14, 300, -1, -5000])
def test_a_file_that_breaks_off_is_refused(tmp_path: Path, kept: int) -> None:
    path = write_lif(tmp_path / "a.lif", {"pixels": FIELD})
    path.write_bytes(path.read_bytes()[:kept])
    refusal = refused(path)
    assert refusal.code == "undecodable"
    assert "damaged" in refusal.detail


def test_a_description_that_declares_entities_is_not_read(tmp_path: Path) -> None:
    element, block = picture(0, FIELD)
    xml = f'<!DOCTYPE a [<!ENTITY b "c">]><LMSDataContainerHeader Version="2">{element}</LMSDataContainerHeader>'
    refusal = refused(write_blocks(tmp_path / "a.lif", xml, (block,)))
    assert refusal.detail == "a Leica LIF file that is damaged, or of another kind: export the picture as TIFF"


@pytest.mark.parametrize(
    ("limit", "value", "told"), [("MOST_BLOCKS", 2, "more than 2 blocks"), ("MOST_XML", 99, "more than 99")]
)
def test_more_than_a_microscope_writes_is_a_bomb(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str, value: int, told: str
) -> None:
    monkeypatch.setattr(leica, limit, value)
    refusal = refused(write_lif(tmp_path / "a.lif", *[{"pixels": FIELD}] * 3))
    assert refusal.code == "bomb"
    assert told in refusal.detail


@pytest.mark.parametrize(("um", "note"), [(1.0, "isn't used"), (50.0, "")])
def test_a_scale_that_no_camera_has_is_not_taken(tmp_path: Path, um: float, note: str) -> None:
    slide = opened(write_lif(tmp_path / "a.lif", {"pixels": FIELD, "um": um}))
    assert slide.pixel_um is None
    assert note in "".join(slide.notes)
    slide.close()


def test_without_its_library_the_command_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leica, "find_spec", lambda _: None)
    refusal = open_slide(write_lif(tmp_path / "a.lif", {"pixels": FIELD}))
    assert isinstance(refusal, Refusal)
    assert refusal.detail == "a Leica LIF file, which is read by liffile: pip install 'blastscope[slides]'"
