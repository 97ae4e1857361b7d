#!/usr/bin/env bash
# wsidicom 0.36.1: tiles of a DICOM slide that lie elsewhere than side by side in a grid (TILED_SPARSE) are shown at the next place of one. Each lies wrong by up to
# its side, and of those that meet in a place one is shown and the others are gone. Nothing is said.
#
# Input: a slide of 48 x 36 pixels in six tiles of 16 x 16, uncompressed, whose rows begin at 4 and 20, as where a scanner's stage began there; the same with
# rows at 0 and 16; and tiles of one row that overlap by four pixels. DICOM PS3.3 C.7.6.17.3: only in a
# file that says TILED_FULL do frames lie side by side without overlap; in any other a reader goes by the position that each frame is given, and assumes none.
#
# Seen: with rows at 0 and 16 each tile is shown where the file says. With rows at 4 and 20 wsidicom shows all of them four pixels further up; frames that
# pydicom reads, laid out by numpy at their positions, are where they belong. Of tiles that begin at 0, 12 and 24 it shows the second at 0, in place of the first, and
# the third at 16. So cells are cut, lost, and found where they aren't. A program should look at the positions before it trusts the library, as OpenSlide
# 4.0.1 does, which refuses such files.
# Ends with 0 while that is so, and with 1 when it changes.
set -euo pipefail
place="$(mktemp -d)"
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/venv"
"$place/venv/bin/pip" install --quiet --disable-pip-version-check wsidicom==0.36.1 pydicom==3.0.2 numpy==2.4.6
cat > "$place/tiles.py" <<'PYTHON'
import sys
import warnings
from importlib.metadata import version
from pathlib import Path

import numpy as np
from pydicom import Dataset, dcmread
from pydicom.dataset import FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid
from wsidicom import WsiDicom

warnings.simplefilter("ignore")
SIDE, WIDTH, HEIGHT = 16, 48, 36
rows, columns = np.mgrid[:HEIGHT, :WIDTH]
SCENE = np.stack([5 * columns, 7 * rows, 0 * rows + 90], axis=2).astype(np.uint8)


def item(**values):
    made = Dataset()
    for name, value in values.items():
        setattr(made, name, value)
    return made


def write(path, corners):
    meta, light = FileMetaDataset(), {"CodeValue": "111744", "CodingSchemeDesignator": "DCM", "CodeMeaning": "Brightfield illumination"}
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    slide = item(SOPClassUID="1.2.840.10008.5.1.4.1.1.77.1.6", SOPInstanceUID=generate_uid(), Modality="SM")
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = slide.SOPClassUID, slide.SOPInstanceUID
    slide.file_meta = meta
    slide.StudyInstanceUID, slide.SeriesInstanceUID, slide.FrameOfReferenceUID = generate_uid(), generate_uid(), generate_uid()
    slide.InstanceNumber, slide.ImageType = 1, ["ORIGINAL", "PRIMARY", "VOLUME", "NONE"]
    slide.Rows = slide.Columns = SIDE
    slide.TotalPixelMatrixColumns, slide.TotalPixelMatrixRows, slide.TotalPixelMatrixFocalPlanes = WIDTH, HEIGHT, 1
    slide.NumberOfFrames, slide.NumberOfOpticalPaths, slide.DimensionOrganizationType = len(corners), 1, "TILED_SPARSE"
    slide.SamplesPerPixel, slide.PhotometricInterpretation, slide.PlanarConfiguration = 3, "RGB", 0
    slide.BitsAllocated, slide.BitsStored, slide.HighBit, slide.PixelRepresentation = 8, 8, 7, 0
    slide.ImagedVolumeWidth, slide.ImagedVolumeHeight, slide.ImagedVolumeDepth = 0.024, 0.018, 0.001
    slide.FocusMethod, slide.ExtendedDepthOfField, slide.VolumetricProperties = "AUTO", "NO", "VOLUME"
    slide.SpecimenLabelInImage, slide.BurnedInAnnotation, slide.LossyImageCompression = "NO", "NO", "00"
    slide.ImageOrientationSlide = [0, -1, 0, -1, 0, 0]
    slide.TotalPixelMatrixOriginSequence = [item(XOffsetInSlideCoordinateSystem=0, YOffsetInSlideCoordinateSystem=0)]
    slide.OpticalPathSequence = [item(OpticalPathIdentifier="1", IlluminationTypeCodeSequence=[item(**light)])]
    measures = item(PixelSpacing=[0.0005, 0.0005], SliceThickness=0.001)
    used = [item(OpticalPathIdentifier="1")]
    slide.SharedFunctionalGroupsSequence = [item(PixelMeasuresSequence=[measures], OpticalPathIdentificationSequence=used)]
    organisation = generate_uid()
    slide.DimensionOrganizationSequence = [item(DimensionOrganizationUID=organisation)]
    pointers = [item(DimensionOrganizationUID=organisation, DimensionIndexPointer=tag, FunctionalGroupPointer=0x0048021A) for tag in (0x0048021E, 0x0048021F)]
    slide.DimensionIndexSequence = pointers
    zero = {f"{axis}OffsetInSlideCoordinateSystem": 0 for axis in "XYZ"}
    slide.PerFrameFunctionalGroupsSequence = [
        item(
            FrameContentSequence=[item(DimensionIndexValues=[x + 1, y + 1])],
            PlanePositionSlideSequence=[
                item(ColumnPositionInTotalImagePixelMatrix=x + 1, RowPositionInTotalImagePixelMatrix=y + 1, **zero)
            ],
        )
        for x, y in corners
    ]
    slide.PixelData = b"".join(SCENE[y : y + SIDE, x : x + SIDE].tobytes() for x, y in corners)
    slide.save_as(path, enforce_file_format=True)


def by_position(path, frame):
    """The picture with this frame alone, at the place that pydicom reads beside it."""
    slide = dcmread(path)
    position = slide.PerFrameFunctionalGroupsSequence[frame].PlanePositionSlideSequence[0]
    x, y = position.ColumnPositionInTotalImagePixelMatrix - 1, position.RowPositionInTotalImagePixelMatrix - 1
    shown = np.zeros_like(SCENE)
    shown[y : y + SIDE, x : x + SIDE] = slide.pixel_array[frame]
    return shown


def begins_at(shown, x, y):
    """Where in the picture the tile that was cut out at (x, y) is seen, whole; None where it isn't."""
    tile = SCENE[y : y + SIDE, x : x + SIDE]
    for row in range(HEIGHT - SIDE + 1):
        for column in range(WIDTH - SIDE + 1):
            if np.array_equal(shown[row : row + SIDE, column : column + SIDE], tile):
                return column, row
    return None


CASES = {
    "rows at 0 and 16": [(x, y) for y in (0, 16) for x in (0, 16, 32)],
    "rows at 4 and 20": [(x, y) for y in (4, 20) for x in (0, 16, 32)],
    "columns at 0, 12 and 24": [(x, 0) for x in (0, 12, 24)],
}
EXPECTED = {
    "rows at 0 and 16": CASES["rows at 0 and 16"],
    "rows at 4 and 20": CASES["rows at 0 and 16"],
    "columns at 0, 12 and 24": [None, (0, 0), (16, 0)],
}
print("wsidicom", version("wsidicom"), "pydicom", version("pydicom"))
as_expected = True
for number, (name, corners) in enumerate(CASES.items()):
    path = Path(sys.argv[1]) / f"{number}.dcm"
    write(path, corners)
    with WsiDicom.open([path]) as slide:
        shown = np.asarray(slide.read_region((0, 0), 0, (WIDTH, HEIGHT)))
    found = [begins_at(shown, *corner) for corner in corners]
    print(f"{name}:\n  the file says   {corners}\n  wsidicom shows  {found}")
    as_expected &= found == EXPECTED[name]
    as_expected &= [begins_at(by_position(path, frame), *corner) for frame, corner in enumerate(corners)] == corners
sys.exit(0 if as_expected else 1)
PYTHON
"$place/venv/bin/python" "$place/tiles.py" "$place"
