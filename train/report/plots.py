"""The training report's plots, by matplotlib."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from blastscope.runtime.evaluation.metrics import PatientScores
from blastscope.runtime.evaluation.plotting import (
    BLUE,
    FAINT,
    GRAY,
    INK,
    MUTED,
    ORANGE,
    new_figure,
    plot_style,
    png_bytes,
    svg_bytes,
)
from blastscope.runtime.evaluation.rates import roc_curve
from blastscope.runtime.types import VOTERS
from blastscope.train.fit_checkpoint import EpochRow
from blastscope.train.report.data import NAMES, SUBJECTS, VOTE, Report, ReportInput, voter_calls

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = {"all": ORANGE, "hem": BLUE}


class Picture(NamedTuple):
    """One picture in both forms.

    Attributes
    ----------
    name : str
        File name without suffix.
    png, svg : bytes
        The file.
    """

    name: str
    png: bytes
    svg: bytes


def draw_pictures(given: ReportInput, report: Report) -> list[Picture]:
    """Every picture that the run has figures for. Raises `MissingLibrary` without matplotlib."""
    sketches: dict[str, Callable[[], Figure]] = {}
    if any(report.history.values()):
        sketches["curves"] = lambda: draw_curves(report)
    if report.scores:
        sketches |= {
            "confusion": lambda: draw_confusion(report),
            "patients": lambda: draw_patients(report),
            "roc": lambda: draw_roc(given, report),
            "scores": lambda: draw_scores(given),
            "reliability": lambda: draw_reliability(report),
        }
    with plot_style():
        return [_render(name, sketch()) for name, sketch in sketches.items()]


def draw_curves(report: Report) -> Figure:
    """Loss and accuracy by epoch, as the paper's Fig. 4: one column a network."""
    figure = new_figure(9.6, 4.8)
    panels = figure.subplots(2, 3, sharex="col", sharey="row")
    for column, voter in enumerate(VOTERS):
        epochs = report.history[voter]
        for row, name in enumerate(("loss", "accuracy")):
            axes = panels[row, column]
            axes.grid(axis="y")
            _curve(axes, epochs, report.kept.get(voter), name)
            if row == 0:
                axes.set_title(NAMES[voter])
            if column == 0:
                axes.set_ylabel(name)
            if not epochs:
                axes.text(0.5, 0.5, "not trained", transform=axes.transAxes, ha="center", color=MUTED)
        panels[1, column].set_xlabel("epoch")
        panels[1, column].xaxis.get_major_locator().set_params(integer=True)
    handles, labels = next((both for axes in panels.flat if (both := axes.get_legend_handles_labels())[0]), ([], []))
    figure.legend(handles, labels, loc="outside upper right", ncols=3)
    return figure


def _curve(axes: Axes, epochs: tuple[EpochRow, ...], kept: int | None, name: str) -> None:
    dots: dict[str, Any] = {"marker": "o", "markersize": 2.4 if len(epochs) > 10 else 4, "linewidth": 1.3}
    trained = [(row.epoch, getattr(row, f"train_{name}")) for row in epochs]
    validated = [(row.epoch, value) for row in epochs if (value := getattr(row, f"validation_{name}")) is not None]
    if trained:
        axes.plot(*zip(*trained, strict=True), color=GRAY, label="training part", **dots)
    if validated:
        axes.plot(*zip(*validated, strict=True), color=INK, label="validation part", **dots)
    ringed = [point for point in validated or trained if point[0] == kept]
    if ringed:
        ring: dict[str, Any] = {"markersize": 8, "markerfacecolor": "none", "markeredgecolor": INK}
        axes.plot(*zip(*ringed, strict=True), "o", label="weights kept", **ring)
    axes.set_xlim(0, max((row.epoch for row in epochs), default=1) + 1)


def draw_confusion(report: Report) -> Figure:
    """Counts by label and call, shaded by the share of the label's cells, for each voter and the vote."""
    figure = new_figure(9.6, 2.9)
    panels = figure.subplots(1, len(SUBJECTS), sharey=True)
    for axes, subject in zip(panels, SUBJECTS, strict=True):
        counts = np.array(report.scores[subject].confusion)[::-1, ::-1]  # ALL first, as doctors read it
        share = counts / counts.sum(axis=1, keepdims=True)
        axes.imshow(share, cmap="Greys", vmin=0, vmax=1.15)
        for row, column in np.ndindex(2, 2):
            colour = "white" if share[row, column] > 0.55 else INK
            axes.text(column, row - 0.09, f"{counts[row, column]:,}", ha="center", va="center", color=colour, fontsize=13)
            axes.text(column, row + 0.23, f"{share[row, column]:.0%}", ha="center", va="center", color=colour, fontsize=9)
        axes.set_title(NAMES[subject])
        axes.set_xticks([0, 1], ["ALL", "HEM"])
        axes.set_yticks([0, 1], ["ALL", "HEM"])
        axes.set_xlabel("called")
        axes.tick_params(length=0)
        for spine in axes.spines.values():
            spine.set_visible(False)
    panels[0].set_ylabel("label")
    return figure


def draw_patients(report: Report) -> Figure:
    """The share of each patient's cells that the vote calls right; a cross where most are called wrong."""
    rows = report.scores[VOTE].patients
    parts = [[row for row in rows if row.label == label] for label in ("all", "hem")]
    figure = new_figure(9.6, 1.25 + 0.235 * max(map(len, parts)))
    panels = figure.subplots(1, 2, sharex=True, gridspec_kw={"wspace": 0.06})
    longest = max(map(len, parts))
    for axes, part, label in zip(panels, parts, ("all", "hem"), strict=True):
        _patient_bars(axes, sorted(part, key=lambda row: row.accuracy, reverse=True), label)
        axes.set_ylim(longest - 0.4, -0.6)  # bars as thick on both sides
        wrong = sum(row.call != label for row in part)
        patients = "patient" if len(part) == 1 else "patients"
        axes.set_title(f"{label.upper()}: {len(part) - wrong} of {len(part)} {patients} called {label.upper()}")
        axes.set_xlabel(f"share of cells called {label.upper()}")
        axes.set_xlim(0, 1)
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
        axes.grid(axis="x")
    return figure


def _patient_bars(axes: Axes, rows: list[PatientScores], label: str) -> None:
    places = np.arange(len(rows))
    right = [row.call == row.label for row in rows]
    axes.barh(places, [row.accuracy for row in rows], height=0.7, color=COLOURS[label])
    axes.axvline(0.5, color=INK, linewidth=0.8, linestyle=(0, (4, 3)))
    axes.set_yticks(places, [row.patient for row in rows])
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    for place, row, good in zip(places, rows, right, strict=True):
        cells = f"{row.cells:,} cell" + "s" * (row.cells != 1)
        text = cells if good else f"{cells}  ✗ called {row.call.upper()}"
        axes.text(
            1.015,
            float(place),
            text,
            transform=axes.get_yaxis_transform(),
            va="center",
            fontsize=8,
            color=MUTED if good else INK,
        )


def draw_roc(given: ReportInput, report: Report) -> Figure:
    """Sensitivity against false alarms for each voter and the vote, with the vote's call and a threshold for 95 %."""
    figure = new_figure(4.8, 4.6)
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], color=FAINT, linewidth=1)
    styles = {"a": (0, (1, 1.2)), "b": (0, (4, 1.5)), "combined": (0, (6, 1.5, 1, 1.5)), VOTE: "solid"}
    for subject in SUBJECTS:
        curve = roc_curve(given.labels, voter_calls(given, subject)[1])
        axes.plot(
            curve.false_positive_rate,
            curve.true_positive_rate,
            color=INK if subject == VOTE else MUTED,
            linestyle=styles[subject],
            linewidth=2 if subject == VOTE else 1.2,
            label=f"{NAMES[subject]}, {report.scores[subject].auroc.value:.3f}",
        )
    scores = report.scores[VOTE]
    axes.plot(
        1 - scores.specificity.value, scores.sensitivity.value, "o", color=COLOURS["all"], markersize=8, label="the vote's call"
    )
    point = next(one for one in report.operating_points if one.sensitivity_wanted == 0.95)
    axes.plot(
        1 - point.specificity,
        point.sensitivity,
        "D",
        markerfacecolor="white",
        markeredgecolor=COLOURS["all"],
        markeredgewidth=1.6,
        markersize=7,
        label=f"threshold {point.threshold:.3g}",
    )
    axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), aspect="equal")
    axes.set_xlabel("share of HEM cells called ALL (1 - specificity)")
    axes.set_ylabel("share of ALL cells called ALL (sensitivity)")
    axes.set_title("ROC, with the area under each curve")
    axes.legend(loc="lower right", fontsize=8.5)
    return figure


def draw_scores(given: ReportInput) -> Figure:
    """How the vote's score is spread in each class."""
    figure = new_figure(4.8, 4.6)
    panels = figure.subplots(2, 1, sharex=True, sharey=True)
    _, score = voter_calls(given, VOTE)
    edges = np.linspace(0, 1, 26)
    for axes, label, index in zip(panels, ("all", "hem"), (1, 0), strict=True):
        chosen = score[given.labels == index]
        axes.hist(chosen, edges, weights=np.full(len(chosen), 1 / len(chosen)), color=COLOURS[label])
        axes.axvline(0.5, color=INK, linewidth=0.8, linestyle=(0, (4, 3)))
        cells = f"{len(chosen):,} {label.upper()} cell" + "s" * (len(chosen) != 1)
        axes.set_title(cells)
        axes.set_ylabel("share of them")
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
        axes.grid(axis="y")
    panels[1].set_xlabel("the vote's score: probability of ALL")
    panels[1].set_xlim(0, 1)
    return figure


def draw_reliability(report: Report) -> Figure:
    """How often cells with a score are ALL, and how many cells have that score."""
    figure = new_figure(4.8, 4.6)
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=[3.2, 1])
    found = report.scores[VOTE].reliability
    filled = [one for one in found.bins if one.cells]
    upper.plot([0, 1], [0, 1], color=MUTED, linewidth=1, linestyle=(0, (4, 3)))
    upper.plot([one.mean_score for one in filled], [one.share_all for one in filled], color=INK, marker="o", markersize=5)
    upper.set(xlim=(-0.02, 1.02), ylim=(-0.03, 1.03))
    upper.set_ylabel("share that is ALL")
    upper.set_title(f"Reliability, calibration error {found.expected_calibration_error:.3f}")
    upper.grid()
    lower.bar([(one.low + one.high) / 2 for one in found.bins], [one.cells for one in found.bins], width=0.09, color=GRAY)
    lower.set_ylabel("cells")
    lower.set_xlabel("the vote's score: probability of ALL")
    return figure


def _render(name: str, figure: Figure) -> Picture:
    png = png_bytes(figure)
    figure.set_layout_engine("none")  # laid out by the first drawing; the second need not do it again
    return Picture(name, png, svg_bytes(figure))
