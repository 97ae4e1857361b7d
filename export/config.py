"""`ExportConfig`: what an export may choose."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from blastscope.runtime.io.strict_model import StrictModel


class ExportConfig(StrictModel):
    """Which graphs are written, and what they are checked on."""

    name: str | None = Field(default=None, min_length=1, max_length=80)  # of the bundle; None: the run's folder
    # int8 comes from `calibrate`, through its gate
    precisions: tuple[Literal["fp32", "fp16"], ...] = Field(default=("fp32", "fp16"), min_length=1)
    fused_only: bool = False  # leave the three single models out
    drawn: bool = False  # golden set and check on drawn cells, so that no patient's cell is given away with the bundle
    golden_cells: int = Field(default=16, ge=2, le=16)
    parity_cells: int = Field(default=48, ge=8)  # crops on which each graph is compared with PyTorch
    seed: int = Field(default=0, ge=0)
