"""libblastscope, built once."""

from __future__ import annotations

import os

import pytest
from native_library import CannotBuild, built_library

from blastscope.benchmarks.libblastscope import NativeLibrary


@pytest.fixture(scope="session")
def native() -> NativeLibrary:
    """The library, built by CMake."""
    try:
        return NativeLibrary(built_library())
    except CannotBuild as error:
        if os.environ.get("CI"):
            pytest.fail(f"{error}: CI must build libblastscope")
        pytest.skip(f"libblastscope can't be built here: {error}")
