"""The tree of errors: its picture, its exit codes, its messages."""

from __future__ import annotations

import copy
import inspect
import re
from pathlib import Path

import pytest

from blastscope.runtime import errors
from blastscope.runtime.errors import (
    BlastscopeError,
    BundleError,
    Closed,
    ConfigError,
    DataError,
    DigestMismatch,
    FormatTooNew,
    ImageError,
    MissingLibrary,
    UsageError,
    WriteError,
)

TREE = {cls for _, cls in inspect.getmembers(errors, inspect.isclass) if issubclass(cls, BlastscopeError)}
EXAMPLES: list[tuple[BlastscopeError, str]] = [
    (ConfigError("a.toml", ["lr: bad"], known=["lr"]), "configuration 'a.toml': lr: bad; known keys: lr"),
    (DataError("cells", "holds no hem/"), "'cells': holds no hem/"),
    (
        WriteError("c7.zip", OSError(28, "No space left on device")),
        "'c7.zip': can't be written, no space left on device: make room there, or name another place",
    ),
    (BundleError("c7", "no such folder or zip"), "bundle 'c7': no such folder or zip"),
    (
        DigestMismatch("c7", "int8/ensemble.onnx", "is 41 bytes, manifest says 9800212"),
        "bundle 'c7': int8/ensemble.onnx is 41 bytes, manifest says 9800212",
    ),
    (
        FormatTooNew("c7", needed="1.4", supported="1.0"),
        "bundle 'c7': format 1.4 is newer than 1.0: upgrade blastscope to one that reads format 1.4",
    ),
    (MissingLibrary("torch", "train"), "'torch' is not installed: pip install 'blastscope[train]'"),
    (Closed(), "the handle is closed: open the bundle again"),
]


def drawn_tree() -> dict[str, tuple[str, int]]:
    """Name -> (parent, exit code) as the picture at the head of errors.py says."""
    rows: dict[str, tuple[str, int]] = {}
    above: list[str] = []
    for line in inspect.getdoc(errors).splitlines():  # type: ignore[union-attr]
        found = re.match(r"^([ │├└─]*)(\w+)(?: \(\w+\))? +(?:exit code )?(\d)(?:  |$)", line)
        if found:
            depth = len(found[1].removeprefix("    ")) // 4
            above = [*above[:depth], found[2]]
            rows[found[2]] = (above[depth - 1] if depth else "Exception", int(found[3]))
    return rows


def test_the_picture_of_the_tree_is_the_tree() -> None:
    assert drawn_tree() == {cls.__name__: (cls.__bases__[0].__name__, cls.exit_code) for cls in TREE}


@pytest.mark.parametrize(("error", "text"), EXAMPLES, ids=lambda value: type(value).__name__)
def test_a_message_says_what_is_wrong_where_and_what_to_do(error: BlastscopeError, text: str) -> None:
    assert str(error) == text
    assert not text.endswith(".")
    assert text[0] == text[0].lower()


def test_the_facts_are_attributes_too() -> None:
    error = DigestMismatch("c7", "fp32/a.onnx", "is missing")
    assert (error.path, error.file, error.problem) == (Path("c7"), "fp32/a.onnx", "fp32/a.onnx is missing")
    newer = FormatTooNew("c7", needed="2.0", supported="1.0")
    assert (newer.needed, newer.supported) == ("2.0", "1.0")
    assert MissingLibrary("onnxruntime", "onnxruntime").library == "onnxruntime"
    assert MissingLibrary("openvino", "").command == "pip install blastscope"


def test_wrong_usage_is_a_value_error_and_a_bad_bundle_is_not() -> None:
    assert issubclass(ImageError, ValueError)
    assert issubclass(UsageError, ValueError)
    assert not issubclass(BundleError, ValueError)


@pytest.mark.parametrize("error", [example for example, _ in EXAMPLES], ids=lambda error: type(error).__name__)
def test_an_error_survives_the_way_between_processes(error: BlastscopeError) -> None:
    again = copy.deepcopy(error)  # takes the error apart and puts it together as a process pool does
    assert (type(again), str(again), vars(again)) == (type(error), str(error), vars(error))


def test_a_handler_for_a_branch_catches_its_leaves() -> None:
    with pytest.raises(BundleError):
        raise FormatTooNew("c7", needed="2.0", supported="1.0")
