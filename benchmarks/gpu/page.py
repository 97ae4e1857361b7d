"""The section of benchmarks/RESULTS.md on GPUs: tables of every GPU that was measured, newest first."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from blastscope.benchmarks.gpu.schema import SCOPE_DESCRIPTIONS, GpuCheck, GpuRow, GpuScope
from blastscope.benchmarks.results import read_json

HEAD = """
## On GPUs

One section a run of `make gpu-check`. `ratio` is how many times faster an engine is than three PyTorch models on the same GPU
with the crop on the CPU (the crop alone: than OpenCV), by the medians of the same rounds. A row without times says why its
engine didn't run.
"""
NO_GPU = """
**No GPU has been measured yet.** No machine with one was at hand; what runs without one (the kernels compiled for the host, the
pipeline, the engine builds, pycuda on a fake driver) is in the test suite. No figure stands here until a run has made it.
"""


def gpu_section(results: Path) -> str:
    """The section as Markdown, from the JSON files in the folder `results`.

    Raises
    ------
    ValueError
        A file holds no result of `make gpu-check`.
    """
    checks = [GpuCheck.model_validate(read_json(path)) for path in sorted(results.glob("*.json"))]
    checks.sort(key=lambda check: check.date, reverse=True)
    parts = [HEAD, *(_check_section(check) for check in checks)] if checks else [HEAD, NO_GPU]
    return "".join(parts)


def _check_section(check: GpuCheck) -> str:
    versions = ", ".join(f"{name} {number}" for name, number in check.versions.items())
    lines = [
        f"\n### {check.gpu}, {check.date}\n",
        f"Compute capability {check.capability}, driver {check.driver}, CUDA {check.cuda}; {check.machine.processor}, "
        f"{check.machine.cores} cores; {versions}.\n",
        *_built(check),
        *_crops(check),
        *_agreement_table(check),
    ]
    for scope in SCOPE_DESCRIPTIONS:
        lines += _timing_table(scope, [row for row in check.rows if row.scope == scope])
    lines += [f"- {note}" for note in check.notes]
    return "\n".join(lines).rstrip() + "\n"


def _built(check: GpuCheck) -> Iterator[str]:
    yield from (f"- {name}: {state}" for name, state in check.built.items())
    yield ""


def _crops(check: GpuCheck) -> Iterator[str]:
    for one in check.crops:
        verdict = "identical in every byte" if one.different == 0 else f"**{one.different} differ**"
        verdict = f"**not compared**: {one.problem}" if one.problem else verdict
        yield f"- crops of {one.images} images ({one.source}) against OpenCV: {verdict}"
    yield ""


def _agreement_table(check: GpuCheck) -> Iterator[str]:
    if not check.agreements:
        return
    yield "| network | engine | reference | cells | largest difference | labels changed | |"
    yield "|---|---|---|---|---|---|---|"
    for one in check.agreements:
        figures = ("" if one.difference is None else f"{one.difference:.2g}", "" if one.flips is None else str(one.flips))
        yield f"| {one.network} | {one.engine} | {one.reference} | {one.cells} | {' | '.join(figures)} | {one.problem or ''} |"
    yield ""


def _timing_table(scope: GpuScope, rows: Sequence[GpuRow]) -> Iterator[str]:
    if not rows:
        return
    yield f"\n#### {scope}: {SCOPE_DESCRIPTIONS[scope]}\n"
    yield "| network | engine | batch | p50 ms | p95 ms | p99 ms | cells/s | ratio | |"
    yield "|---|---|---|---|---|---|---|---|---|"
    for row in rows:
        times = " | ".join("" if one is None else f"{one:.3f}" for one in (row.p50_ms, row.p95_ms, row.p99_ms))
        rate = "" if row.per_second is None else f"{row.per_second:.0f}"
        ratio = "" if row.ratio is None else f"{row.ratio:.1f}"
        yield f"| {row.network} | {row.engine} | {row.batch} | {times} | {rate} | {ratio} | {row.problem or ''} |"
    yield ""
