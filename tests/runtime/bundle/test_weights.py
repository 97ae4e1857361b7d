"""Weights that are no numbers are found in a graph's bytes, as the ONNX library finds them."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from blastscope.runtime.bundle import read_bundle
from blastscope.runtime.bundle.graphs.reading import bad_weight, check_weights
from blastscope.runtime.errors import BundleError
from blastscope.runtime.session import open_bundle

KINDS = {"float32": TensorProto.FLOAT, "float16": TensorProto.FLOAT16, "float64": TensorProto.DOUBLE}


def model(*weights: onnx.TensorProto) -> bytes:
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])
    made = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "graph", [value], [value], list(weights))
    content: bytes = helper.make_model(made).SerializeToString()
    return content


def weight(values: Any, name: str = "w", kind: str = "float32") -> onnx.TensorProto:
    return numpy_helper.from_array(np.asarray(values, kind), name)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", [0, 7, -1])
def test_one_value_that_is_no_number_gives_the_weights_name(kind: str, bad: float, place: int) -> None:
    values = np.linspace(-3, 3, 2_000)
    assert bad_weight(model(weight(values, "good", kind), weight(values, "other", kind))) is None
    values[place] = bad
    assert bad_weight(model(weight([1.0], "good"), weight(values, "deep.weight", kind))) == "deep.weight"


def test_values_written_as_floats_are_read_too() -> None:
    tensor = helper.make_tensor("w", TensorProto.FLOAT, [3], [1.0, float("nan"), 2.0])
    assert not tensor.raw_data
    assert bad_weight(model(tensor)) == "w"


@pytest.mark.parametrize("values", [[0.0, -np.inf, 0.0, -np.inf], [np.inf], -np.inf, []])
def test_masks_and_limits_may_be_infinite(values: Any) -> None:
    assert bad_weight(model(weight(values))) is None


def test_whole_numbers_are_passed_over() -> None:
    assert bad_weight(model(numpy_helper.from_array(np.full(4, 0x7FC00000, np.int32), "indices"))) is None


@settings(max_examples=200)
@given(data=st.binary(max_size=400), cut=st.integers(0, 400))
def test_damaged_files_hold_no_weight_and_raise_nothing(data: bytes, cut: int) -> None:
    bad_weight(data)
    whole = model(weight(np.arange(60.0)))
    assert bad_weight(whole[:cut]) is None
    bad_weight(whole[:cut] + data + whole[cut:])


def test_a_bundle_with_such_a_weight_is_not_opened(tiny_bundle: Any, tmp_path: Any) -> None:
    good, bad = read_bundle(tiny_bundle.make("fp32", "int8")), tiny_bundle.make("int8", wrong={"int8": np.nan})
    for entry in good.manifest.graphs:
        check_weights(good, entry)
    with pytest.raises(BundleError, match=r"int8/ensemble\.onnx has a weight 'bias' that holds .*: the training diverged"):
        open_bundle(bad, precision="int8", cache_dir=tmp_path / "cache")
