"""libblastscope and the classes over it, built once."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest
from made_once import made_once
from native_bindings import Binding, built_binding
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


@pytest.fixture(scope="session")
def build_binding(native: NativeLibrary, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Binding]:
    """Gives the class in a language, built as its `make` target builds it, one for all processes."""

    def built(language: str) -> Binding:
        folder = made_once(tmp_path_factory, language, lambda folder: built_binding(language, folder))
        return Binding(language, folder, native.path)

    return built
