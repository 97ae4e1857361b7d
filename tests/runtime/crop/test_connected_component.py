"""The largest component, against scikit-image's labelling."""

from __future__ import annotations

import numpy as np
from crop_oracles import labelled_largest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from blastscope.runtime.crop.reference import largest_component


@settings(deadline=None, max_examples=200)
@given(mask=arrays(np.bool_, st.tuples(st.integers(1, 14), st.integers(1, 14))))
def test_the_largest_component_is_scikit_images(mask: NDArray[np.bool_]) -> None:
    found = largest_component(mask.astype(np.uint8) * 255)
    assert (found and found.box) == labelled_largest(mask)


def test_a_ring_does_not_hide_the_larger_component_inside() -> None:
    mask = np.zeros((60, 60), np.uint8)
    mask[2:58, 2:58] = 255
    mask[3:57, 3:57] = 0
    mask[10:40, 12:45] = 255
    found = largest_component(mask)
    assert found is not None
    assert found.box == (12, 10, 45, 40)
