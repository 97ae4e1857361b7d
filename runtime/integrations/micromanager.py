"""`CameraListener`: examines the frames of a pymmcore-plus acquisition without delaying it.

    with open_bundle() as scope, CameraListener(scope, on_report) as listener:
        core.mda.run(events, output=listener)

or, for a core's whole life, `core.mda.events.frameReady.connect(listener.frameReady)`: the core holds it weakly, so keep it.
Closing either of the two, in any order, tells of the frames that wait. Neither this file nor the listener needs the library
itself; `pip install 'blastscope[micromanager]'` brings it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from types import TracebackType
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from blastscope.runtime.errors import Closed
from blastscope.runtime.frames.types import FrameReport, FrameSpecification
from blastscope.runtime.integrations.protocols import StreamFactory
from blastscope.runtime.io.slides.pixel_size_metadata import LEAST_UM, MOST_UM
from blastscope.runtime.io.strict_model import StrictModel
from blastscope.runtime.streaming.frame_queue import StreamStats
from blastscope.runtime.types import Refusal


class CameraFormat(StrictModel):
    """What the arrays of a camera mean, where they don't say it themselves.

    Attributes
    ----------
    channels : {'rgb', 'bgr', 'rgba', 'bgra', 'packed-bgra'}
        Order of the colours; 'packed-bgra' are (H, W) uint32 or uint64.
    bits : int or None
        Bits that a 16-bit channel uses: 10, 12, 14, 16; the top 8 are kept.
    """

    channels: Literal["rgb", "bgr", "rgba", "bgra", "packed-bgra"] = "rgb"  # packed: (H, W) uint32 or uint64
    bits: int | None = Field(default=None, ge=9, le=16)


def to_rgb(image: object, camera: CameraFormat | None = None) -> NDArray[np.uint8] | Refusal:
    """The frame (H, W, 3) uint8 RGB that `image` shows, or why it shows none. It may be a view of `image`."""
    camera = camera or CameraFormat()
    if not isinstance(image, np.ndarray):
        return _refused(f"a camera's frame must be a numpy array, not '{type(image).__name__}'")
    order = camera.channels.removeprefix("packed-")
    if camera.channels == "packed-bgra" and image.ndim == 2 and image.dtype in (np.uint32, np.uint64):
        image = _unpacked(image)
    if image.ndim != 3 or image.shape[2] not in (3, 4):
        return _refused(f"the camera gives {image.dtype} of shape {image.shape}: only a colour camera shows the stain")
    if image.shape[2] != len(order):
        return _refused(f"the camera gives {image.shape[2]} channels, its format says '{order}': say which in CameraFormat")
    return _eight_bits(image[..., :3] if order.startswith("rgb") else image[..., 2::-1], camera.bits)


def _unpacked(image: NDArray[np.uint32] | NDArray[np.uint64]) -> NDArray[np.uint8] | NDArray[np.uint16]:
    """Packed pixels (H, W) as (H, W, 4), blue first, whatever this machine's order of bytes."""
    step = image.dtype.itemsize // 4
    packed = np.ascontiguousarray(image, dtype=f"<u{image.dtype.itemsize}")
    channels = packed.view(f"<u{step}").reshape(*image.shape, 4)
    return channels.astype(f"u{step}", copy=False)


def _eight_bits(image: NDArray[np.generic], bits: int | None) -> NDArray[np.uint8] | Refusal:
    if image.dtype == np.uint8:
        return image.view(np.uint8)
    if image.dtype != np.uint16:
        return _refused(f"the camera's channels are {image.dtype}: they must be uint8, or uint16 with CameraFormat.bits")
    if bits is None:
        return _refused("the camera's channels are uint16: say in CameraFormat.bits how many bits of them it uses")
    shifted = np.minimum(image.view(np.uint16) >> (bits - 8), 255)
    return np.asarray(shifted, dtype=np.uint8)


def _refused(detail: str) -> Refusal:
    return Refusal("not-8-bit-rgb", detail)


class CameraListener:
    """Takes each frame as it is ready, and tells of it once it was examined. Where frames come faster, the oldest give way.

    The report's `id` counts the frames of this listener from 0; its `metadata` holds

        index       of the event: {'t': 0, 'p': 3}
        stage_um    (x, y) where the frame was taken, or was asked for; absent without a stage
        z_um        the same of the focus
        pixel_um    as Micro-Manager's pixel size says, and counts where `spec` says none; absent where none is set either,
                    and the red cells tell the scale
        camera, exposure_ms, runner_ms
        event       what the event itself carried as metadata

    Raises `Closed` where the handle is closed already.
    """

    def __init__(
        self,
        scope: StreamFactory,
        on_report: Callable[[FrameReport], object],
        *,
        camera: CameraFormat | None = None,
        spec: FrameSpecification | None = None,
        queue: int = 4,
    ) -> None:
        self._camera = camera or CameraFormat()
        self._count, self._counting = 0, threading.Lock()
        self._stream = scope.stream(None, on_report, queue, "drop-oldest", spec=spec)

    @property
    def stats(self) -> StreamStats:
        """How it goes: frames taken, reported, dropped and waiting, and how long a report takes."""
        return self._stream.stats

    def frameReady(self, image: Any, event: Any = None, metadata: Mapping[str, Any] | None = None) -> None:  # noqa: N802
        """Called by the acquisition for each frame. Takes as long as a copy of it. Once it or the handle is closed, nothing."""
        with self._counting:
            number, self._count = self._count, self._count + 1
        with suppress(Closed):
            self._stream.put(to_rgb(image, self._camera), id=number, metadata=facts_of(event, metadata or {}))

    def wait(self, timeout: float | None = None) -> bool:
        """Waits until every frame that came has been told of; False when time was up."""
        return self._stream.wait(timeout)

    def close(self) -> None:
        """Tells of the frames that wait, and ends."""
        self._stream.stop()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def facts_of(event: Any, metadata: Mapping[str, Any]) -> dict[str, Any]:
    """What a report keeps of an event and its frame, in plain values; what is not known is left out."""
    place = metadata.get("position") or {}
    x, y, z = (place.get(axis, getattr(event, f"{axis}_pos", None)) for axis in "xyz")
    pixel_um = metadata.get("pixel_size_um") or 0.0
    facts = {
        "index": {str(getattr(axis, "value", axis)): step for axis, step in getattr(event, "index", {}).items()},
        "stage_um": None if x is None or y is None else (float(x), float(y)),
        "z_um": z,
        "pixel_um": float(pixel_um) if LEAST_UM < pixel_um < MOST_UM else None,  # Micro-Manager says 0 where none is set
        "camera": metadata.get("camera_device"),
        "exposure_ms": metadata.get("exposure_ms"),
        "runner_ms": metadata.get("runner_time_ms"),
        "event": dict(getattr(event, "metadata", {})) or None,
    }
    return {name: value for name, value in facts.items() if value is not None}
