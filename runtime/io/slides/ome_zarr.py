"""`ZarrSlide`: an OME-Zarr image read chunk by chunk, with zarr (the extra `zarr`)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from blastscope.runtime.errors import MissingLibrary
from blastscope.runtime.io.image_header import MAX_PIXELS
from blastscope.runtime.io.slides.pixel_size_metadata import UNITS, PixelSize, checked
from blastscope.runtime.io.slides.tiff_codec import ReadError
from blastscope.runtime.types import Box, Refusal, RefusalCode

if TYPE_CHECKING:
    import zarr

MARKS = ("zarr.json", ".zgroup", ".zattrs", ".zarray")  # one of these makes a folder a Zarr
LENGTHS = {**UNITS, "micrometer": 1.0, "micron": 1.0, "nanometer": 1e-3, "millimeter": 1e3, "angstrom": 1e-4}
RED_GREEN_BLUE = ("FF0000", "00FF00", "0000FF")


def _refuse(code: RefusalCode, detail: str) -> ReadError:
    return ReadError(Refusal(code, detail))


def is_zarr(folder: Path) -> bool:
    """Whether `folder` is a Zarr, whatever is in it."""
    try:
        return any((folder / mark).is_file() for mark in MARKS)
    except PermissionError:
        return False


class Level:
    """One resolution of an image. Many threads may read."""

    def __init__(self, array: zarr.Array[Any], axes: list[str]) -> None:
        _check_array(array, axes)
        self._array, self._axes = array, axes
        self.height, self.width = (array.shape[axes.index(axis)] for axis in "yx")

    def read(self, box: Box) -> NDArray[np.uint8]:
        """The pixels (h, w, 3) of `box`. Reads the chunks that it touches."""
        spans = {"x": slice(box[0], box[2]), "y": slice(box[1], box[3]), "c": slice(None)}
        pixels = np.asarray(self._array[tuple(spans.get(axis, 0) for axis in self._axes)])
        kept = [axis for axis in self._axes if axis in spans]
        return np.ascontiguousarray(pixels.transpose([kept.index(axis) for axis in "yxc"]))


def _check_array(array: zarr.Array[Any], axes: list[str]) -> None:
    sizes = dict(zip(axes, array.shape, strict=False))
    if len(axes) != array.ndim or not {"x", "y"} <= set(axes):
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
    chunk = dict(zip(axes, array.chunks, strict=True))
    if chunk["x"] * chunk["y"] > MAX_PIXELS:
        raise _refuse("bomb", f"chunks of {chunk['x']} x {chunk['y']} pixels, more than {MAX_PIXELS}")


class ZarrSlide:
    """A `Scan` of the folder `path`. Raises `ReadError` where it shows no single 8-bit RGB image, `MissingLibrary`."""

    def __init__(self, path: Path) -> None:
        try:
            import zarr
        except ModuleNotFoundError as error:
            raise MissingLibrary("zarr", "zarr") from error

        group, image, note = _the_image(zarr.open(str(path), mode="r"))
        axes = [str(axis["name"]) if isinstance(axis, Mapping) else str(axis) for axis in image.get("axes", ())]
        levels = [Level(_array(group, str(dataset["path"])), axes) for dataset in image["datasets"]]
        self._level, self.reduced = levels[0], tuple(levels[1:])
        self.width, self.height = self._level.width, self._level.height
        scale = _scale(image, axes)
        self.pixel_um = scale.pixel_um if scale else None
        self.notes = tuple(filter(None, (note, scale.note if scale else "")))

    def read(self, box: Box) -> NDArray[np.uint8]:
        """See `Scan`."""
        return self._level.read(box)

    def blank(self, box: Box) -> bool:
        """See `Scan`."""
        return False  # a missing chunk reads as its fill value, which is the file's to say

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
        raise _refuse("undecodable", "a Zarr that doesn't describe an OME image (no 'multiscales')")
    if len(found) > 1:
        raise _refuse("undecodable", f"an OME-Zarr of {len(found)} images: give each image a folder of its own")
    colours = tuple(str(channel.get("color", "")).upper() for channel in _about(root).get("omero", {}).get("channels", ()))
    if len(colours) == 3 and all(colours) and colours != RED_GREEN_BLUE:
        raise _refuse("not-8-bit-rgb", f"channels of the colours {', '.join(colours)} are not red, green and blue")
    return root, found[0], note


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
    return checked(across, down, "OME-Zarr")
