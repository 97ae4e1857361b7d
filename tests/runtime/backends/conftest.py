"""A bundle, and keys of engines of its graph, for what stores and trusts engines."""

from __future__ import annotations

from typing import Any

import pytest
from stored_engines import GPU

from blastscope.runtime.backends.tensorrt.key import EngineKey, engine_key
from blastscope.runtime.bundle import Bundle, read_bundle


@pytest.fixture
def bundle(tiny_bundle: Any) -> Bundle:
    return read_bundle(tiny_bundle.make("fp32", "int8"))


@pytest.fixture
def key(bundle: Bundle) -> EngineKey:
    """Of an engine built ahead of time for two kinds of GPU."""
    return engine_key(bundle.manifest.graphs[0], "tensorrt-rtx", "1.7.1.116", targets=("sm86", "sm120"))


@pytest.fixture
def here(key: EngineKey) -> EngineKey:
    """What the machine with the GPU asks for."""
    return key.model_copy(update={"gpu": GPU, "targets": ()})
