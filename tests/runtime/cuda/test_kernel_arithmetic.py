"""The kernels' comparisons of fractions, exact for images larger than any test holds.

A kernel takes what others would have left in the workspace.
"""

from __future__ import annotations

from fractions import Fraction
from math import isqrt

import numpy as np
from host_kernels import HostKernels
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from blastscope.runtime.crop import CropSpecification
from blastscope.runtime.cuda.kernels.crop_launch_plan import STATUSES, CropPlan, ImageRow, VerdictRow, image_row

StateRow = np.dtype([("best", "<u8"), ("count", "<u8"), ("sums", "<u8", (2,)), ("box", "<i4", (4,)), ("rest", "<i4", (4,))])


def launched(
    host_kernels: HostKernels, plan: CropPlan, kernel: str, table: NDArray[np.void], **parts: NDArray[np.generic]
) -> dict[str, int]:
    """Runs one kernel of a plan over the given parts of its workspace."""
    workspace = np.zeros(plan.workspace_bytes, np.uint8)
    crops, verdicts = np.zeros(plan.crops_bytes, np.uint8), np.zeros(plan.batch, VerdictRow)
    offsets = {part.name: part.offset for part in plan.parts}
    for name, content in parts.items():
        content = np.ascontiguousarray(content).view(np.uint8).ravel()
        workspace[offsets[name] : offsets[name] + len(content)] = content
    launches = plan.launches(table.ctypes.data, crops.ctypes.data, verdicts.ctypes.data, workspace.ctypes.data)
    host_kernels.launch(next(launch for launch in launches if launch.kernel == kernel))
    state = workspace[offsets["states"] :][: StateRow.itemsize].view(StateRow)[0]
    return {"threshold": int(state["rest"][1]), "status": int(verdicts[0]["status"])}


def first_largest(histogram: list[int]) -> int:
    total, mass = sum(histogram), sum(value * count for value, count in enumerate(histogram))
    best, threshold, below, part = Fraction(-1), 0, 0, 0
    for value, count in enumerate(histogram):
        below, part = below + count, part + value * count
        if 0 < below < total:
            variance = Fraction((total * part - below * mass) ** 2, below * (total - below))
            if variance > best:
                best, threshold = variance, value
    return threshold


@settings(max_examples=100)
@given(
    peaks=st.dictionaries(st.integers(0, 255), st.integers(1, 1 << 26), min_size=2, max_size=4),
    mirrored=st.booleans(),
    equal=st.booleans(),
)
def test_otsu_is_exact_up_to_the_largest_image(
    host_kernels: HostKernels, peaks: dict[int, int], mirrored: bool, equal: bool
) -> None:
    histogram = np.zeros(257, np.uint32)
    for value, count in peaks.items():
        histogram[value] += 12345678 if equal else count
    if mirrored:  # ties: the last of two equal ones must lose
        histogram[:256] = histogram[:256] // 2 + histogram[255::-1] // 2
    plan = CropPlan.make(CropSpecification(max_background=0), 1, 8)
    table = np.array([image_row(0, (8, 8), (24, 3, 1))], ImageRow)
    found = launched(host_kernels, plan, "crop_mask", table, histograms=histogram)
    assert found["threshold"] == first_largest([int(count) for count in histogram[:256]])


@settings(max_examples=100)
@given(data=st.data(), width=st.integers(100, 16384), height=st.integers(100, 16384))
def test_the_rule_of_the_border_is_exact_up_to_the_largest_image(
    host_kernels: HostKernels, data: st.DataObject, width: int, height: int
) -> None:
    x0, y0 = data.draw(st.integers(0, 2)), data.draw(st.integers(0, 2))
    x1, y1 = data.draw(st.integers(3, width)), data.draw(st.integers(3, height))
    count = data.draw(st.integers(1, (x1 - x0) * (y1 - y0)))
    # near the rule's limit on the left, 2 sum_x + count = sqrt(3.2 count^3), or anywhere
    limit = (isqrt(16 * count**3 // 5) - count) // 2 + data.draw(st.integers(-3, 3))
    least_x, most_x = x0 * count, (x1 - 1) * count  # the box is half-open: no pixel stands at x1
    sum_x = min(max(least_x, limit), most_x) if data.draw(st.booleans()) else data.draw(st.integers(least_x, most_x))
    sum_y = data.draw(st.integers(y0 * count, (y1 - 1) * count))
    state = np.array([(1, count, (sum_x, sum_y), (x0, y0, x1, y1), (0, 0, 0, 0))], StateRow)
    table = np.array([image_row(0, (height, width), (3 * width, 3, 1))], ImageRow)
    plan = CropPlan.make(CropSpecification(side_px=8, erosion_px=0, min_box_px=20000), 1, 8)  # no pixel is read
    found = launched(host_kernels, plan, "crop_resize", table, states=state)
    reached = (x0 == 0, y0 == 0, x1 == width, y1 == height)
    left, top = 2 * sum_x + count, 2 * sum_y + count
    distances = (left, top, 2 * count * width - left, 2 * count * height - top)
    cut = any(at and 5 * far * far < 16 * count**3 for at, far in zip(reached, distances, strict=True))
    cut = cut or (reached[0] and reached[2]) or (reached[1] and reached[3])
    assert STATUSES[found["status"]] == ("touches-border" if cut else "too-small")
