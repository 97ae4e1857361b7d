"""benchmarks/RESULTS.md: the results of CPUs and GPUs, from the files in results/, with two plots for each CPU.

One plot shows the distributions of latency, the other the contenders side by side.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from blastscope.benchmarks.baselines import TORCH_BASELINE
from blastscope.benchmarks.gpu_schema import gpu_section
from blastscope.benchmarks.native import native_table
from blastscope.benchmarks.results import merge_results, read_result, write_result
from blastscope.benchmarks.schema import FIRST_VOTER_SUFFIX, SCOPE_DESCRIPTIONS, BenchResult, MeasuredScope, Row
from blastscope.benchmarks.serve import served_table
from blastscope.runtime.errors import BlastscopeError
from blastscope.runtime.evaluation.plotting import BLUE, GRAY, INK, ORANGE, new_figure, plot_style, png_bytes

if TYPE_CHECKING:
    from matplotlib.axes import Axes

RUNTIME_COLOR, BASELINE_COLOR, TORCH_COLOR = BLUE, GRAY, ORANGE
AXIS = "ms, median; the black mark is the roofline of the fused network in the type that the contender computes in"
STYLE = {"font.size": 9, "axes.titlesize": 10, "ytick.color": INK}  # names of contenders stand at the ticks
BENCHMARKS = Path(__file__).resolve().parent
HEAD = """# Results

Made by `make bench` and `make gpu-check` from [results/](results/), one file a machine; not written by hand.
[README.md](README.md) says how the figures are measured.

## On CPUs
"""
# what a CPU's machine is named after, the fastest first
INSTRUCTIONS = {"amx_int8": "AMX", "avx512_vnni": "AVX-512 VNNI", "avx_vnni": "AVX-VNNI", "avx512f": "AVX-512", "avx2": "AVX2"}
NO_CPU = "\n**No CPU has been measured yet.**\n"
STAGES: tuple[MeasuredScope, ...] = (
    *("crop", "decode", "frame", "examine", "network", "benchmark_app", "files", "callers", "load", "cold"),
)


def plot_latencies(result: BenchResult) -> bytes:
    """Histograms of all calls at batch 1: the runtime's fastest row, the fastest baseline and the PyTorch baseline.

    Parameters
    ----------
    result
        One machine's.

    Returns
    -------
    bytes
        PNG with one histogram for each network.

    Raises
    ------
    MissingLibrary
        matplotlib isn't installed.
    """
    rows = _at_batch_1(result)
    networks = _networks(rows)
    with plot_style(STYLE):
        figure = new_figure(9, 0.5 + 2.3 * len(networks))
        for index, network in enumerate(networks):
            axes = figure.add_subplot(len(networks), 1, index + 1)
            _histogram(axes, network, _rows_to_compare(rows, network))
        return png_bytes(figure, dpi=130)


def plot_comparison(result: BenchResult) -> bytes:
    """Bars of the medians of all contenders at batch 1, with the roofline and the speed-up over the PyTorch baseline.

    Parameters
    ----------
    result
        One machine's.

    Returns
    -------
    bytes
        PNG with one bar chart for each network.

    Raises
    ------
    MissingLibrary
        matplotlib isn't installed.
    """
    rows = _at_batch_1(result)
    networks = _networks(rows)
    counts = [sum(row.name.startswith(f"{network}/") for row in rows) for network in networks]
    with plot_style(STYLE):
        figure = new_figure(9, 0.9 + sum(0.6 + 0.27 * count for count in counts))
        grid = figure.add_gridspec(len(networks), 1, height_ratios=counts)
        for index, network in enumerate(networks):
            axes = figure.add_subplot(grid[index])
            _bars(axes, network, [row for row in rows if row.name.startswith(f"{network}/")])
        return png_bytes(figure, dpi=130)


def is_runtime_row(row: Row) -> bool:
    """Whether the row is the runtime's, not a baseline's."""
    return row.source is None and not _is_torch_baseline(row)


def _is_torch_baseline(row: Row) -> bool:
    return row.name.endswith(f"/{TORCH_BASELINE}")


def _rows_to_compare(rows: Sequence[Row], network: str) -> list[tuple[Row, str]]:
    of_network = [row for row in rows if row.name.startswith(f"{network}/")]
    fastest = sorted(of_network, key=lambda row: row.p50_ms)
    found = [(row, RUNTIME_COLOR) for row in fastest if is_runtime_row(row)][:1]
    found += [(row, BASELINE_COLOR) for row in fastest if not is_runtime_row(row) and not _is_torch_baseline(row)][:1]
    return found + [(row, TORCH_COLOR) for row in of_network if _is_torch_baseline(row)]


def _histogram(axes: Axes, network: str, chosen: Sequence[tuple[Row, str]]) -> None:
    samples = [(row, color, _all_calls(row)) for row, color in chosen if row.samples_ms]
    if not samples:
        return
    low, high = min(times.min() for _, _, times in samples), max(times.max() for _, _, times in samples)
    edges = [float(edge) for edge in np.geomspace(low * 0.95, high * 1.05, 90)]
    for row, color, times in samples:
        label = f"{row.name.removeprefix(f'{network}/')}: {len(times)} calls, p50 {row.p50_ms:.1f}, p99 {row.p99_ms:.1f} ms"
        axes.hist(times, edges, weights=np.full(len(times), 100 / len(times)), color=color, alpha=0.85, label=label)
        axes.axvline(row.p99_ms, color=color, linewidth=1, linestyle=(0, (4, 3)))
    axes.set(title=f"{network}, batch 1", xscale="log", ylabel="% of calls", xlabel="ms, image in memory to label; dashed: p99")
    _plain_ticks(axes)
    axes.set_ylim(top=1.4 * axes.get_ylim()[1])  # the legend lies above the bars
    axes.legend(loc="upper center", fontsize=8, frameon=True, facecolor="white", edgecolor="none", framealpha=0.9)


def _bars(axes: Axes, network: str, rows: list[Row]) -> None:
    rows = sorted(rows, key=lambda row: row.p50_ms)
    positions = list(range(len(rows)))
    longest = max(row.p50_ms for row in rows)
    colors = [RUNTIME_COLOR if is_runtime_row(row) else TORCH_COLOR if "/torch" in row.name else BASELINE_COLOR for row in rows]
    axes.barh(positions, [row.p50_ms for row in rows], height=0.7, color=colors)
    for position, row in zip(positions, rows, strict=True):
        axes.text(row.p50_ms + 0.01 * longest, position, _label(row), va="center", fontsize=8)
        if row.roofline_ms:
            ends = [position - 0.35, position + 0.35]
            axes.plot([row.roofline_ms, row.roofline_ms], ends, color=INK, linewidth=1.6)
    axes.set_yticks(positions, [row.name.removeprefix(f"{network}/") for row in rows])
    axes.invert_yaxis()
    axes.set(xlim=(0, longest * 1.45), title=f"{network}, batch 1", xlabel=AXIS)


def _label(row: Row) -> str:
    text = f"{row.p50_ms:.1f} ms"
    if row.ratio is not None and not _is_torch_baseline(row):
        text += f", {row.ratio:.1f} times faster"
        if row.ratio_low is not None and row.ratio_high is not None:
            text += f" ({row.ratio_low:.1f} to {row.ratio_high:.1f})"
    return f"{text}, busy" if row.busy else text


def _plain_ticks(axes: Axes) -> None:
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())


def _all_calls(row: Row) -> NDArray[np.float64]:
    return np.array([time for calls in row.samples_ms for time in calls])


def _at_batch_1(result: BenchResult) -> list[Row]:
    return [row for row in result.rows if row.scope == "pixels" and row.batch == 1 and row.runs_all_voters]


def _networks(rows: Sequence[Row]) -> list[str]:
    return list(dict.fromkeys(row.name.split("/")[0] for row in rows))


def write_page(page: Path, results: Path) -> None:
    """Writes RESULTS.md and its plots, from all result files.

    Parameters
    ----------
    page
        The Markdown file.
    results
        Folder of the results: CPUs in cpu/*.json, GPUs in *.json.
    """
    found = [(path.stem, read_result(path)) for path in sorted((results / "cpu").glob("*.json"))]
    parts = [HEAD, *(_cpu_section(stem, result) for stem, result in found)] if found else [HEAD, NO_CPU]
    page.write_text("".join([*parts, gpu_section(results)]), encoding="utf-8")


def publish(result: BenchResult, out: Path) -> Path:
    """Writes `result` and its plots to `out`/results, and the page `out`/RESULTS.md again. Returns the result's file."""
    path = result_file(result, out)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_result(path, result)
    if any(row.scope == "pixels" for row in result.rows):
        for name, png in (("latency", plot_latencies(result)), ("comparison", plot_comparison(result))):
            (out / "results" / f"{path.stem}-{name}.png").write_bytes(png)
    write_page(out / "RESULTS.md", out / "results")
    return path


def result_file(result: BenchResult, out: Path) -> Path:
    """Where `publish` writes the result of that machine."""
    return out / "results" / "cpu" / f"{machine_slug(result)}.json"


def machine_slug(result: BenchResult) -> str:
    """The file name of a machine's result, without suffix, such as 'amd-epyc-avx512-vnni-2-cores'."""
    text = _machine_name(result).lower()
    return "-".join("".join(letter if letter.isalnum() else " " for letter in text).split())


def _machine_name(result: BenchResult) -> str:
    # a virtual machine's processor may hide its model: "AMD EPYC" is any of five generations, with other instructions
    machine = result.machine
    widest = [name for feature, name in INSTRUCTIONS.items() if feature in machine.features][:1]
    return ", ".join([machine.processor, *widest, f"{machine.cores} cores"])


def _cpu_section(stem: str, result: BenchResult) -> str:
    lines = [f"\n### {_machine_name(result)}\n", *_machine(result), ""]
    pixels = [row for row in result.rows if row.scope == "pixels"]
    if pixels:
        lines += [
            f"![latency of every call](results/{stem}-latency.png)",
            f"![contenders compared](results/{stem}-comparison.png)",
        ]
        lines += [""]
    for network, batch in dict.fromkeys((row.name.split("/")[0], row.batch) for row in pixels):
        rows = [row for row in pixels if row.name.startswith(f"{network}/") and row.batch == batch]
        lines += _contender_table(network, batch, rows)
    for scope in STAGES:
        lines += _stage_table(scope, [row for row in result.rows if row.scope == scope])
    lines += [*native_table(result.rows), *served_table(result.rows)]
    lines += [*_baseline_table(pixels), *(f"- {note}" for note in result.notes)]
    return "\n".join(lines).rstrip() + "\n"


def _machine(result: BenchResult) -> Iterator[str]:
    machine, rows = result.machine, result.rows
    days = sorted({row.measured[:10] for row in rows if row.measured})
    features = ", ".join(machine.features) or "no AVX2, AVX-512 or AMX"
    governor = f"governor {machine.governor}" if machine.governor else "governor unknown, as on most virtual machines"
    versions = ", ".join(f"{name} {number}" for name, number in result.versions.items())
    yield f"{features}; {machine.system}, Python {machine.python}; {governor}; {versions}; measured {', '.join(days)}.\n"
    for peak in machine.peaks:
        yield f"- {peak.execution} peak, measured in the same run: {peak.gmacs:.0f} GMAC/s ({peak.kernel})"
    busy = sum(row.busy for row in rows)
    if busy:
        yield f"- **Other processes disturbed {busy} of {len(rows)} rows**; they are marked, and no call was dropped"


def _contender_table(network: str, batch: int, rows: Sequence[Row]) -> Iterator[str]:
    gmac = next((row.gmac for row in rows if row.gmac), None)
    rooflines = {row.execution: row.roofline_ms for row in rows if row.roofline_ms}
    yield f"#### {network}, batch {batch}: {SCOPE_DESCRIPTIONS['pixels']}\n"
    if gmac and rooflines:
        times = ", ".join(f"{roofline_ms:.1f} ms in {execution}" for execution, roofline_ms in rooflines.items())
        yield f"The fused network takes {gmac:.2f} GMAC, so at the measured peak {times} at least. Where a result was"
        yield "measured in several runs, each ratio is to the PyTorch baseline of its own run.\n"
    yield "| contender | calls | p50 ms | p95 | p99 | p99.9 | max | times faster (95 %) | of peak | load s | peak MiB | |"
    yield "|---|---|---|---|---|---|---|---|---|---|---|---|"
    for row in sorted(rows, key=lambda row: row.p50_ms):
        times = " | ".join(_number(one, 1) for one in (row.p50_ms, row.p95_ms, row.p99_ms, row.p999_ms, row.max_ms))
        fraction = "" if row.peak_fraction is None else f"{row.peak_fraction:.0%}"
        cold_start = f"{_number(row.load_s, 2)} | {_number(row.peak_mib, 0)}"
        name = row.name.removeprefix(f"{network}/")
        yield f"| `{name}` | {row.calls} | {times} | {_ratio(row)} | {fraction} | {cold_start} | {_busy(row)} |"
    yield ""
    if not all(row.runs_all_voters for row in rows):
        yield f"With `{FIRST_VOTER_SUFFIX[1:]}` A decides every cell at once: no cascade is faster.\n"


def _ratio(row: Row) -> str:
    if row.ratio is None:
        return ""
    if row.ratio_low is None or row.ratio_high is None or row.ratio_low == row.ratio_high:
        return f"{row.ratio:.2f}"
    return f"{row.ratio:.2f} ({row.ratio_low:.2f} to {row.ratio_high:.2f})"


def _busy(row: Row) -> str:
    return f"busy: other processes took up to {row.other_cpu_share or 0:.0%}" if row.busy else ""


def _stage_table(scope: MeasuredScope, rows: Sequence[Row]) -> Iterator[str]:
    if not rows:
        return
    compared = any(row.benchmark_app_ms for row in rows)
    yield f"#### {scope}: {SCOPE_DESCRIPTIONS[scope]}\n"
    extra_head = " benchmark_app, ms | ratio to it |" if compared else ""
    yield f"| | batch | p50 ms | p95 | max | cells/s | peak MiB |{extra_head} |"
    yield f"|---|---|---|---|---|---|---|{'---|---|' if compared else ''}---|"
    for row in rows:
        times = " | ".join(_number(one, 2) for one in (row.p50_ms, row.p95_ms, row.max_ms))
        extra = ""
        if compared:
            median_ms = row.benchmark_app_ms
            extra = f" {median_ms:.2f} | {row.p50_ms / median_ms:.2f} |" if median_ms else " | |"
        rate = _number(row.cells_per_second, 1) if scope not in ("load", "cold") else ""
        yield f"| `{row.name}` | {row.batch} | {times} | {rate} | {_number(row.peak_mib, 0)} |{extra} {_busy(row)} |"
    yield ""


def _baseline_table(rows: Sequence[Row]) -> Iterator[str]:
    configs = {row.name.split("/")[2]: (row.config, row.source) for row in rows if row.config}
    if not configs:
        return
    yield "#### How the baselines are run, and who advises it\n"
    yield "| baseline | configuration | source |"
    yield "|---|---|---|"
    for engine, (config, source) in configs.items():
        yield f"| `{engine}` | {config} | <{source}> |"
    yield ""


def _number(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Merges the results that are named, and writes the page. Returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m blastscope.benchmarks.results_page", description="Write RESULTS.md from results."
    )
    parser.add_argument(
        "results", nargs="*", type=Path, help="results of `blastscope bench --json` and of the suite, one machine's"
    )
    parser.add_argument("--add", action="store_true", help="keep the rows of this machine that were published before")
    parser.add_argument("--out", type=Path, default=BENCHMARKS, help="where RESULTS.md and results/ are")
    options = parser.parse_args(arguments)
    try:
        if options.results:
            found = [read_result(result) for result in options.results]
            published = result_file(found[0], options.out)
            if options.add and published.exists():
                found.insert(0, read_result(published))
            path = publish(merge_results(found), options.out)
            sys.stderr.write(f"written: '{path}'\n")
        write_page(options.out / "RESULTS.md", options.out / "results")
    except BlastscopeError as error:
        sys.stderr.write(f"{parser.prog}: {error}\n")
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
