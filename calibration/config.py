"""`CalibrationConfig`: how the int8 graph is made, and what it must keep to be let in."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from blastscope.runtime.io.strict_model import NotBool, StrictModel
from blastscope.runtime.types import Precision

Method = Literal["minmax", "entropy", "percentile"]


class OperatingPointConfig(StrictModel):
    """The threshold on the vote's score that reaches a wanted sensitivity on validation patients.

    Attributes
    ----------
    sensitivity : float
        Wanted share of ALL cells called ALL, 0 to 1.
    """

    sensitivity: float = Field(gt=0, le=1)


class CascadeConfig(StrictModel):
    """What a cascade may cost.

    Attributes
    ----------
    max_flip_rate : float
        Largest share of cells whose call may change.
    precision : Precision or None
        Precision of the graph that is judged; None: int8 where the bundle has it, else fp32, else fp16.
    draws : int
        Draws of the bootstrap over patients.
    """

    renamed_keys: ClassVar[Mapping[str, str]] = {"flips_at_most": "max_flip_rate"}
    max_flip_rate: float = Field(default=0.002, ge=0, lt=1)
    precision: Precision | None = None
    draws: int = Field(default=1000, ge=20)


class CalibrationConfig(StrictModel):
    """One calibration. The limits of the gate are the project's: at most 2 % of votes flipped, 0.5 points of F1 lost.

    Attributes
    ----------
    method : Method or {'auto'}
        How ranges are chosen; 'auto' tries several.
    correct : bool
        Whether biases make good what rounding takes on average; tried without too with method = "auto".
    equalise : bool
        Whether channels of layers in a row are brought to like ranges; tried with method = "auto" alone.
    percentile : float
        Percentile of the absolute values that ends the range; with method = "percentile".
    float_layers : tuple of str
        Names of layers that stay fp32; no others are searched for then.
    weight_bits : {7, 8}
        Bits of an int8 weight that are used; 8 is wrong on x86 CPUs without VNNI.
    cells : int
        Cells of the calibration sample.
    files : tuple of str
        File names of the cells to calibrate on; none: a sample is drawn.
    search_cells : int
        Cells that judge methods and layers; they set no range and have no part in the gate.
    search : bool
        Where the gate fails: leave the layers that cost most in fp32.
    search_blocks : int
        Pieces into which the layers are cut.
    search_share : float
        Largest share of the multiply-adds that may stay fp32.
    search_minutes : float
        Minutes after which the search ends.
    seed : int
        The same seed gives the same result.
    max_flip_rate : float
        Largest share of cells whose call may change.
    max_f1_drop_points : float
        Largest loss of weighted F1, in points of 100.
    draws : int
        Draws of the bootstrap over patients.
    operating_point : OperatingPointConfig or None
        The threshold that is chosen; None: none is.
    cascade : CascadeConfig
        What a cascade may cost, for `calibrate --cascade`.
    """

    renamed_keys: ClassVar[Mapping[str, str]] = {"flips_at_most": "max_flip_rate", "f1_loss_at_most": "max_f1_drop_points"}
    # auto: method, bias correction and equalisation are those that move the calls least on the search cells
    method: Method | Literal["auto"] = "auto"
    correct: bool = True
    equalise: bool = True
    percentile: float = Field(default=99.999, gt=90, le=100)
    float_layers: tuple[str, ...] = ()
    # 7: weights within 64 of 127. CPUs without VNNI add two products in 16 bits: 2 x 255 x 127 overflows, 2 x 255 x 64 doesn't.
    # With 8 the same file answered up to 0.8 off in OpenVINO and in ONNX Runtime on an AVX2 machine, so that a CPU without VNNI
    # neither judges such a graph nor opens it
    weight_bits: Annotated[Literal[7, 8], NotBool] = 7
    cells: int = Field(default=192, ge=2)
    files: tuple[str, ...] = ()
    search_cells: int = Field(default=96, ge=2)
    search: bool = True
    search_blocks: int = Field(default=32, ge=2)
    search_share: float = Field(default=0.25, ge=0, lt=1)
    search_minutes: float = Field(default=15, gt=0)
    seed: int = Field(default=0, ge=0)
    max_flip_rate: float = Field(default=0.02, ge=0, le=1)
    max_f1_drop_points: float = Field(default=0.5, ge=0)
    draws: int = Field(default=1000, ge=20)
    operating_point: OperatingPointConfig | None = None
    cascade: CascadeConfig = CascadeConfig()
