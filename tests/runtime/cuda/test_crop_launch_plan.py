"""What is launched over which memory, and how a verdict is read."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from blastscope.runtime.crop import CropSpecification
from blastscope.runtime.cuda.kernels.crop_launch_plan import (
    MOST_BATCH,
    MOST_PX,
    STATUSES,
    Address,
    CropPlan,
    ImageRow,
    VerdictRow,
    box_of,
    image_row,
    refusal_of,
)
from blastscope.runtime.errors import UsageError

BASES = (1 << 40, 2 << 40, 3 << 40, 4 << 40)
plans = st.builds(
    CropPlan.make,
    st.builds(CropSpecification, side_px=st.integers(8, 2048), erosion_px=st.integers(0, 16)),
    st.integers(1, 300),
    st.integers(1, MOST_PX),
)


@given(plan=plans)
def test_the_parts_lie_apart_and_within_the_workspace(plan: CropPlan) -> None:
    ends = [0]
    for part in plan.parts:
        assert part.offset % 256 == 0
        assert part.offset >= ends[-1]
        ends.append(part.offset + part.size)
    assert plan.workspace_bytes == ends[-1]


@given(plan=plans)
def test_every_argument_is_an_address_of_the_plan_or_an_int_of_32_bits(plan: CropPlan) -> None:
    tables = {BASES[0]: plan.images_bytes, BASES[1]: plan.crops_bytes, BASES[2]: plan.verdicts_bytes}
    known = {*tables, *(BASES[3] + part.offset for part in plan.parts)}
    for launch in plan.launches(*BASES):
        for value in launch.arguments:
            if isinstance(value, Address):
                assert value in known
            else:
                assert -(1 << 31) <= value < 1 << 31
        assert launch.block == (256, 1, 1)
        assert 1 <= launch.grid[0] < 1 << 31
        assert launch.grid[1:] == (plan.batch, 1)
        assert launch.shared_bytes == 0


@given(plan=plans)
def test_shapes_are_those_of_the_plan_whatever_the_addresses(plan: CropPlan) -> None:
    one, other = plan.launches(*BASES), plan.launches(0, 256, 512, 1024)
    assert [(launch.kernel, launch.grid) for launch in one] == [(launch.kernel, launch.grid) for launch in other]
    assert len(one) == 6


def test_a_cell_needs_a_megabyte_and_few_blocks() -> None:
    plan = CropPlan.make(CropSpecification(), 1, 450)
    assert plan.workspace_bytes < 6 * 450 * 450
    assert max(launch.grid[0] for launch in plan.launches(*BASES)) == 175


@pytest.mark.parametrize(("batch", "largest_px"), [(0, 9), (MOST_BATCH + 1, 9), (1, 0), (1, MOST_PX + 1)])
def test_what_the_kernels_cant_take_is_not_planned(batch: int, largest_px: int) -> None:
    with pytest.raises(UsageError, match="can't be planned: choose"):
        CropPlan.make(CropSpecification(), batch, largest_px)


def test_a_row_of_the_table_holds_strides_of_any_sign() -> None:
    image = np.zeros((5, 7, 3), np.uint8)[::-1, :, ::-1]
    row = image_row(image.ctypes.data, image.shape, image.strides)
    assert row.tolist() == (image.ctypes.data, -21, 3, -1, 5, 7)
    assert (ImageRow.itemsize, VerdictRow.itemsize) == (40, 32)


def test_a_verdict_of_ok_has_a_box_and_no_refusal() -> None:
    row = np.array([(0, 71, (1, 2, 30, 40), 200, 3)], VerdictRow)[0]
    assert refusal_of(row, CropSpecification(), (50, 60, 3)) is None
    assert box_of(row) == (1, 2, 30, 40)


@pytest.mark.parametrize("status", range(1, len(STATUSES) - 1))
def test_every_other_verdict_is_a_refusal(status: int) -> None:
    row = np.array([(status, 71, (1, 2, 30, 40), 200, 3)], VerdictRow)[0]
    assert refusal_of(row, CropSpecification(), (50, 60, 3))
