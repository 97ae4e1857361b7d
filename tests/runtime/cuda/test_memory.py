"""Device arrays by DLPack and by `__cuda_array_interface__`: where they lie, how they are strided, and what is waited for."""

from __future__ import annotations

import ctypes
import gc
import weakref
from typing import Any

import numpy as np
import pytest
from host_gpu import HostGpu

from blastscope.runtime.cuda.memory import DeviceArrayImporter, DeviceImage, on_device
from blastscope.runtime.errors import ImageError

IMAGE = np.arange(6 * 5 * 3, dtype=np.uint8).reshape(6, 5, 3)


@pytest.fixture
def gpu() -> HostGpu:
    return HostGpu(lambda launch: None)


class Interface:
    def __init__(self, address: int, **facts: Any) -> None:
        self.__cuda_array_interface__ = {
            "shape": (6, 5, 3), "typestr": "|u1", "data": (address, False), "strides": None, "version": 3, **facts
        }  # fmt: skip


class Dlpack:
    """A numpy array that says of itself that it lies on a GPU; numpy makes the capsule."""

    def __init__(self, array: Any, kind: int = 2) -> None:
        self.array, self.kind, self.streams = array, kind, []  # type: ignore[var-annotated]

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.kind, 0

    def __dlpack__(self, *, stream: int | None = None) -> Any:
        self.streams.append(stream)
        return self.array.__dlpack__()


def place(gpu: HostGpu, array: Any) -> Any:
    """A copy of `array`'s bytes in the GPU's memory, as numpy sees it."""
    with gpu.current():
        address = gpu.allocate(array.nbytes)
    view = np.frombuffer((ctypes.c_uint8 * array.nbytes).from_address(address), np.uint8).reshape(array.shape)
    view[...] = array
    return view


def pixels(taken: DeviceImage) -> Any:
    """What lies at the places that the record names."""
    rows, columns, channels = np.indices(taken.shape)
    places = taken.address + rows * taken.strides[0] + columns * taken.strides[1] + channels * taken.strides[2]
    return np.array([ctypes.c_uint8.from_address(int(one)).value for one in places.ravel()], np.uint8).reshape(taken.shape)


def test_what_is_a_device_array_is_known_without_its_pixels() -> None:
    assert on_device(Interface(1))
    assert on_device(Dlpack(IMAGE))
    assert on_device(Dlpack(IMAGE, kind=13))
    assert not on_device(Dlpack(IMAGE, kind=1))
    for other in (IMAGE, [1], None, "cell.png"):
        assert not on_device(other)


@pytest.mark.parametrize("view", [np.s_[:], np.s_[::2], np.s_[:, ::-1], np.s_[1:4, 2:], np.s_[..., ::-1]])
def test_strides_are_respected_by_both_ways(gpu: HostGpu, view: Any) -> None:
    there = place(gpu, IMAGE)[view]
    importer = DeviceArrayImporter(gpu)
    wanted = IMAGE[view]
    by_dlpack = importer.take(Dlpack(there))
    facts = {"shape": there.shape, "strides": there.strides}
    by_interface = importer.take(Interface(there.ctypes.data, **facts))
    assert (by_dlpack.shape, by_dlpack.strides) == (by_interface.shape, by_interface.strides) == (wanted.shape, there.strides)
    np.testing.assert_array_equal(pixels(by_dlpack), wanted)
    np.testing.assert_array_equal(pixels(by_interface), wanted)


def test_the_producer_orders_itself_before_our_stream(gpu: HostGpu) -> None:
    importer = DeviceArrayImporter(gpu)
    shown = Dlpack(place(gpu, IMAGE))
    taken = importer.take(shown)
    assert shown.streams == [taken.stream]
    assert "follow" not in gpu.counts


@pytest.mark.parametrize(
    ("facts", "follows"),
    [({"stream": None}, 0), ({"stream": 1}, 1), ({"stream": 99}, 1), ({"version": 2}, 1), ({"version": 3}, 0)],
)
def test_a_named_stream_is_followed_and_an_old_producer_waited_for(gpu: HostGpu, facts: dict[str, Any], follows: int) -> None:
    there = place(gpu, IMAGE)
    taken = DeviceArrayImporter(gpu).take(Interface(there.ctypes.data, **facts))
    assert gpu.counts["follow"] == follows
    assert (taken.stream is not None) == bool(follows)


def test_what_is_taken_is_held_and_let_go(gpu: HostGpu) -> None:
    shown = Dlpack(place(gpu, IMAGE))
    held = weakref.ref(shown)
    taken = DeviceArrayImporter(gpu).take(shown)
    del shown
    gc.collect()
    assert held() is not None
    del taken
    gc.collect()
    assert held() is None


@pytest.mark.parametrize(
    ("facts", "words"),
    [
        ({"typestr": "<f4"}, "must be uint8"),
        ({"shape": (6, 5)}, r"\(H, W, 3\)"),
        ({"shape": (6, 5, 4)}, r"\(H, W, 3\)"),
        ({"mask": object()}, "mask"),
        ({"shape": (20000, 1, 3)}, "more than the kernels take"),
        ({"data": (4096, False)}, "doesn't lie in the memory"),
    ],
)
def test_what_is_no_image_of_this_gpu_is_refused(gpu: HostGpu, facts: dict[str, Any], words: str) -> None:
    there = place(gpu, IMAGE)
    with pytest.raises(ImageError, match=words):
        DeviceArrayImporter(gpu).take(Interface(there.ctypes.data, **facts))


def test_a_capsule_of_another_type_and_a_refusing_producer_are_refused(gpu: HostGpu) -> None:
    floats = place(gpu, np.zeros((6, 5, 12), np.uint8)).view(np.float32)
    with pytest.raises(ImageError, match="must be uint8"):
        DeviceArrayImporter(gpu).take(Dlpack(floats))

    class Refuses(Dlpack):
        def __dlpack__(self, *, stream: int | None = None) -> Any:
            raise BufferError("it requires a gradient")

    with pytest.raises(ImageError, match="requires a gradient"):
        DeviceArrayImporter(gpu).take(Refuses(IMAGE))


def test_an_image_without_pixels_has_no_address_to_be_checked(gpu: HostGpu) -> None:
    assert DeviceArrayImporter(gpu).take(Interface(0, shape=(0, 5, 3))).shape == (0, 5, 3)
