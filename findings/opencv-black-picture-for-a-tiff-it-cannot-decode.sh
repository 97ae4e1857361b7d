#!/usr/bin/env bash
# OpenCV 5.0.0 (opencv-python-headless 5.0.0.93): imread and imdecode give a black picture, and neither None nor an error, for a valid TIFF whose pixels are in
# JPEG 2000, JPEG XL, JPEG XR or PNG. For other codecs that it doesn't know (Zstandard, LZMA, LERC) they give None, as documented.
#
# Input: a drawn picture of 96 x 64, written losslessly by tifffile 2026.3.3, with strips and with tiles; tifffile reads each back to the byte. TIFFs in
# JPEG 2000 are what slide scanners write (compression 33003, 33005 and 34712). OpenCV's documentation of imread: "if the image cannot be read ... the
# function returns an empty matrix".
#
# Seen: shape and type are right, and every value is 0. A program that tests for None takes the black for pixels.
# Ends with 0 while that is so, and with 1 when it changes.
set -euo pipefail
place="$(mktemp -d)"
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/venv"
"$place/venv/bin/pip" install --quiet --disable-pip-version-check opencv-python-headless==5.0.0.93 tifffile==2026.3.3 imagecodecs==2026.3.6 numpy==2.4.6
cat > "$place/codecs.py" <<'PYTHON'
import sys

import cv2
import numpy as np
import tifffile

cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
rows, columns = np.mgrid[:64, :96]
picture = np.stack([40 + 2 * columns, 60 + 3 * rows, 255 - rows - columns], axis=2).astype(np.uint8)
BLACK = ("jpeg2000", "aperio_jp2000_rgb", "aperio_jp2000_ycbc", "jpegxl", "jpegxr", "png")
NONE = ("zstd", "lzma", "lerc")
READ = ("lzw", "deflate", "packbits")


def seen(codec, tile):
    tifffile.imwrite(sys.argv[1], picture, photometric="rgb", compression=codec, tile=tile, metadata=None)
    assert np.array_equal(tifffile.imread(sys.argv[1]), picture), f"{codec} isn't lossless"
    with open(sys.argv[1], "rb") as file:
        found = cv2.imread(sys.argv[1], cv2.IMREAD_COLOR), cv2.imdecode(np.frombuffer(file.read(), np.uint8), cv2.IMREAD_COLOR)
    if all(one is None for one in found):
        return "None"
    if any(one is None or one.shape != picture.shape for one in found):
        return "something else"
    if all(not one.any() for one in found):
        return "black"
    return "the picture" if all(np.array_equal(one[..., ::-1], picture) for one in found) else "something else"


print("opencv", cv2.__version__, "tifffile", tifffile.__version__)
as_expected = True
for expected, codecs in (("the picture", READ), ("None", NONE), ("black", BLACK)):
    for codec in codecs:
        found = {seen(codec, tile) for tile in (None, (32, 32))}
        print(f"{codec:20} opencv gives: {', '.join(sorted(found))}")
        as_expected &= found == {expected}
sys.exit(0 if as_expected else 1)
PYTHON
"$place/venv/bin/python" "$place/codecs.py" "$place/picture.tif"
