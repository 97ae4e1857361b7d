"""The host shim: that it sees what it is there to see, and what sanitizers and shuffled threads see of the crop kernels."""

from __future__ import annotations

import os

import cv2
import numpy as np
import pytest
from host_kernels import Array, HostKernels, Image, SanitizedKernels, ShimError, agrees, place, plan_for

from blastscope.runtime.crop import CropSpecification
from blastscope.runtime.cuda.kernels.crop_launch_plan import Address, CropPlan, Launch
from blastscope.runtime.io.synthetic import synthetic_cell

BARE = CropSpecification(side_px=12, erosion_px=0, min_box_px=1)
SPECS = [
    CropSpecification(side_px=21, min_box_px=4),
    CropSpecification(side_px=9, scale="keep", window_px=90, erosion_px=3, grow_back=False, min_box_px=1),
    BARE,
]


@pytest.fixture(scope="module")
def sanitized(host_kernels: HostKernels) -> SanitizedKernels:
    return SanitizedKernels()


def fault(kernel: str, threads: int, *arguments: int) -> Launch:
    return Launch(f"fault_{kernel}", (1, 1, 1), (threads, 1, 1), 0, arguments)


def images() -> list[Image]:
    """A cell, another whose size is no multiple of anything, a view with strides, a mesh of diagonals, and two refusals."""
    mesh = np.zeros((41, 67, 3), np.uint8)
    mesh[2:-2, 2:-2] = ((np.indices((37, 63)).sum(axis=0) % 5 < 2) * 180)[..., None]
    odd = np.asarray(cv2.resize(synthetic_cell(2), (71, 53), interpolation=cv2.INTER_AREA), np.uint8)
    return [synthetic_cell(1, size_px=64), odd[::-1, ::-1], mesh, odd[::2, 5:60:3], np.zeros((8, 8, 3), np.uint8), odd[:20]]


# ---- the shim sees faults


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("kernel", ["barrier_in_branch", "two_barriers"])
def test_a_barrier_that_some_threads_miss_is_seen(host_kernels: HostKernels, kernel: str, seed: int) -> None:
    out = np.zeros(64, np.uint32)
    with pytest.raises(ShimError, match="barrier divergence"):
        host_kernels.launch(fault(kernel, 64, Address(out.ctypes.data)), seed=seed)
    assert agrees(host_kernels, images()[:1], plan_for(images()[:1], SPECS[0])) == ["ok"]  # and the next launch works


def test_an_update_that_threads_can_lose_is_lost_in_some_order(host_kernels: HostKernels) -> None:
    def total(seed: int) -> int:
        out = np.zeros(1, np.uint32)
        host_kernels.launch(fault("lost_update", 64, Address(out.ctypes.data)), seed=seed)
        return int(out[0])

    assert total(0) == 64
    assert min(total(seed) for seed in range(1, 5)) < 64


@pytest.mark.parametrize(
    ("kernel", "index", "words"),
    [
        ("past_end", 4, "heap-buffer-overflow"),
        ("past_end", -1, "heap-buffer-overflow"),
        ("past_shared", 8, "out of bounds"),
        ("past_shared", 16, "out of bounds"),
    ],
)
def test_a_step_beside_an_array_is_seen(sanitized: SanitizedKernels, kernel: str, index: int, words: str) -> None:
    with pytest.raises(ShimError, match=words):
        sanitized.run([Array(0), Array(16)], [fault(kernel, 1, Address(place(1)), index)], [1])


def test_what_is_no_fault_passes(sanitized: SanitizedKernels) -> None:
    (content,) = sanitized.run([Array(0), Array(16)], [fault("past_end", 1, Address(place(1)), 3)], [1])
    assert content[12:] == b"\1\0\0\0"


def test_arguments_of_the_wrong_kind_are_refused(host_kernels: HostKernels) -> None:
    with pytest.raises(ShimError, match="fault_past_end takes ai, not ii"):
        host_kernels.launch(fault("past_end", 1, 0, 0))
    with pytest.raises(ShimError, match="no kernel fault_nothing"):
        host_kernels.launch(fault("nothing", 1))


# ---- the kernels have none


@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_sanitizers_find_nothing_in_a_mixed_batch(sanitized: SanitizedKernels, spec: CropSpecification) -> None:
    plan = CropPlan.make(spec, len(images()), 71)
    assert {"ok", "empty"} <= set(agrees(sanitized, images(), plan))


@pytest.mark.parametrize("seed", [1, 2])
def test_sanitizers_find_nothing_with_shuffled_threads(sanitized: SanitizedKernels, seed: int) -> None:
    agrees(sanitized, images()[:4], CropPlan.make(SPECS[seed % 3], 4, 72), seed=seed)


@pytest.mark.parametrize("at", range(6))
def test_a_plan_that_just_holds_an_image_holds_it(sanitized: SanitizedKernels, at: int) -> None:
    image = images()[at]
    agrees(sanitized, [image], plan_for([image], SPECS[1]))  # each array ends where the plan says


@pytest.mark.parametrize("seed", range(1, 1 + int(os.environ.get("BLASTSCOPE_SHUFFLES", "12"))))
def test_the_order_of_threads_changes_nothing(host_kernels: HostKernels, seed: int) -> None:
    rng = np.random.default_rng(seed)
    noise = np.pad(rng.random((46, 62)) < 0.45, 1)  # near the share at which components grow together: long paths, many races
    comb = np.zeros((70, 64), np.bool_)
    comb[1:-1, 1:-1:2] = comb[-2, 1:-1] = True
    masks = [noise, comb, comb[::-1], comb.T]
    shapes = [(mask[..., None] * np.array([150, 90, 160])).astype(np.uint8) for mask in masks]
    assert set(agrees(host_kernels, shapes, plan_for(shapes, BARE), seed=seed)) <= {"ok", "touches-border"}
