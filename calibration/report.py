"""`CalibrationReport`: what a calibration did, for programs as a record and for people as text."""

from __future__ import annotations

from pydantic import Field

from blastscope.calibration.config import CalibrationConfig
from blastscope.runtime.bundle.manifest import Digest, GateResult, Interval, OperatingPoint, Scores
from blastscope.runtime.record import Record


class RefusedCell(Record):
    """A cell that took no part, and why."""

    file: str
    reason: str


class CalibrationReport(Record):
    """The outcome of `calibrate`. With `admitted` False the bundle has no int8 graph, and `failures` says why."""

    bundle: str  # path
    digest: Digest  # of the bundle as it is now
    admitted: bool
    failures: tuple[str, ...]
    gates: tuple[GateResult, ...] = Field(min_length=1)  # one for each engine that judged
    golden_difference: float  # of the int8 graph on the golden set
    golden_flips: int
    tolerance: float | None  # of int8 executions, when admitted
    graphs: tuple[str, ...]  # int8 files that the bundle now has
    sample: tuple[str, ...]  # calibration cells
    sample_patients: tuple[str, ...]
    refused: tuple[RefusedCell, ...]
    operating_point: OperatingPoint | None
    scores: tuple[Scores, ...]  # the vote of parent and int8 on the gate's cells
    config: CalibrationConfig

    @property
    def exit_code(self) -> int:
        """0, or 1 where the gate refused."""
        return 0 if self.admitted else 1

    def text(self) -> str:
        """The report for people."""
        gate, patients = self.gates[0], len(self.sample_patients)
        lines = [
            f"int8 {'admitted' if self.admitted else 'refused'}: {self.bundle}",
            f"  calibrated on   {len(self.sample)} cells of {patients} validation patients ({self.config.method})",
            f"  judged on       {gate.cells} other cells of {gate.patients} validation patients",
            *(line for gate in self.gates for line in _gate_lines(gate)),
            f"  golden set      {self.golden_flips} calls changed, probabilities by at most {self.golden_difference:.3f}",
        ]
        if self.tolerance is not None:
            lines.append(f"  tolerance       {self.tolerance:.3f} of a probability")
        if self.operating_point:
            point = self.operating_point
            rates = f"sensitivity {point.sensitivity:.3f}, specificity {point.specificity:.3f}"
            lines.append(f"  operating point {point.threshold:.4f}: {rates}")
        lines += [f"  failed          {failure}" for failure in self.failures]
        lines += [f"  left out        {cell.file}: {cell.reason}" for cell in self.refused]
        return "\n".join(lines)


def _gate_lines(gate: GateResult) -> tuple[str, ...]:
    patients = (f"{'':18}{_percent(gate.patient_flips)} of patients called otherwise",) if gate.patient_flips else ()
    return (
        f"  in {gate.engine:<12} {_percent(gate.flips)} of votes flipped, at most {100 * gate.flips_at_most:g} % may",
        f"{'':18}{_points(gate.f1_loss)} points of weighted F1 lost, at most {gate.f1_loss_at_most:g}",
        *patients,
    )


def _percent(interval: Interval) -> str:
    return f"{100 * interval.value:.2f} % ({100 * interval.low:.2f} to {100 * interval.high:.2f})"


def _points(interval: Interval) -> str:
    return f"{interval.value:.2f} ({interval.low:.2f} to {interval.high:.2f})"
