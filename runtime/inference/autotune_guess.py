"""Guesses which execution is fastest on a CPU that nothing was measured on yet, by its instruction sets.

The first opening takes the likely fastest, and the measurement corrects the guess from the next opening on. Milliseconds a
crop of two EfficientNet-Lite0 at 144 px, in OpenVINO with one thread, on one CPU held to the instruction sets of each kind (the
frozen trunk at 288 px gives the same order):

    AVX2 or AVX-512 without VNNI     f32 7.4 (12.7 with AVX2), int8 4.7 (8.3); bf16 would be emulated
    VNNI                             f32 7.5, int8 3.5
    VNNI and bf16                    f32 7.4, bf16 4.2, int8 3.3
    AMX                              not measured: the same order, for its peak in int8 is twice that in bf16
    any other                        as it was: int8 last, which takes longest to load
"""

from __future__ import annotations

from collections.abc import Set as AbstractSet

from blastscope.runtime.types import Execution

OTHERWISE: tuple[Execution, ...] = ("bf16", "f16", "f32", "int8")
_BF16 = {"avx512_bf16", "amx_bf16"}


def likely_fastest(features: AbstractSet[str]) -> tuple[Execution, ...]:
    """The executions in the order in which a CPU with these `features`, named as in Linux, is likely fast, fastest first."""
    if "avx2" not in features:
        return OTHERWISE
    return ("int8", "bf16", "f32", "f16") if _BF16 & features else ("int8", "f32", "bf16", "f16")
