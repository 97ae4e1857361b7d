"""`timm`, imported in the one place that knows how to: torchvision's CUDA wheel beside a CPU-only torch needs mending first."""

from __future__ import annotations

import importlib
from types import ModuleType

import torch

from blastscope.runtime.errors import MissingLibrary

# torchvision's import asks for two operators that its CUDA library would have brought; declared as long as this list lives
_declared: list[torch.library.Library] = []


def import_timm() -> ModuleType:
    """The module `timm`. Raises `MissingLibrary`."""
    try:
        _mend_torchvision()
        return importlib.import_module("timm")
    except ModuleNotFoundError as error:
        raise MissingLibrary(str(error.name), "train") from error


def _mend_torchvision() -> None:
    """Declares torchvision's operators only where its import really fails for the lack of them."""
    try:
        importlib.import_module("torchvision")
    except RuntimeError as error:
        if _declared or "torchvision::nms" not in str(error):
            raise
        library = torch.library.Library("torchvision", "FRAGMENT")  # type: ignore[no-untyped-call]
        for operator in ("nms", "qnms"):
            library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")  # type: ignore[no-untyped-call]
        _declared.append(library)
