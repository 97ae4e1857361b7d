"""The two classes, the three voters, and the names of precisions, in the order that every array and file keeps."""

from __future__ import annotations

from typing import Literal, get_args

ClassName = Literal["hem", "all"]
Voter = Literal["a", "b", "combined"]
Precision = Literal["fp32", "fp16", "int8"]
Execution = Literal["f32", "bf16", "f16", "int8"]
# of a network on a CPU's cores: whole, A beside B, whole with two cores a stream, or in parts that may be left out
Layout = Literal["fused", "side-by-side", "paired", "staged"]

CLASSES: tuple[ClassName, ...] = get_args(ClassName)  # 1 = ALL, as in the challenge's files
VOTERS: tuple[Voter, ...] = get_args(Voter)
PRECISIONS: tuple[Precision, ...] = get_args(Precision)
EXECUTIONS: tuple[Execution, ...] = get_args(Execution)
LAYOUTS: tuple[Layout, ...] = get_args(Layout)
