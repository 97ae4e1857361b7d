"""Micrometres a pixel, as scanners, ImageJ and OME write them."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
import tifffile
from stream_layouts import PLAIN

from blastscope.runtime.io.slides.metadata import UNITS, first_usable, from_ome, from_philips, from_text, plausible_pixel_size
from blastscope.runtime.io.slides.slide import open_slide
from blastscope.runtime.types import Refusal


def scale_in(path: Path) -> tuple[float | None, str]:
    slide = open_slide(path)
    assert not isinstance(slide, Refusal), slide
    slide.close()
    return slide.pixel_um, " ".join(slide.notes)


def imagej(unit: str, density: float) -> dict[str, Any]:
    return {"imagej": True, "resolution": (density, density), "metadata": {"unit": unit}}


SAID: dict[str, tuple[dict[str, Any], float | None]] = {
    "Aperio's text": ({"description": "Aperio Image Library v12|AppMag = 40|MPP = 0.2521"}, 0.2521),
    "a decimal comma": ({"description": "Aperio Image Library v11.2.1\r\n9x9 |AppMag = 40|MPP = 0,073400"}, 0.0734),
    "a resolution in millimetres": ({"resolution": (4000, 4000), "resolutionunit": "MILLIMETER"}, 0.25),
    "a resolution in micrometres": ({"resolution": (4, 4), "resolutionunit": "MICROMETER"}, 0.25),
    "Trestle's": ({"resolution": ((1, 4), (1, 4)), "resolutionunit": "NONE", "software": "MedScan"}, 0.25),
    "no unit and no Trestle": ({"resolution": ((1, 4), (1, 4)), "resolutionunit": "NONE", "software": "other"}, None),
    "ImageJ's nanometers": (imagej("nanometer", 0.004), 0.25),
    "ImageJ's millimeters": (imagej("millimeters", 4000), 0.25),
    "ImageJ's Microns": (imagej("Microns", 4), 0.25),
    "ImageJ's micrometre": (imagej("micrometre", 4), 0.25),
    "exactly 1 by ImageJ": (imagej("micron", 1), None),
    "exactly 1 by tags": ({"resolution": (10_000, 10_000), "resolutionunit": "CENTIMETER"}, None),
    "exactly 1 by Aperio's text": ({"description": "Aperio Image Library v12|MPP = 1.0"}, None),
    "just beside 1": ({"resolution": (10_001, 10_001), "resolutionunit": "CENTIMETER"}, 10_000 / 10_001),
}


@pytest.mark.parametrize("case", SAID)
def test_the_scale_is_read_as_it_is_written(tmp_path: Path, case: str) -> None:
    options, pixel_um = SAID[case]
    words = {} if "imagej" in options else {"metadata": None}
    tifffile.imwrite(tmp_path / "a.tif", PLAIN, photometric="rgb", **{**words, **options})
    found, notes = scale_in(tmp_path / "a.tif")
    assert found == (pytest.approx(pixel_um) if pixel_um else None)
    assert ("exactly 1 micrometre a pixel" in notes) == case.startswith("exactly 1")


@pytest.mark.parametrize(
    ("unit", "value"),
    [("in", 0.25 / 25400), ("thou", 0.25 / 25.4), ("nm", 250.0), ("Å", 2500.0), ("dm", 0.25e-5), ("yd", 0.25 / 914400)],
)
def test_every_unit_of_ome_is_known(unit: str, value: float) -> None:
    pixels = ElementTree.Element("Pixels", PhysicalSizeX=repr(value), PhysicalSizeXUnit=unit)
    found = from_ome(pixels)
    assert found
    assert found.pixel_um == pytest.approx(0.25)
    assert unit in UNITS


def test_an_ome_tiff_whose_scale_nobody_set_says_none(tmp_path: Path) -> None:
    sizes = {"PhysicalSizeX": 1.0, "PhysicalSizeY": 1.0, "PhysicalSizeXUnit": "µm", "PhysicalSizeYUnit": "µm"}
    tifffile.imwrite(tmp_path / "a.ome.tif", PLAIN, photometric="rgb", metadata={"axes": "YXS", **sizes})
    found, notes = scale_in(tmp_path / "a.ome.tif")
    assert found is None
    assert "OME-XML says exactly 1 micrometre a pixel, as programs write it where the scale isn't known" in notes


def test_what_can_be_used_goes_before_what_cannot() -> None:
    nothing, odd, right = None, plausible_pixel_size(1.0, 1.0, "A"), plausible_pixel_size(0.25, 0.25, "B")
    assert first_usable(nothing, odd, right) == right
    assert first_usable(nothing, odd) == odd
    assert first_usable(nothing) is None


PHILIPS = (
    '<?xml version="1.0" encoding="UTF-8" ?><DataObject ObjectType="DPUfsImport">'
    '<Attribute Name="PIM_DP_SCANNED_IMAGES"><Array>'
    '<DataObject ObjectType="DPScannedImage"><Attribute Name="PIM_DP_IMAGE_TYPE">MACROIMAGE</Attribute>'
    '<Attribute Name="DICOM_PIXEL_SPACING">&quot;0.0315&quot; &quot;0.0315&quot;</Attribute></DataObject>'
    '<DataObject ObjectType="DPScannedImage"><Attribute Name="PIM_DP_IMAGE_TYPE">WSI</Attribute>'
    '<Attribute Name="DICOM_PIXEL_SPACING">&quot;{0}&quot; &quot;{1}&quot;</Attribute>'
    '<Attribute Name="PIIM_PIXEL_DATA_REPRESENTATION_SEQUENCE"><Array><DataObject ObjectType="PixelDataRepresentation">'
    '<Attribute Name="DICOM_PIXEL_SPACING">&quot;0.002&quot; &quot;0.002&quot;</Attribute></DataObject></Array></Attribute>'
    "</DataObject></Array></Attribute></DataObject>"
)


def test_philips_spacing_is_that_of_the_slide_in_millimetres(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tiff", PLAIN, photometric="rgb", metadata=None, description=PHILIPS.format(0.00025, 0.00025))
    assert scale_in(tmp_path / "a.tiff")[0] == pytest.approx(0.25)
    uneven = from_philips(PHILIPS.format(0.00025, 0.0005))
    assert uneven
    assert "0.5 x 0.25 micrometres a pixel: not square" in uneven.note
    assert from_philips("DICOM_PIXEL_SPACING and no XML") is None
    assert from_philips('<!DOCTYPE a [<!ENTITY b "c">]>' + PHILIPS.format(0.00025, 0.00025)[55:]) is None


@pytest.mark.parametrize("text", ["", "MPP = ", "MPP = x", "MPP = ,", "xMPP = 0.25", "MPP = 900", "MPP = 0"])
def test_text_without_a_scale_says_none(text: str) -> None:
    assert from_text(text) is None


def test_the_scale_is_that_of_the_pages_own_image(tmp_path: Path) -> None:
    """A description that belongs to the file stands on its first page, of whichever image that is."""
    with tifffile.TiffWriter(tmp_path / "a.tif") as tiff:
        small = np.ascontiguousarray(PLAIN[::4, ::4])
        tiff.write(small, photometric="rgb", subfiletype=1, description="Aperio|MPP = 0.25", metadata=None)
        tiff.write(PLAIN, photometric="rgb", metadata=None)
    assert scale_in(tmp_path / "a.tif")[0] == pytest.approx(0.25)
