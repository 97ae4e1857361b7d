"""Plots of the cascade's report: calls changed and work saved by threshold."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from blastscope.calibration.cascade.report import AIM, CascadeReport, FirstReport
from blastscope.runtime.errors import MissingLibrary
from blastscope.runtime.io.atomic import write_content

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Okabe and Ito's colours: told apart with any kind of colour vision, and in gray
COLOURS = {"a": "#d55e00", "b": "#0072b2"}
INK, MUTED, FAINT = "#1f2328", "#6e7781", "#d8dee4"
STYLE: dict[Any, Any] = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],  # comes with matplotlib: the same picture on every machine
    "font.size": 9.5,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "text.color": INK,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "grid.color": FAINT,
    "grid.linewidth": 0.7,
    "legend.frameon": False,
}


def write_report(folder: Path, report: CascadeReport) -> None:
    """Writes `folder`/cascade.json and cascade.png. Raises `MissingLibrary` without matplotlib."""
    picture, text = draw_cascade(report), report.model_dump_json(indent=2)
    write_content(folder / "cascade.json", text)
    write_content(folder / "cascade.png", picture)


def draw_cascade(report: CascadeReport) -> bytes:
    """A PNG: calls changed and work skipped against the threshold. Raises `MissingLibrary` without matplotlib."""
    try:
        import matplotlib as mpl
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingLibrary("matplotlib", "train") from error
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(8.4, 6.4), layout="constrained")
        above, below = figure.subplots(2, 1, sharex=True)
        for one in report.firsts:
            _lines(above, below, one)
        _allowed(above, report)
        _wanted(below, report)
        figure.suptitle(_title(report), x=0.01, ha="left", fontsize=11, fontweight="bold")
        content = BytesIO()
        figure.savefig(content, format="png", dpi=150, metadata={"Software": None})
    return content.getvalue()


def _lines(above: Axes, below: Axes, one: FirstReport) -> None:
    at = [point.threshold for point in one.curve]
    named: dict[str, Any] = {"color": COLOURS[one.first], "label": f"{one.first} first"}
    above.plot(at, [100 * point.flip_rate for point in one.curve], drawstyle="steps-post", **named)
    below.plot(at, [100 * point.skipped for point in one.curve], **named)
    if one.threshold is None:
        return
    place = max(int(np.searchsorted([-value for value in at], -one.threshold)) - 1, 0)
    above.plot([one.threshold], [100 * one.flip_rate.value], "o", color=COLOURS[one.first])
    spread = [[one.flip_rate.value - one.flip_rate.low], [one.flip_rate.high - one.flip_rate.value]]
    above.errorbar([one.threshold], [100 * one.flip_rate.value], 100 * np.array(spread), color=COLOURS[one.first], capsize=3)
    below.plot([one.threshold], [100 * one.curve[place].skipped], "o", color=COLOURS[one.first])


def _allowed(axes: Axes, report: CascadeReport) -> None:
    bound = 100 * report.max_flip_rate
    axes.axhline(bound, color=INK, linewidth=0.9, linestyle="--")
    axes.annotate(f"{bound:g} % allowed", (1, bound), (-4, 4), ha="right", textcoords="offset points", color=MUTED)
    axes.set_ylabel("% of calls changed")
    tall = max([bound, *(100 * one.flip_rate.high for one in report.firsts)])
    axes.set_ylim(-0.04 * tall, 4 * max(tall, 0.05))  # near the bound, where it matters
    axes.set_xlim(0.498, 1.002)
    axes.legend(loc="upper right", title="lines: all cells; dots: patients left out,\nwith 95 % interval", alignment="left")


def _wanted(axes: Axes, report: CascadeReport) -> None:
    wanted = 100 * (1 - 1 / AIM)
    axes.axhline(wanted, color=INK, linewidth=0.9, linestyle="--")
    axes.annotate(f"{AIM:g} times the throughput", (1, wanted), (-4, 4), ha="right", textcoords="offset points", color=MUTED)
    axes.set_ylabel("% of the work skipped")
    axes.set_ylim(0, 100 * max(1 - one.work for one in report.firsts) + 4)
    axes.set_xlabel("threshold on the first voter's larger probability")


def _title(report: CascadeReport) -> str:
    where = f"{report.precision}, {report.cells} cells of {report.patients} patients"
    if report.cascade is None:
        return f"No cascade holds ({where})"
    chosen = report.cascade
    return (
        f"{chosen.first} decides alone from {chosen.threshold:.4f} on: {100 * chosen.flip_rate.value:.2f} % of calls change, "
        f"{100 * chosen.skipped:.0f} % of the work is skipped\n({where})"
    )
