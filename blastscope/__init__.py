"""Leukaemia calls on single blood cells, made by a deep ensemble beside the microscope.

`open_bundle` gives a `Scope`, which turns uint8 RGB images of cells into `Prediction`s and whole frames into `FrameReport`s.
`SHIPPED_BUNDLE` is the bundle that comes with the package, and `synthetic_cell` draws an image to try it on. Everything else
is in the packages `runtime`, `train`, `calibration`, `export` and `benchmarks`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from blastscope.runtime.bundle import Bundle
    from blastscope.runtime.errors import BlastscopeError
    from blastscope.runtime.frames.types import FrameReport
    from blastscope.runtime.inference.voting import SmearCall
    from blastscope.runtime.io.paths import SHIPPED_BUNDLE
    from blastscope.runtime.io.synthetic import synthetic_cell
    from blastscope.runtime.session import Scope, open_bundle
    from blastscope.runtime.types import CLASSES, VOTERS, Prediction

__version__ = "0.1.0"

_HOMES = {
    "CLASSES": "types",
    "SHIPPED_BUNDLE": "io.paths",
    "VOTERS": "types",
    "BlastscopeError": "errors",
    "Bundle": "bundle",
    "FrameReport": "frames.types",
    "Prediction": "types",
    "Scope": "session",
    "SmearCall": "inference.voting",
    "open_bundle": "session",
    "synthetic_cell": "io.synthetic",
}

__all__ = [
    "CLASSES",
    "SHIPPED_BUNDLE",
    "VOTERS",
    "BlastscopeError",
    "Bundle",
    "FrameReport",
    "Prediction",
    "Scope",
    "SmearCall",
    "__version__",
    "open_bundle",
    "synthetic_cell",
]


def __getattr__(name: str) -> Any:
    """Imports the runtime when one of its names is first asked for, so that `import blastscope` stays fast."""
    if name in _HOMES:
        return getattr(import_module(f"blastscope.runtime.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'blastscope' has no attribute '{name}'")
