#!/usr/bin/env bash
# OpenCV 5.0.0 (opencv-python-headless 5.0.0.93): reading a TIFF with unassociated alpha multiplies red, green and blue by the alpha. The same picture
# as PNG keeps its colours, and so does a TIFF whose alpha is marked as associated, where the file's colours are multiplied by definition.
#
# Input: one even colour, (200, 120, 40), with alpha 128 everywhere, 8 bits, uncompressed, by tifffile 2026.3.3 (ExtraSamples 2), by Pillow 13.0.0 as PNG.
# TIFF 6.0 on ExtraSamples 2: unassociated alpha is a soft matte that stands beside the colours; they aren't multiplied by it. IMREAD_UNCHANGED promises
# to "return the loaded image as is (with alpha channel)".
#
# Seen: OpenCV gives (100, 60, 20) for the TIFF, with IMREAD_UNCHANGED as with IMREAD_COLOR, and (200, 120, 40) for the PNG; Pillow and tifffile give
# (200, 120, 40) for both. Ends with 0 while that is so, and with 1 when it changes.
set -euo pipefail
place="$(mktemp -d)"
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/venv"
"$place/venv/bin/pip" install --quiet --disable-pip-version-check opencv-python-headless==5.0.0.93 tifffile==2026.3.3 pillow==13.0.0 numpy==2.4.6
cat > "$place/alpha.py" <<'PYTHON'
import sys
from pathlib import Path

import cv2
import numpy as np
import PIL
import tifffile
from PIL import Image

COLOUR, ALPHA = (200, 120, 40), 128
folder = Path(sys.argv[1])
picture = np.full((32, 48, 4), (*COLOUR, ALPHA), np.uint8)
tifffile.imwrite(folder / "beside.tif", picture, photometric="rgb", extrasamples=["unassalpha"], metadata=None)
tifffile.imwrite(folder / "within.tif", picture, photometric="rgb", extrasamples=["assocalpha"], metadata=None)
Image.fromarray(picture).save(folder / "beside.png")


def colour(pixels, *, reversed_order=False):
    (found,) = np.unique(pixels[..., :3].reshape(-1, 3), axis=0).tolist()
    return tuple(found[::-1] if reversed_order else found)


def in_opencv(name, flag):
    return colour(cv2.imread(str(folder / name), flag), reversed_order=True)


found = {
    "TIFF, tifffile": colour(tifffile.imread(folder / "beside.tif")),
    "TIFF, Pillow": colour(np.asarray(Image.open(folder / "beside.tif"))),
    "PNG, Pillow": colour(np.asarray(Image.open(folder / "beside.png"))),
    "PNG, OpenCV unchanged": in_opencv("beside.png", cv2.IMREAD_UNCHANGED),
    "PNG, OpenCV colour": in_opencv("beside.png", cv2.IMREAD_COLOR),
    "TIFF with associated alpha, OpenCV unchanged": in_opencv("within.tif", cv2.IMREAD_UNCHANGED),
    "TIFF, OpenCV unchanged": in_opencv("beside.tif", cv2.IMREAD_UNCHANGED),
    "TIFF, OpenCV colour": in_opencv("beside.tif", cv2.IMREAD_COLOR),
}
print("opencv", cv2.__version__, "tifffile", tifffile.__version__, "pillow", PIL.__version__)
for how, values in found.items():
    print(f"{how:45} {values}")
dark = tuple(value * ALPHA // 255 for value in COLOUR)
wrong = {how for how, values in found.items() if values != COLOUR}
near = all(max(abs(one - other) for one, other in zip(found[how], dark)) <= 1 for how in wrong)
sys.exit(0 if wrong == {"TIFF, OpenCV unchanged", "TIFF, OpenCV colour"} and near else 1)
PYTHON
"$place/venv/bin/python" "$place/alpha.py" "$place"
