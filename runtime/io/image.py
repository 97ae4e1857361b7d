"""What is taken as an image: arrays are checked here, files and encoded bytes decoded unchanged or refused."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from blastscope.runtime.errors import ImageError, UsageError
from blastscope.runtime.io.image_decode import NO_MEMORY, OPAQUE, decode_picture, read_content, read_whole_header
from blastscope.runtime.io.slides.container import HEAD_BYTES, TIFF_MAGIC, container_of
from blastscope.runtime.io.slides.slide import decode_tiff, open_tiff
from blastscope.runtime.types import Refusal

if TYPE_CHECKING:
    from PIL.Image import Image

    # what a cell may be handed over as
    ImageSource = NDArray[np.uint8] | Path | str | bytes | bytearray | memoryview | Image


def load_pixels(image: object) -> Any | Refusal:
    """The pixels of an image in any form that `Scope.classify` takes, or the reason why there are none.

    Parameters
    ----------
    image : array, path, bytes or PIL image
        An array, and anything that isn't one of these, is handed back as it is, unchecked (see `check_array`).

    Returns
    -------
    (H, W, 3) uint8 array in RGB, Refusal, or `image` itself

    Raises
    ------
    ImageError
        A PIL image that isn't one whole 8-bit RGB image.
    """
    if isinstance(image, np.ndarray):
        return image
    if isinstance(image, str | os.PathLike):
        return read_image(os.fsdecode(image))
    if isinstance(image, bytes | bytearray | memoryview):
        return decode_image(bytes(image))
    pillow = sys.modules.get("PIL.Image")  # not imported: nobody has an image of it otherwise
    return _pillow_pixels(image) if pillow and isinstance(image, pillow.Image) else image


def list_images(images: Iterable[Any]) -> list[Any]:
    """The images as a list.

    Parameters
    ----------
    images : iterable
        Arrays, paths, bytes or PIL images, or one array of at least four dimensions.

    Returns
    -------
    list

    Raises
    ------
    UsageError
        A single image, whose rows or letters would be taken for images, or something that isn't iterable.
    """
    if isinstance(images, str | os.PathLike | bytes | bytearray | memoryview) or getattr(images, "ndim", 4) < 4:
        raise UsageError("one image is given where several are asked for: put it into a list, or call classify")
    try:
        return list(images)
    except TypeError as error:
        raise UsageError(f"images must be iterable, not '{type(images).__name__}'; for one image there is classify") from error


def _pillow_pixels(image: Any) -> NDArray[np.uint8]:
    """The pixels of a PIL image, as those of its file would be read: upright, without an alpha that is opaque everywhere."""
    from PIL.ImageOps import exif_transpose

    if image.mode not in ("RGB", "RGBA") or "transparency" in image.info:
        kind = f"'{image.mode}'" if image.mode != "RGB" else "RGB with a transparent colour"
        raise ImageError(f"a PIL image must be 8-bit RGB, not {kind}: convert it with image.convert('RGB'), if you know how")
    if getattr(image, "n_frames", 1) > 1:
        raise ImageError(f"a PIL image of {image.n_frames} frames: hand over the one that you mean, as image.copy()")
    try:
        pixels = np.asarray(exif_transpose(image), np.uint8)
    except (OSError, SyntaxError, ValueError) as error:  # it reads its file only now
        raise ImageError(f"a PIL image can't be decoded: {error}") from error
    if pixels.shape[2] == 4 and not (pixels[..., 3] == OPAQUE).all():
        raise ImageError("a PIL image's alpha isn't opaque everywhere: lay it on black yourself, if that is what you mean")
    return pixels[..., :3]


def check_array(image: object) -> NDArray[np.uint8]:
    """The image itself, once it is known to be an image array.

    Parameters
    ----------
    image : object
        What a caller handed over.

    Returns
    -------
    (H, W, 3) uint8 array
        The same object, not a copy.

    Raises
    ------
    ImageError
        It isn't a NumPy array, not uint8, or not of shape (H, W, 3); or pixels of it are masked.
    """
    if not isinstance(image, np.ndarray):
        if hasattr(image, "__cuda_array_interface__"):
            raise ImageError("a device array needs a handle that works on its GPU: open the bundle with device='cuda'")
        raise ImageError(f"an image must be a numpy array, not '{type(image).__name__}': convert it with numpy.asarray")
    if image.dtype != np.uint8:
        raise ImageError(f"an image must be uint8, not '{image.dtype}': scale it to 0..255 and convert it")
    if image.ndim != 3 or image.shape[2] != 3:
        raise ImageError(f"an image must be of shape (H, W, 3) in RGB, not {image.shape}")
    if isinstance(image, np.ma.MaskedArray) and np.ma.is_masked(image):
        raise ImageError("an image must have all its pixels, not some of them masked: fill them, with image.filled(0)")
    return image


def read_image(path: Path | str) -> NDArray[np.uint8] | Refusal:
    """The pixels of an image file, exactly as they are stored and turned upright; or the reason why there are none.

    The format is told by the file's content, and of a slide's preview by what lies beside it; the suffix doesn't count.
    Python's lock is released while it decodes.

    Parameters
    ----------
    path : Path or str
        A PNG, JPEG, BMP, WebP or TIFF file with one 8-bit RGB image.

    Returns
    -------
    (H, W, 3) uint8 array in RGB, or Refusal
        A refusal also for a file that isn't there, that holds several images, or that memory doesn't suffice for.
    """
    try:
        return _read_image(Path(path))
    except MemoryError:
        return NO_MEMORY


def _read_image(path: Path) -> NDArray[np.uint8] | Refusal:
    content = read_content(path)
    if isinstance(content, Refusal):
        return content
    container = container_of(path, content[:HEAD_BYTES])
    if container is not None and container.reader != "tiff":
        remedy = "use 'blastscope examine'" if container.reader else container.remedy
        return Refusal("undecodable", f"{container.name}, which isn't an image of a cell: {remedy}")
    return decode_image(content)


def decode_image(content: bytes) -> NDArray[np.uint8] | Refusal:
    """The pixels of an encoded image, as `read_image` gives those of a file; or the reason why there are none.

    Parameters
    ----------
    content : bytes
        The bytes of an image file.

    Returns
    -------
    (H, W, 3) uint8 array in RGB, or Refusal
    """
    return decode_tiff(content) if content.startswith(TIFF_MAGIC) else decode_picture(content)


def check_image(content: bytes) -> Refusal | None:
    """The reason why an encoded image would be refused, as far as it is known before its pixels are decoded.

    Parameters
    ----------
    content : bytes
        The bytes of an image file.

    Returns
    -------
    Refusal or None
        None where nothing speaks against it. Decoding may still find damaged pixels.
    """
    if not content.startswith(TIFF_MAGIC):
        header = read_whole_header(content)
        return header if isinstance(header, Refusal) else None
    slide = open_tiff(content)
    if isinstance(slide, Refusal):
        return slide
    slide.close()
    return None
