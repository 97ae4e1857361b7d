"""Plots of a result: latency distributions, and the comparison of contenders."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from io import BytesIO
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from blastscope.benchmarks.baselines import TORCH_BASELINE
from blastscope.benchmarks.schema import BenchResult, Row
from blastscope.runtime.errors import MissingLibrary

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# of Okabe and Ito's palette, which can be distinguished with any kind of colour vision, and in gray
RUNTIME_COLOR, BASELINE_COLOR, TORCH_COLOR = "#0072b2", "#9aa4ae", "#d55e00"
TEXT_COLOR, MUTED_COLOR = "#1f2328", "#6e7781"
AXIS = "ms, median; the black mark is the roofline of the fused network in the type that the contender computes in"
STYLE: dict[Any, Any] = {
    "font.sans-serif": ["DejaVu Sans"],  # comes with matplotlib: the same picture on every machine
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.edgecolor": MUTED_COLOR,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "text.color": TEXT_COLOR,
    "xtick.color": MUTED_COLOR,
    "ytick.color": TEXT_COLOR,
    "legend.frameon": False,
}


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
    rows = _at_batch(result, 1)
    networks = _networks(rows)
    with _style():
        figure = _figure(9, 0.5 + 2.3 * len(networks))
        for index, network in enumerate(networks):
            axes = figure.add_subplot(len(networks), 1, index + 1)
            _histogram(axes, network, _rows_to_compare(rows, network))
        return _png(figure)


def plot_comparison(result: BenchResult, batch: int = 1) -> bytes:
    """Bars of the medians of all contenders, with the roofline and the speed-up over the PyTorch baseline.

    Parameters
    ----------
    result
        One machine's.
    batch
        Whose rows are drawn.

    Returns
    -------
    bytes
        PNG with one bar chart for each network.

    Raises
    ------
    MissingLibrary
        matplotlib isn't installed.
    """
    rows = _at_batch(result, batch)
    networks = _networks(rows)
    counts = [sum(row.name.startswith(f"{network}/") for row in rows) for network in networks]
    with _style():
        figure = _figure(9, 0.9 + sum(0.6 + 0.27 * count for count in counts))
        grid = figure.add_gridspec(len(networks), 1, height_ratios=counts)
        for index, network in enumerate(networks):
            axes = figure.add_subplot(grid[index])
            _bars(axes, network, [row for row in rows if row.name.startswith(f"{network}/")], batch)
        return _png(figure)


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


def _bars(axes: Axes, network: str, rows: list[Row], batch: int) -> None:
    rows = sorted(rows, key=lambda row: row.p50_ms)
    positions = list(range(len(rows)))
    longest = max(row.p50_ms for row in rows)
    colors = [RUNTIME_COLOR if is_runtime_row(row) else TORCH_COLOR if "/torch" in row.name else BASELINE_COLOR for row in rows]
    axes.barh(positions, [row.p50_ms for row in rows], height=0.7, color=colors)
    for position, row in zip(positions, rows, strict=True):
        axes.text(row.p50_ms + 0.01 * longest, position, _label(row), va="center", fontsize=8)
        if row.roofline_ms:
            ends = [position - 0.35, position + 0.35]
            axes.plot([row.roofline_ms, row.roofline_ms], ends, color=TEXT_COLOR, linewidth=1.6)
    axes.set_yticks(positions, [row.name.removeprefix(f"{network}/") for row in rows])
    axes.invert_yaxis()
    axes.set(xlim=(0, longest * 1.45), title=f"{network}, batch {batch}", xlabel=AXIS)


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


def _at_batch(result: BenchResult, batch: int) -> list[Row]:
    return [row for row in result.rows if row.scope == "pixels" and row.batch == batch and row.runs_all_voters]


def _networks(rows: Sequence[Row]) -> list[str]:
    return list(dict.fromkeys(row.name.split("/")[0] for row in rows))


def _figure(width: float, height: float) -> Figure:
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


@contextmanager
def _style() -> Iterator[None]:
    try:
        from matplotlib import rc_context
    except ImportError as error:
        raise MissingLibrary("matplotlib", "train") from error
    with rc_context(STYLE):
        yield


def _png(figure: Figure) -> bytes:
    png = BytesIO()
    figure.savefig(png, format="png", dpi=130, metadata={"Software": None})
    return png.getvalue()
