"""`CascadeReport`: what a cascade saves and what it costs, for programs as a record and for people as text."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from blastscope.runtime.bundle.manifest import CascadeResult, Digest, Interval
from blastscope.runtime.evaluation.plotting import BLUE, INK, MUTED, ORANGE, new_figure, plot_style, png_bytes
from blastscope.runtime.io.atomic import write_content
from blastscope.runtime.io.strict_model import StrictModel
from blastscope.runtime.types import Precision

if TYPE_CHECKING:
    from matplotlib.axes import Axes

AIM = 1.5  # times the throughput, what the project wants of a cascade
COLOURS = {"a": ORANGE, "b": BLUE}


class CurvePoint(StrictModel):
    """What one threshold would do to all cells, in the engine in which most flip.

    Attributes
    ----------
    threshold : float
        On the first voter's larger probability.
    flip_rate : float
        Share of cells whose call changes.
    skipped : float
        Share of the work that is not done.
    """

    threshold: float
    flip_rate: float
    skipped: float


class FirstReport(StrictModel):
    """One voter as the first: what all cells choose, and what the choice does to patients left out of it.

    Attributes
    ----------
    first : {'a', 'b'}
        The voter.
    work : float
        Its share of the whole network's multiply-adds.
    threshold : float or None
        What all cells choose; None: it may decide no cell.
    flip_rate : Interval
        Share of calls that change on the patients left out, in the engine in which most do.
    skipped : float
        Share of the work that is not done on them.
    curve : tuple of CurvePoint
        With falling threshold.
    """

    first: Literal["a", "b"]
    work: float
    threshold: float | None
    flip_rate: Interval
    skipped: float
    curve: tuple[CurvePoint, ...]


class CascadeReport(StrictModel):
    """The outcome of `calibrate_cascade`.

    Attributes
    ----------
    bundle : str
        Its path.
    digest : str
        Of the bundle as it is now, in hex.
    admitted : bool
        Whether the cascade is in the bundle now; if not, the bundle is as it was.
    reason : str
        Why not; empty where it was admitted.
    precision : {'fp32', 'fp16', 'int8'}
        Of the fused graph that was judged.
    engines : tuple of str
        Names of the backends that ran it.
    cells, patients : int
        How many it was judged on.
    max_flip_rate : float
        Share of calls that may change.
    firsts : tuple of FirstReport
        A and B as first voters.
    cascade : CascadeResult or None
        The one that was judged; in the manifest where it was admitted.
    weighted_f1 : (Interval, Interval) or None
        Of all voters, and of the cascade; None where a class has no cells.
    left_out : tuple of str
        Files that the crop refuses.
    """

    bundle: str
    digest: Digest
    admitted: bool
    reason: str
    precision: Precision
    engines: tuple[str, ...]
    cells: int
    patients: int
    max_flip_rate: float
    firsts: tuple[FirstReport, ...]
    cascade: CascadeResult | None
    weighted_f1: tuple[Interval, Interval] | None
    left_out: tuple[str, ...]

    @property
    def exit_code(self) -> int:
        """0, or 1 where it was not admitted."""
        return 0 if self.admitted else 1

    @property
    def speed(self) -> float:
        """Times the throughput, where the networks are all the work; 1 without a cascade."""
        return 1 / (1 - self.cascade.skipped) if self.cascade else 1.0

    def text(self) -> str:
        """The report for people."""
        judged = "each patient by what all others choose"
        lines = [
            f"cascade {'admitted' if self.admitted else 'refused'}: {self.bundle}",
            f"  asked          the {self.precision} graph in {' and '.join(self.engines)}",
            f"  judged on      {self.cells} cells of {self.patients} validation patients, {judged}",
            f"  allowed        {_percent(self.max_flip_rate)} of calls changed",
            "",
            _row("first voter", "its work", "threshold", "calls changed", "work skipped"),
            *(_first(one) for one in self.firsts),
            "",
        ]
        if self.cascade:
            lines += self._judged(self.cascade)
        lines.append(f"  {self.verdict()}")
        lines += [f"  left out       {name}" for name in self.left_out]
        return "\n".join(line.rstrip() for line in lines)

    def verdict(self) -> str:
        """What to think of it, in one sentence."""
        if not self.admitted:
            return f"not admitted: {self.reason}"
        gain = f"{self.speed:.2f} times the throughput where the networks are all the work"
        if self.speed < AIM:
            return f"{gain}: the networks are too unsure for {AIM:g} times within this bound"
        return gain

    def _judged(self, one: CascadeResult) -> list[str]:
        lines = [
            f"  chosen         {one.first} first, alone from a probability of {one.threshold:.7g} on",
            f"  calls changed  {one.flip_rate.percent()} of cells, below {_percent(one.flip_rate_upper)} with 95 % confidence",
            f"                 {one.patient_flip_rate.percent()} of patients, by most of their cells",
            f"  work skipped   {_percent(one.skipped)}",
        ]
        if self.weighted_f1:
            before, after = self.weighted_f1
            lines.append(f"  weighted F1    {before:.4f} of all voters, {after:.4f} of the cascade")
        return lines


def _first(one: FirstReport) -> str:
    threshold = "none" if one.threshold is None else f"{one.threshold:.6f}"
    return _row(one.first, _percent(one.work), threshold, one.flip_rate.percent(), _percent(one.skipped))


def _row(*columns: str) -> str:
    return "  " + "".join(f"{text:<{width}}" for text, width in zip(columns, (15, 12, 13, 28, 14), strict=True))


def _percent(share: float) -> str:
    return f"{100 * share:.2f} %"


def write_report(folder: Path, report: CascadeReport) -> None:
    """Writes `folder`/cascade.json and cascade.png. Raises `MissingLibrary` without matplotlib."""
    picture, text = draw_cascade(report), report.model_dump_json(indent=2)
    write_content(folder / "cascade.json", text)
    write_content(folder / "cascade.png", picture)


def draw_cascade(report: CascadeReport) -> bytes:
    """A PNG: calls changed and work skipped against the threshold. Raises `MissingLibrary` without matplotlib."""
    with plot_style({"axes.grid": True}):
        figure = new_figure(8.4, 6.4)
        above, below = figure.subplots(2, 1, sharex=True)
        for one in report.firsts:
            _lines(above, below, one)
        _allowed(above, report)
        _wanted(below, report)
        figure.suptitle(_title(report), x=0.01, ha="left", fontsize=11, fontweight="bold")
        return png_bytes(figure)


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
