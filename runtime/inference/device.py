"""The device that a caller names: `auto`, `cpu`, `cuda[:n]` or `openvino:NAME`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from blastscope.runtime.errors import UsageError
from blastscope.runtime.io.cpu_info import KNOWN


@dataclass(frozen=True, slots=True)
class Device:
    """A device as the caller named it."""

    kind: Literal["auto", "cpu", "cuda", "openvino"]
    name: str  # as the inference library calls it: 'CPU', 'GPU.0', '0'


CPU = Device("cpu", "CPU")


def parse_device(text: str) -> Device:
    """The device that `text` names: auto, cpu, cuda[:N] or openvino:NAME. Raises `UsageError`.

    `auto` is the first NVIDIA GPU where an engine for it exists or can be built, and else the CPU; device_selection.py decides.
    """
    if not isinstance(text, str):
        raise UsageError(f"device is {text!r}, not text: say {KNOWN}")
    if text == "auto":
        return Device("auto", "0")
    if text == "cpu":
        return CPU
    if found := re.fullmatch(r"cuda(?::(\d{1,3}))?", text):
        return Device("cuda", found[1] or "0")
    if found := re.fullmatch(r"openvino:([A-Za-z0-9_.]+)", text):
        return Device("openvino", found[1].upper())
    raise UsageError(f"device '{text}' is not known: say {KNOWN}")
