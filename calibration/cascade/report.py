"""`CascadeReport`: what a cascade saves and what it costs, for programs as a record and for people as text."""

from __future__ import annotations

from typing import Literal

from blastscope.runtime.bundle.manifest import CascadeResult, Digest, Interval
from blastscope.runtime.io.strict_model import StrictModel
from blastscope.runtime.types import Precision

AIM = 1.5  # times the throughput, what the project wants of a cascade


class CurvePoint(StrictModel):
    """What one threshold would do to all cells, in the engine in which most flip."""

    threshold: float
    flip_rate: float  # share of cells
    skipped: float  # share of the work


class FirstReport(StrictModel):
    """One voter as the first: what all cells choose, and what the choice does to patients left out of it."""

    first: Literal["a", "b"]
    work: float  # its share of the whole network's multiply-adds
    threshold: float | None  # None: it may decide no cell
    flip_rate: Interval  # on the patients left out, in the engine in which most flip
    skipped: float  # on the patients left out
    curve: tuple[CurvePoint, ...]


class CascadeReport(StrictModel):
    """The outcome of `calibrate_cascade`. With `admitted` False the bundle is as it was, and `reason` says why."""

    bundle: str  # path
    digest: Digest  # of the bundle as it is now
    admitted: bool
    reason: str  # why not; empty where it was admitted
    precision: Precision
    engines: tuple[str, ...]
    cells: int
    patients: int
    max_flip_rate: float
    firsts: tuple[FirstReport, ...]
    cascade: CascadeResult | None  # judged; in the manifest where it was admitted
    weighted_f1: tuple[Interval, Interval] | None  # of all voters and of the cascade; None where a class has no cells
    left_out: tuple[str, ...]  # files that the crop refuses

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
            f"  calls changed  {_range(one.flip_rate)} of cells, below {_percent(one.flip_rate_upper)} with 95 % confidence",
            f"                 {_range(one.patient_flip_rate)} of patients, by most of their cells",
            f"  work skipped   {_percent(one.skipped)}",
        ]
        if self.weighted_f1:
            before, after = self.weighted_f1
            lines.append(f"  weighted F1    {_score(before)} of all voters, {_score(after)} of the cascade")
        return lines


def _first(one: FirstReport) -> str:
    threshold = "none" if one.threshold is None else f"{one.threshold:.6f}"
    return _row(one.first, _percent(one.work), threshold, _range(one.flip_rate), _percent(one.skipped))


def _row(*columns: str) -> str:
    return "  " + "".join(f"{text:<{width}}" for text, width in zip(columns, (15, 12, 13, 28, 14), strict=True))


def _percent(share: float) -> str:
    return f"{100 * share:.2f} %"


def _range(interval: Interval) -> str:
    return f"{100 * interval.value:.2f} % ({100 * interval.low:.2f} to {100 * interval.high:.2f})"


def _score(interval: Interval) -> str:
    return f"{interval.value:.4f} ({interval.low:.4f} to {interval.high:.4f})"
