"""Stream layouts: how many OpenVINO streams of how many threads, and whether A and B run side by side.

Which layout is fastest depends on network, machine and workload; inference/autotune.py measures those that a backend offers.
"""

from __future__ import annotations

from typing import NamedTuple

from blastscope.runtime.backends.protocol import Workload
from blastscope.runtime.errors import UsageError
from blastscope.runtime.types import Layout

PARTS = ("stem", "a", "b", "rest", "opinion")  # in the order of `partition.Partition`


class StreamConfig(NamedTuple):
    """What of the cores a network, or a part of one, may use."""

    streams: int  # requests that are worked on at the same time
    threads: int  # of all streams together


class ExecutionPlan(NamedTuple):
    """A layout on so many cores."""

    lanes: int
    shares: tuple[StreamConfig, ...]  # one: the network is whole; five: its parts
    together: bool = False  # A and B run at the same time


def available_layouts(workload: Workload, threads: int) -> tuple[Layout, ...]:
    """The layouts worth measuring, the one that is taken unmeasured first.

    Side by side, A and B don't wait for each other's threads at every operator: measured on two cores, 10 % less at batch 1.
    """
    if threads < 2:
        return ("fused",)
    return ("fused", "side-by-side") if workload == "latency" else ("fused", "paired")


def execution_plan(layout: Layout, workload: Workload, threads: int) -> ExecutionPlan:
    """What `layout` means on `threads` cores. Raises `UsageError` for one that this workload or so few cores don't have."""
    many = threads if workload == "throughput" else 1
    whole = StreamConfig(many, threads)
    if layout == "fused":
        return ExecutionPlan(many, (whole,))
    if layout == "staged":
        return ExecutionPlan(many, (whole,) * len(PARTS))
    there = available_layouts(workload, threads)
    if layout not in there:
        raise UsageError(f"layout '{layout}' is not for {workload} on {threads} cores: {', '.join(there)} may be had")
    if layout == "paired":
        pairs = threads // 2
        return ExecutionPlan(pairs, (StreamConfig(pairs, threads),))
    half = threads // 2
    return ExecutionPlan(1, (whole, StreamConfig(1, threads - half), StreamConfig(1, half), whole, whole), together=True)
