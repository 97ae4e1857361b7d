"""`VendorSlide`: a slide in a scanner's own format, read by OpenSlide (the extra `slides`)."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from blastscope.runtime.io.slides.budget import MOST_PIXELS
from blastscope.runtime.io.slides.pixel_size_metadata import PixelSize, checked, first_usable
from blastscope.runtime.io.slides.tile_table import CACHE_BYTES, refuse
from blastscope.runtime.types import Box

if TYPE_CHECKING:
    from PIL import Image

EMPTY_GLASS = (255, 255, 255)
SPARSE = {"mirax", "philips"}  # scanners that leave out most of what is glass, without a list of it that could be asked for


def has_openslide() -> bool:
    """Whether OpenSlide is installed."""
    return find_spec("openslide") is not None


class VendorLevel:
    """A smaller copy of a `VendorSlide`."""

    def __init__(self, slide: VendorSlide, number: int, step: float) -> None:
        self._slide, self._number, self._step = slide, number, step
        self.width, self.height = max(int(slide.width / step), 1), max(int(slide.height / step), 1)

    def read(self, box: Box) -> NDArray[np.uint8]:
        """The pixels (h, w, 3) of `box`. Raises `ReadError`."""
        return self._slide.read_level(self._number, box, self._step)


class VendorSlide:
    """A `Slide` of the file `path`, within the bounds of what was scanned.

    `name` is what a refusal calls the format, `stated` the scale that the file says where OpenSlide finds none. Raises
    `ReadError`, also where OpenSlide isn't installed.
    """

    def __init__(self, path: Path, name: str, stated: PixelSize | None = None) -> None:
        missing = refuse("undecodable", f"{name}, which is read by OpenSlide: pip install 'blastscope[slides]'")
        if not has_openslide():
            raise missing
        try:
            import openslide
        except (ImportError, OSError) as error:  # its Python part alone, without the library
            raise missing from error
        self._errors = openslide.OpenSlideError
        try:
            self._slide = openslide.OpenSlide(path)
        except self._errors as error:
            raise refuse("undecodable", f"{name} that OpenSlide doesn't read: {error}") from error
        try:
            self._describe(stated)
        except BaseException:
            self._slide.close()
            raise
        self._slide.set_cache(openslide.OpenSlideCache(CACHE_BYTES))

    def _describe(self, stated: PixelSize | None) -> None:
        properties, (width, height) = self._slide.properties, self._slide.dimensions
        # a slide is larger than what was scanned of it: around it nothing is stored
        left, top, wide, high = (properties.get(f"openslide.bounds-{side}") for side in ("x", "y", "width", "height"))
        self._corner = int(left or 0), int(top or 0)
        self.width = int(wide) if wide else width - self._corner[0]
        self.height = int(high) if high else height - self._corner[1]
        if self.width < 1 or self.height < 1:
            raise refuse("undecodable", f"the slide says {self.width} x {self.height} pixels")
        if self.width * self.height > MOST_PIXELS:
            raise refuse("bomb", f"{self.width} x {self.height} pixels, more than {MOST_PIXELS}")
        self._areas = tuple(self._scanned_areas())
        steps = self._slide.level_downsamples
        self.reduced = tuple(VendorLevel(self, number, step) for number, step in enumerate(steps) if number)
        across, down = (_number(properties.get(f"openslide.mpp-{axis}")) for axis in "xy")
        scale = first_usable(checked(across, down, "the scanner's description"), stated)
        self.pixel_um = scale.pixel_um if scale else None
        vendor = properties.get("openslide.vendor", "unknown")
        self._sparse = vendor in SPARSE
        what = f"read: by OpenSlide, a slide of the vendor {vendor}, {self.width} x {self.height} pixels"
        self.notes = tuple(filter(None, (what, scale.note if scale else "")))

    def _scanned_areas(self) -> Iterator[Box]:
        """What was scanned, where the file tells it; between the areas nothing is stored."""
        properties, (left, top), number = self._slide.properties, self._corner, 0
        while f"openslide.region[{number}].x" in properties:
            x, y, width, height = (
                int(properties[f"openslide.region[{number}].{side}"]) for side in ("x", "y", "width", "height")
            )
            yield x - left, y - top, x - left + width, y - top + height
            number += 1

    def read(self, box: Box) -> NDArray[np.uint8]:
        """See `Slide`."""
        return self.read_level(0, box, 1.0)

    def read_level(self, level: int, box: Box, step: float) -> NDArray[np.uint8]:
        """The pixels (h, w, 3) of `box`, in pixels of a level whose pixels are `step` of the slide's. Raises `ReadError`."""
        from PIL import Image

        region = self._region(level, box, step)
        pixels = np.asarray(region)
        if (pixels[..., 3] == 255).all():
            return np.ascontiguousarray(pixels[..., :3])
        shown = Image.new("RGB", region.size, EMPTY_GLASS)  # nothing is stored where it is transparent
        shown.paste(region, mask=region)
        return np.asarray(shown)

    def _region(self, level: int, box: Box, step: float) -> Image.Image:
        place = (self._corner[0] + round(box[0] * step), self._corner[1] + round(box[1] * step))
        try:
            region: Image.Image = self._slide.read_region(place, level, (box[2] - box[0], box[3] - box[1]))
        except self._errors as error:
            raise refuse("undecodable", f"a piece of the slide is damaged: {error}") from error
        return region

    def blank(self, box: Box) -> bool:
        """See `Slide`."""
        if self._areas:
            return not any(_meet(box, area) for area in self._areas)
        return self._sparse and not np.asarray(self._region(0, box, 1.0))[..., 3].any()

    def close(self) -> None:
        """See `Slide`."""
        self._slide.close()


def _meet(one: Box, other: Box) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def _number(text: str | None) -> float | None:
    try:
        return float(text) if text else None
    except ValueError:
        return None
