"""Formats of scanners and phones, read by libraries of the extra `slides`: OpenSlide, pylibCZIrw and pillow-heif.

`VendorSlide` is what OpenSlide reads; `CziSlide` a Zeiss slide (.czi), read region by region: mosaics, scenes, pyramids;
`HeifSlide` a photograph in HEIF (a phone's .heic), decoded when it is first read.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from blastscope.runtime.io.slides.budget import MOST_PIXELS, ReadBudget
from blastscope.runtime.io.slides.metadata import PixelSize, first_usable, plausible_pixel_size
from blastscope.runtime.io.slides.tile_table import CACHE_BYTES, refuse
from blastscope.runtime.types import Box

if TYPE_CHECKING:
    from PIL import Image


from io import BytesIO

from blastscope.runtime.io.image_decode import OPAQUE, read_content
from blastscope.runtime.io.image_header import MAX_PIXELS
from blastscope.runtime.io.slides.tiff_codec import ReadError
from blastscope.runtime.types import Refusal

EMPTY_GLASS = (255, 255, 255)
SPARSE = {"mirax", "philips"}  # scanners that leave out most of what is glass, without a list of it that could be asked for
RGB_PIXELS = "Bgr24"  # blue comes first, in the file and in what the library gives
DEPTHS = ("Z", "T", "C", "R", "I", "H", "V", "B")  # dimensions of which a single picture has one place each
WHITE = (1.0, 1.0, 1.0)  # where no piece of the mosaic lies
LEAST_LEVEL_PX = 512
HEIF = "a HEIF photograph"


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
        scale = first_usable(plausible_pixel_size(across, down, "the scanner's description"), stated)
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


def has_czi() -> bool:
    """Whether pylibCZIrw is installed."""
    return find_spec("pylibCZIrw") is not None


class CziLevel:
    """The slide, in smaller pixels by a whole factor."""

    def __init__(self, slide: CziSlide, factor: int) -> None:
        self._slide, self._factor = slide, factor
        self.width, self.height = max(slide.width // factor, 1), max(slide.height // factor, 1)

    def read(self, box: Box) -> NDArray[np.uint8]:
        """The pixels (h, w, 3) of `box`. Raises `ReadError`."""
        return self._slide.read_reduced(box, self._factor)


class CziSlide:
    """A `Slide` of the file `path`. Raises `ReadError` where it shows no single 8-bit RGB picture, or the library is missing.

    All scenes lie in one frame, where they lay on the slide. Between them, and where the mosaic has a gap, is white glass.
    """

    def __init__(self, path: Path) -> None:
        if not has_czi():
            raise refuse("undecodable", "a Zeiss slide (.czi), which is read by pylibCZIrw: pip install 'blastscope[slides]'")
        from pylibCZIrw import czi

        self._lock = threading.Lock()
        with ExitStack() as opened:
            try:
                cache = czi.CacheOptions(type=czi.CacheType.Standard, max_memory_usage=CACHE_BYTES)
                self._file = opened.enter_context(czi.open_czi(str(path), cache_options=cache))
            except RuntimeError as error:
                raise refuse("undecodable", f"a Zeiss slide (.czi) that is damaged: {error}") from error
            self._describe()
            self._opened = opened.pop_all()

    def _describe(self) -> None:
        sides, kinds = self._file.total_bounding_box, set(self._file.pixel_types.values())
        deep = {name: sides[name][1] - sides[name][0] for name in DEPTHS if name in sides}
        if stacked := [f"{name}: {count}" for name, count in deep.items() if count > 1]:
            remedy = "export one picture of it as CZI or OME-TIFF"
            raise refuse("undecodable", f"a Zeiss stack ({', '.join(stacked)}): {remedy}")
        if kinds != {RGB_PIXELS}:
            found = ", ".join(sorted(kinds)) or "no"
            raise refuse("not-8-bit-rgb", f"a Zeiss slide of {found} pixels; it is not converted: save it as 8-bit RGB")
        whole = self._file.total_bounding_rectangle_no_pyramid
        self._corner, self.width, self.height = (whole.x, whole.y), whole.w, whole.h
        self._budget = ReadBudget(self.width, self.height)
        pieces, coarsest = self._stored()
        self._pieces = np.asarray(pieces, np.int64).reshape(-1, 4)
        factors = [2**step for step in range(1, 16) if 2**step <= coarsest]
        self.reduced = tuple(
            CziLevel(self, factor) for factor in factors if max(self.width, self.height) // factor >= LEAST_LEVEL_PX
        )
        scale = self._scale()
        self.pixel_um = scale.pixel_um if scale else None
        scenes = len(self._file.scenes_bounding_rectangle)
        several = f"read: {scenes} scenes in one frame, as they lie on the slide" if scenes > 1 else ""
        self.notes = tuple(filter(None, (several, scale.note if scale else "")))

    def _stored(self) -> tuple[list[Box], float]:
        """The boxes of the pieces of full resolution, and how much smaller the smallest stored copy is."""
        boxes: list[Box] = []
        coarsest = 1.0

        def take(_: int, piece: Any) -> bool:
            nonlocal coarsest
            place, size = piece.logicalRect, piece.physicalSize
            if place.w <= size.w:
                x, y = place.x - self._corner[0], place.y - self._corner[1]
                boxes.append((x, y, x + place.w, y + place.h))
                self._budget.check_layout(len(boxes), size.w, size.h, 3 * size.w * size.h)
            else:
                coarsest = max(coarsest, place.w / size.w)
            return True

        self._file.enumerate_subblocks(take)
        return boxes, coarsest

    def _scale(self) -> PixelSize | None:
        """The size of a pixel, which stands in metres."""
        about = self._file.metadata
        for name in ("ImageDocument", "Metadata", "Scaling", "Items"):
            about = (about or {}).get(name) or {}
        found = about.get("Distance") or []
        sizes = {one.get("@Id"): one.get("Value") for one in (found if isinstance(found, list) else [found])}
        try:
            across, down = (float(sizes[axis] or "nan") * 1e6 for axis in "XY")
        except (KeyError, ValueError):
            return None
        return plausible_pixel_size(across, down, "the Zeiss metadata")

    def read(self, box: Box) -> NDArray[np.uint8]:
        """See `Slide`."""
        return self.read_reduced(box, 1)

    def read_reduced(self, box: Box, factor: int) -> NDArray[np.uint8]:
        """The pixels (h, w, 3) of `box`, in pixels of `factor` of the slide's. Raises `ReadError`."""
        (left, top), width, height = self._corner, box[2] - box[0], box[3] - box[1]
        place = (left + box[0] * factor, top + box[1] * factor, width * factor, height * factor)
        with self._lock, self._budget.decoding(3 * width * height):
            try:
                pixels = self._file.read(roi=place, zoom=1 / factor, background_pixel=WHITE)
            except RuntimeError as error:
                raise refuse("undecodable", f"a piece of the slide is damaged: {error}") from error
        if pixels.shape != (height, width, 3) or pixels.dtype != np.uint8:
            raise refuse("undecodable", f"a piece of the slide holds {pixels.shape}, not {width} x {height} pixels")
        return np.ascontiguousarray(pixels[..., ::-1])

    def blank(self, box: Box) -> bool:
        """See `Slide`."""
        x0, y0, x1, y1 = self._pieces.T
        return not bool(((x0 < box[2]) & (box[0] < x1) & (y0 < box[3]) & (box[1] < y1)).any())

    def close(self) -> None:
        """See `Slide`."""
        with self._lock:
            self._opened.close()


class HeifSlide:
    """A `Slide` of the file `path`. The picture is upright: its own rotation is part of decoding, an EXIF one doesn't count.

    Raises `ReadError` for several pictures, more than 8 bits, gray, and where the library is missing.
    """

    pixel_um: float | None = None
    reduced = ()

    def __init__(self, path: Path) -> None:
        if find_spec("pillow_heif") is None:
            raise refuse("undecodable", f"{HEIF}, which is read by pillow-heif: pip install 'blastscope[slides]'")
        import pillow_heif

        content = read_content(path)
        if isinstance(content, Refusal):
            raise ReadError(content)
        try:
            self._heif = pillow_heif.open_heif(BytesIO(content), convert_hdr_to_8bit=False)
            (self.width, self.height), bits = self._heif.size, self._heif.info["bit_depth"]
        except (ValueError, SyntaxError, RuntimeError, EOFError, OSError) as error:
            raise refuse("undecodable", f"{HEIF} that is damaged: {error}") from error
        if self.width * self.height > MAX_PIXELS:
            raise refuse("bomb", f"{self.width} x {self.height} pixels, more than {MAX_PIXELS}")
        if len(self._heif) != 1:
            raise refuse("undecodable", f"{HEIF} of {len(self._heif)} images: give each image a file of its own")
        if bits != 8 or self._heif.mode not in ("RGB", "RGBA"):
            found = f"{HEIF} of {bits}-bit {self._heif.mode.partition(';')[0]} pixels"
            raise refuse("not-8-bit-rgb", f"{found}; it is not converted: save it as 8-bit RGB")
        dropped = "its alpha channel, which is opaque everywhere, is dropped" if self._heif.has_alpha else ""
        self.notes = tuple(filter(None, (dropped,)))
        self._frame: NDArray[np.uint8] | None = None
        self._decoding = threading.Lock()

    def read(self, box: Box) -> NDArray[np.uint8]:
        """See `Slide`."""
        with self._decoding:
            if self._frame is None:
                self._frame = self._decoded()
        return self._frame[box[1] : box[3], box[0] : box[2]]

    def _decoded(self) -> NDArray[np.uint8]:
        try:
            pixels = np.asarray(self._heif)
        except (ValueError, SyntaxError, RuntimeError, EOFError, OSError) as error:
            raise refuse("undecodable", f"the photograph's pixels are damaged: {error}") from error
        if pixels.dtype != np.uint8 or pixels.shape[:2] != (self.height, self.width):
            raise refuse("undecodable", f"the header says {self.width} x {self.height} pixels, the file holds {pixels.shape}")
        if pixels.shape[2] == 4 and not (pixels[..., 3] == OPAQUE).all():
            raise refuse("not-8-bit-rgb", "its alpha isn't opaque everywhere; it is not converted: save it as 8-bit RGB")
        return np.ascontiguousarray(pixels[..., :3])

    def blank(self, box: Box) -> bool:
        """See `Slide`."""
        return False

    def close(self) -> None:
        """See `Slide`."""
