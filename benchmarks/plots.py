"""Plots of a result: latency distributions, and the comparison of contenders."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from io import BytesIO
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from blastscope.benchmarks.baselines import BASELINE
from blastscope.benchmarks.schema import BenchResult, Row
from blastscope.runtime.errors import MissingLibrary

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's colours: told apart with any kind of colour vision, and in gray
OURS, THEIRS, TORCH = "#0072b2", "#9aa4ae", "#d55e00"
INK, MUTED, FAINT = "#1f2328", "#6e7781", "#d8dee4"
AXIS = "ms, median; the black mark is the floor of the fused network in the type that the side computes in"
STYLE: dict[Any, Any] = {
    "font.sans-serif": ["DejaVu Sans"],  # comes with matplotlib: the same picture on every machine
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.edgecolor": MUTED,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "text.color": INK,
    "xtick.color": MUTED,
    "ytick.color": INK,
    "legend.frameon": False,
}


def draw_latencies(result: BenchResult) -> bytes:
    """PNG: for each network the times of every call at batch 1: our fastest, the fastest peer and three PyTorch models."""
    rows = _at_batch(result, 1)
    networks = _networks(rows)
    with _style():
        figure = _figure(9, 0.5 + 2.3 * len(networks))
        for place, network in enumerate(networks):
            axes = figure.add_subplot(len(networks), 1, place + 1)
            _histogram(axes, network, _three(rows, network))
        return _png(figure)


def draw_peers(result: BenchResult, batch: int = 1) -> bytes:
    """PNG: for each network a bar a side, the median, its floor, and how many times faster than PyTorch it is."""
    rows = _at_batch(result, batch)
    networks = _networks(rows)
    counts = [sum(row.name.startswith(f"{network}/") for row in rows) for network in networks]
    with _style():
        figure = _figure(9, 0.9 + sum(0.6 + 0.27 * count for count in counts))
        grid = figure.add_gridspec(len(networks), 1, height_ratios=counts)
        for place, network in enumerate(networks):
            axes = figure.add_subplot(grid[place])
            _bars(axes, network, [row for row in rows if row.name.startswith(f"{network}/")], batch)
        return _png(figure)


def is_ours(row: Row) -> bool:
    """Whether the runtime made this row, and no peer."""
    return row.source is None and not row.name.endswith(f"/{BASELINE}")


def _three(rows: Sequence[Row], network: str) -> list[tuple[Row, str]]:
    of_network = [row for row in rows if row.name.startswith(f"{network}/")]
    fastest = sorted(of_network, key=lambda row: row.p50_ms)
    found = [(row, OURS) for row in fastest if is_ours(row)][:1]
    found += [(row, THEIRS) for row in fastest if not is_ours(row) and not row.name.endswith(f"/{BASELINE}")][:1]
    return found + [(row, TORCH) for row in of_network if row.name.endswith(f"/{BASELINE}")]


def _histogram(axes: Axes, network: str, chosen: Sequence[tuple[Row, str]]) -> None:
    samples = [(row, colour, _all(row)) for row, colour in chosen if row.samples_ms]
    if not samples:
        return
    low, high = min(times.min() for _, _, times in samples), max(times.max() for _, _, times in samples)
    edges = [float(edge) for edge in np.geomspace(low * 0.95, high * 1.05, 90)]
    for row, colour, times in samples:
        label = f"{row.name.removeprefix(f'{network}/')}: {len(times)} calls, p50 {row.p50_ms:.1f}, p99 {row.p99_ms:.1f} ms"
        axes.hist(times, edges, weights=np.full(len(times), 100 / len(times)), color=colour, alpha=0.85, label=label)
        axes.axvline(row.p99_ms, color=colour, linewidth=1, linestyle=(0, (4, 3)))
    axes.set(title=f"{network}, batch 1", xscale="log", ylabel="% of calls", xlabel="ms, image in memory to label; dashed: p99")
    _plain_ticks(axes)
    axes.set_ylim(top=1.4 * axes.get_ylim()[1])  # the legend lies above the bars
    axes.legend(loc="upper center", fontsize=8, frameon=True, facecolor="white", edgecolor="none", framealpha=0.9)


def _bars(axes: Axes, network: str, rows: list[Row], batch: int) -> None:
    rows = sorted(rows, key=lambda row: row.p50_ms)
    places = list(range(len(rows)))
    longest = max(row.p50_ms for row in rows)
    colours = [OURS if is_ours(row) else TORCH if "/torch" in row.name else THEIRS for row in rows]
    axes.barh(places, [row.p50_ms for row in rows], height=0.7, color=colours)
    for place, row in zip(places, rows, strict=True):
        axes.text(row.p50_ms + 0.01 * longest, place, _label(row), va="center", fontsize=8)
        if row.floor_ms:
            axes.plot([row.floor_ms, row.floor_ms], [place - 0.35, place + 0.35], color=INK, linewidth=1.6)
    axes.set_yticks(places, [row.name.removeprefix(f"{network}/") for row in rows])
    axes.invert_yaxis()
    axes.set(xlim=(0, longest * 1.45), title=f"{network}, batch {batch}", xlabel=AXIS)


def _label(row: Row) -> str:
    text = f"{row.p50_ms:.1f} ms"
    if row.ratio is not None and not row.name.endswith(f"/{BASELINE}"):
        text += f", {row.ratio:.1f} times faster"
        if row.ratio_low is not None and row.ratio_high is not None:
            text += f" ({row.ratio_low:.1f} to {row.ratio_high:.1f})"
    return f"{text}, busy" if row.busy else text


def _plain_ticks(axes: Axes) -> None:
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())


def _all(row: Row) -> NDArray[np.float64]:
    return np.array([time for calls in row.samples_ms for time in calls])


def _at_batch(result: BenchResult, batch: int) -> list[Row]:
    return [row for row in result.rows if row.what == "pixels" and row.batch == batch and row.whole]


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
