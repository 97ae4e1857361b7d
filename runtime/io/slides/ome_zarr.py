"""`ZarrSlide`: an OME-Zarr image read chunk by chunk, with zarr (the extra `zarr`)."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from blastscope.runtime.errors import MissingLibrary
from blastscope.runtime.io.slides.budget import ReadBudget
from blastscope.runtime.io.slides.container import ZARR_METADATA
from blastscope.runtime.io.slides.metadata import UNITS, PixelSize, plausible_pixel_size
from blastscope.runtime.io.slides.tiff_codec import ReadError
from blastscope.runtime.types import Box, Refusal, RefusalCode

if TYPE_CHECKING:
    import zarr

LENGTHS = {**UNITS, "micrometer": 1.0, "micron": 1.0, "nanometer": 1e-3, "millimeter": 1e3, "angstrom": 1e-4}
RED_GREEN_BLUE = ("FF0000", "00FF00", "0000FF")
MOST_LEVELS, MOST_NAMED = 64, 9
PORTION_BYTES, PORTION_CHUNKS = 1 << 26, 4096  # that are decoded at once


def _refuse(code: RefusalCode, detail: str) -> ReadError:
    return ReadError(Refusal(code, detail))


class PyramidLevel:
    """One resolution of an image. Many threads may read."""

    def __init__(self, array: zarr.Array[Any], axes: list[str], folder: Path, budget: ReadBudget) -> None:
        from blastscope.runtime.io.slides.zarr_limits import limit_chunks

        self._array, self._axes, self._folder, self._budget = limit_chunks(array), axes, folder / array.path, budget
        self.height, self.width = (array.shape[axes.index(axis)] for axis in "yx")
        self._rows, self._columns = (array.chunks[axes.index(axis)] for axis in "yx")
        self._chunk_bytes = math.prod(array.chunks)
        self._deep = math.prod(array.cdata_shape[at] for at, axis in enumerate(axes) if axis not in "yx")  # chunks per place
        pieces = math.prod(array.cdata_shape)
        if array.shards:  # of which an index of all chunks is read
            pieces = max(pieces, math.prod(array.shards) // self._chunk_bytes)
        budget.check_layout(pieces, self._columns, self._rows, self._chunk_bytes)

    @property
    def begun(self) -> bool:
        """Whether any chunk is there: whoever wrote it broke off where none is."""
        names = (name for _, _, files in os.walk(self._folder) for name in files)
        return any(name not in ZARR_METADATA for name in names)

    def read(self, box: Box) -> NDArray[np.uint8]:
        """The pixels (h, w, 3) of `box`. Reads the chunks that it touches, some at a time."""
        x0, y0, x1, y1 = box
        out = np.empty((y1 - y0, x1 - x0, 3), np.uint8)
        each = self._chunk_bytes * self._deep
        columns = max(min(PORTION_BYTES // each, PORTION_CHUNKS // self._deep), 1)
        across = min(columns, x1 // self._columns - x0 // self._columns + 1)
        down = max(columns // across, 1)
        for rows in _steps(y0, y1, down * self._rows):
            for along in _steps(x0, x1, across * self._columns):
                with self._budget.decoding(across * down * each):
                    part = self._part(rows, along)
                out[rows.start - y0 : rows.stop - y0, along.start - x0 : along.stop - x0] = part
        return out

    def blank(self, box: Box) -> bool:
        """Whether the file leaves out every chunk of `box`."""
        x0, y0, x1, y1 = box
        sides = self._array.shards or self._array.chunks
        spans = {"x": (x0, x1), "y": (y0, y1)}
        places = []
        for axis, size, side in zip(self._axes, self._array.shape, sides, strict=True):
            start, stop = spans.get(axis, (0, size))
            places.append(range(start // side, -(-stop // side)))
        key = self._array.metadata.encode_chunk_key
        return not any((self._folder / key(place)).exists() for place in product(*places))

    def _part(self, rows: slice, columns: slice) -> NDArray[np.uint8]:
        spans = {"x": columns, "y": rows, "c": slice(None)}
        pixels = np.asarray(self._array[tuple(spans.get(axis, 0) for axis in self._axes)])
        kept = [axis for axis in self._axes if axis in spans]
        return pixels.transpose([kept.index(axis) for axis in "yxc"])


def _steps(start: int, stop: int, step: int) -> Iterator[slice]:
    """From `start` to `stop` in pieces that end at multiples of `step`."""
    while start < stop:
        end = min((start // step + 1) * step, stop)
        yield slice(start, end)
        start = end


def _check_array(array: zarr.Array[Any], axes: list[str]) -> None:
    sizes = dict(zip(axes, array.shape, strict=False))
    if len(axes) != array.ndim or not {"x", "y"} <= set(axes) or len(set(axes)) != len(axes):
        raise _refuse(
            "undecodable", f"an OME-Zarr whose axes are {''.join(axes) or 'not named'} and whose shape is {array.shape}"
        )
    deep = {axis: size for axis, size in sizes.items() if axis not in "xyc" and size != 1}
    if deep:
        told = ", ".join(f"{axis}: {size}" for axis, size in deep.items())
        raise _refuse("undecodable", f"an OME-Zarr stack ({told}): give each image a file of its own")
    if array.dtype != np.uint8 or sizes.get("c") != 3:
        raise _refuse(
            "not-8-bit-rgb",
            f"an OME-Zarr of {sizes.get('c', 1)} channels of {array.dtype}; it is not converted: save it as 8-bit RGB",
        )


class ZarrSlide:
    """A `Scan` of the folder `path`. Raises `ReadError` where it shows no single 8-bit RGB image, `MissingLibrary`."""

    def __init__(self, path: Path) -> None:
        try:
            import zarr
        except ModuleNotFoundError as error:
            raise MissingLibrary("zarr", "zarr") from error
        from blastscope.runtime.io.slides.zarr_limits import CheckedStore

        group, image, note = _the_image(zarr.open(store=CheckedStore(path, read_only=True), mode="r"))
        axes = [str(axis["name"]) if isinstance(axis, Mapping) else str(axis) for axis in image.get("axes", ())]
        if len(image["datasets"]) > MOST_LEVELS:
            raise _refuse("undecodable", f"an OME-Zarr of {len(image['datasets'])} resolutions, more than {MOST_LEVELS}")
        arrays = [_array(group, str(dataset["path"])) for dataset in image["datasets"]]
        for array in arrays:
            _check_array(array, axes)
        self.height, self.width = (arrays[0].shape[axes.index(axis)] for axis in "yx")
        budget = ReadBudget(self.width, self.height)
        self._level, *reduced = (PyramidLevel(array, axes, path, budget) for array in arrays)
        self.reduced = tuple(reduced)
        if not self._level.begun:
            raise _refuse("undecodable", "the Zarr holds no pixels: all of its chunks are left out")
        scale = _scale(image, axes)
        self.pixel_um = scale.pixel_um if scale else None
        self.notes = tuple(filter(None, (note, scale.note if scale else "")))

    def read(self, box: Box) -> NDArray[np.uint8]:
        """See `Scan`."""
        return self._level.read(box)

    def blank(self, box: Box) -> bool:
        """See `Scan`."""
        return self._level.blank(box)  # it reads as one colour, whichever the file says

    def close(self) -> None:
        """See `Scan`."""


def _the_image(root: Any) -> tuple[Any, Mapping[str, Any], str]:
    """The group of the one image in `root`, its description, and a note."""
    found = _multiscales(root)
    note = ""
    if not found and hasattr(root, "group_keys"):
        images = [name for name in sorted(root.group_keys()) if _multiscales(root[name])]
        if len(images) > 1:
            raise _refuse(
                "undecodable", f"an OME-Zarr of {len(images)} images ({', '.join(images[:9])}): name the folder of one"
            )
        if images:
            root, note = root[images[0]], f"read: image {images[0]} of the OME-Zarr"
            found = _multiscales(root)
    if not found:
        _refuse_plate(root)
        raise _refuse("undecodable", "a Zarr that doesn't describe an OME image (no 'multiscales')")
    if len(found) > 1:
        raise _refuse("undecodable", f"an OME-Zarr of {len(found)} images: give each image a folder of its own")
    colours = [str(channel.get("color", "")) for channel in _about(root).get("omero", {}).get("channels", ())]
    if len(colours) == 3 and all(colours) and not _red_green_blue(colours):
        raise _refuse("not-8-bit-rgb", f"channels of the colours {', '.join(colours)} are not red, green and blue")
    return root, found[0], note


def _red_green_blue(colours: Sequence[str]) -> bool:
    """Whether three colours are those, however they are written: 'FF0000', '#FF0000', '#F00', with alpha before or after."""
    plain = [colour.strip().upper().removeprefix("#").removeprefix("0X") for colour in colours]
    plain = ["".join(2 * digit for digit in colour) if len(colour) in (3, 4) else colour for colour in plain]
    ways = [plain] if {len(colour) for colour in plain} != {8} else [[one[:6] for one in plain], [one[2:] for one in plain]]
    return any(tuple(way) == RED_GREEN_BLUE for way in ways)


def _refuse_plate(root: Any) -> None:
    """Where `root` is a plate of many wells: names the folders of the fields in them."""
    plate = _about(root).get("plate")
    if plate is None:
        return
    wells = [str(well["path"]) for well in plate.get("wells", ())]
    looked = [(well, _about(root[well]).get("well", {})) for well in wells[: MOST_NAMED + 1]]
    fields = [f"{well}/{image['path']}" for well, about in looked for image in about.get("images", ())]
    named = ", ".join([*fields[:MOST_NAMED], *(["..."] if len(fields) > MOST_NAMED else [])])
    raise _refuse("undecodable", f"an OME-Zarr plate of {len(wells)} wells: name the folder of one field ({named})")


def _about(group: Any) -> Mapping[str, Any]:
    """The OME description: under 'ome' since version 0.5."""
    about: Mapping[str, Any] = group.attrs.get("ome") or dict(group.attrs)
    return about


def _multiscales(group: Any) -> list[Mapping[str, Any]]:
    return list(_about(group).get("multiscales") or [])


def _array(group: Any, path: str) -> Any:
    array = group[path]
    if not hasattr(array, "chunks"):
        raise _refuse("undecodable", f"the OME-Zarr's level '{path}' is no array")
    return array


def _scale(image: Mapping[str, Any], axes: list[str]) -> PixelSize | None:
    """The size of a pixel of the first level: the level's own scale times that of the whole image."""
    factors = [1.0] * len(axes)
    for step in (*image["datasets"][0].get("coordinateTransformations", ()), *image.get("coordinateTransformations", ())):
        if step.get("type") == "scale" and len(step.get("scale", ())) == len(axes):
            factors = [factor * float(more) for factor, more in zip(factors, step["scale"], strict=True)]
    units = [axis.get("unit") if isinstance(axis, Mapping) else None for axis in image.get("axes", ())]
    across, down = (
        factors[axes.index(axis)] * LENGTHS[str(units[axes.index(axis)])] if units[axes.index(axis)] in LENGTHS else None
        for axis in "xy"
    )
    return plausible_pixel_size(across, down, "OME-Zarr")
