"""`CalibrationReport`: what a calibration did, for programs as a record and for people as text."""

from __future__ import annotations

from pydantic import Field

from blastscope.calibration.acceptance.drift_metric import Drift
from blastscope.calibration.acceptance.mixed_precision_search import SearchReport, StopReason
from blastscope.calibration.config import CalibrationConfig
from blastscope.calibration.quantisation.quantizer import MethodRow, QuantConfig
from blastscope.runtime.bundle.manifest import Digest, GateResult, Interval, OperatingPoint, Scores
from blastscope.runtime.io.strict_model import StrictModel

WHY: dict[StopReason, str] = {  # a search ended
    "passed": "the limits hold there",
    "share": "no more may stay fp32",
    "time": "time is up",
    "end": "every layer tried",
}


class RefusedCell(StrictModel):
    """A cell that took no part, and why."""

    file: str
    reason: str


class CalibrationReport(StrictModel):
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
    recipe: QuantConfig  # of the graph that was judged last
    methods: tuple[MethodRow, ...]  # every one that was tried; none where `config` names the method
    first_gates: tuple[GateResult, ...]  # of the graph before layers were left in fp32; none where none were
    search: SearchReport | None
    int8_share: float  # of the multiply-adds of all layers that can be int8
    config: CalibrationConfig
    folds: int = 0  # of a cross validation, whose ensembles judged; 0: the bundle's own held-out patients did

    @property
    def exit_code(self) -> int:
        """0, or 1 where the gate refused."""
        return 0 if self.admitted else 1

    def text(self) -> str:
        """The report for people."""
        gate, patients = self.gates[0], len(self.sample_patients)
        part, judged = "validation", f"{gate.cells} other cells of {gate.patients} validation patients"
        if self.folds:
            part = "training"
            judged = f"{gate.cells} cells of {gate.patients} patients, each held out of one of {self.folds} folds' ensembles"
        lines = [
            f"int8 {'admitted' if self.admitted else 'refused'}: {self.bundle}",
            f"  calibrated on   {len(self.sample)} cells of {patients} {part} patients ({self.recipe.name})",
            f"  judged on       {judged}",
            *self._method_lines(),
            *(line for gate in self.gates for line in _gate_lines(gate)),
            *self._search_lines(),
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

    def _method_lines(self) -> list[str]:
        lines = []
        for row in self.methods:
            name = f"{row.recipe.name}{' (taken)' if row.chosen else ''}"
            lines.append(f"{'':18}{name:<44}{_distance(row.distance)}")
        return [f"  methods tried   {lines[0].strip()}", *lines[1:]] if lines else []

    def _search_lines(self) -> list[str]:
        if self.search is None:
            return []
        lines = [line for gate in self.first_gates for line in _gate_lines(gate)[:2]]
        lines = ["  before that, all in int8:", *lines] if lines else []
        lines.append(f"  layers searched on {self.search.cells} cells that don't judge, until {WHY[self.search.stopped]}:")
        for step in self.search.path:
            layers = f"{step.deed} {step.layers[0] if step.layers else 'int8'}"
            layers += f" to {step.layers[-1]}" if len(step.layers) > 1 else ""
            lines.append(f"    {layers:<42}{_distance(step.distance)}, {100 * step.int8_share:.1f} % of the work in int8")
        if self.recipe.floats:
            taken = "" if self.search.passed else "; of the graphs on the way the one that drifts least"
            lines.append(f"  taken           {100 * self.int8_share:.1f} % of the work in int8{taken}")
            lines.append(f"  stay fp32       {', '.join(self.recipe.floats)}")
        return lines


def _distance(found: Drift) -> str:
    return f"{100 * found.flip_rate:5.2f} % flipped, F1 {0 - found.f1_drop_points:+.2f}, drift {found.drift:.4f}"


def _gate_lines(gate: GateResult) -> tuple[str, ...]:
    patients = (f"{'':18}{_percent(gate.patient_flip_rate)} of patients called otherwise",) if gate.patient_flip_rate else ()
    return (
        f"  in {gate.engine:<12} {_percent(gate.flip_rate)} of votes flipped, at most {100 * gate.max_flip_rate:g} % may",
        f"{'':18}{_points(gate.f1_drop_points)} points of weighted F1 lost, at most {gate.max_f1_drop_points:g}",
        *patients,
    )


def _percent(interval: Interval) -> str:
    return f"{100 * interval.value:.2f} % ({100 * interval.low:.2f} to {100 * interval.high:.2f})"


def _points(interval: Interval) -> str:
    return f"{interval.value:.2f} ({interval.low:.2f} to {interval.high:.2f})"
