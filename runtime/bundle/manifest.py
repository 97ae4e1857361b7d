"""`Manifest`: manifest.json as a record, and the names that its keys had in earlier formats. Unknown keys are rejected."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, StringConstraints, model_validator

from blastscope.runtime.bundle.entries import CalibrationProvenance as CalibrationProvenance
from blastscope.runtime.bundle.entries import CascadeResult as CascadeResult
from blastscope.runtime.bundle.entries import DetectorEntry, Share
from blastscope.runtime.bundle.entries import Digest as Digest
from blastscope.runtime.bundle.entries import FileEntry as FileEntry
from blastscope.runtime.bundle.entries import GateResult as GateResult
from blastscope.runtime.bundle.entries import NeighboursEntry as NeighboursEntry
from blastscope.runtime.bundle.entries import OperatingPoint as OperatingPoint
from blastscope.runtime.bundle.entries import Patients as Patients
from blastscope.runtime.bundle.entries import Scores as Scores
from blastscope.runtime.bundle.entries import TrainingProvenance as TrainingProvenance
from blastscope.runtime.bundle.uncertainty import Interval as Interval
from blastscope.runtime.bundle.uncertainty import Uncertainty
from blastscope.runtime.crop.specification import CropSpecification
from blastscope.runtime.io.hashing import bytes_sha256, file_sha256
from blastscope.runtime.io.strict_model import StrictModel
from blastscope.runtime.types import CLASSES, VOTERS, ClassName, Execution, Precision, Voter

FORMAT = "1.5"  # major.minor: a reader takes its own major up to its own minor
FORMAT_PATTERN = r"^(0|[1-9][0-9]{0,3})\.(0|[1-9][0-9]{0,3})$"

Moment = Annotated[str, StringConstraints(pattern=r"^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9:.]{8,15}(Z|\+00:00)$")]
GraphModels = Literal["ensemble", "a", "b", "combined"]
# what each later minor format brought
_LATE: dict[str, dict[str, Any]] = {
    "1.1": {
        "cascade": True,
        "graphs": {"__all__": {"gate": {"patient_flip_rate"}}},
        "calibration": {"corrected", "equalised", "floats", "int8_share"},
    },
    "1.2": {"uncertainty": True, "measures_novelty": True, "card": True},
    "1.3": {"detector": True},
    "1.4": {"detector": {"int8"}},
    "1.5": {"neighbours": True},
}
# keys and values of manifests in formats 1.0 to 1.2, which format 1.3 replaced by the field's terms
SINCE = 3  # minor format of the present names
RATES = {"flips": "flip_rate", "flips_at_most": "max_flip_rate", "patient_flips": "patient_flip_rate"}
GATE_KEYS = {**RATES, "f1_loss": "f1_drop_points", "f1_loss_at_most": "max_f1_drop_points"}
CASCADE_KEYS = {**RATES, "flips_upper": "flip_rate_upper"}
GATES = {"held": "passed", "waived: benchmark": "waived"}
MODELS = {"fused": "ensemble"}


class GraphEntry(FileEntry):
    """One ONNX graph: uint8 crops (N, S, S, 3) in, probabilities out, (N, 3, 2) when fused and (N, 2) alone.

    Attributes
    ----------
    models : {'ensemble', 'a', 'b', 'combined'}
        All voters and the vote in one graph, or one voter alone.
    precision : {'fp32', 'fp16', 'int8'}
        Number type of the file.
    parent : str or None
        SHA-256 of the graph that this one was made from.
    tolerances : dict of str to float
        For each execution ('f32', 'bf16', 'f16', 'int8') the largest difference of a probability from the trained network's.
    passes : int
        Backbone passes that a cell takes.
    gate : GateResult or None
        With int8 only.
    """

    models: GraphModels
    precision: Precision
    parent: Digest | None = None  # sha256 of the graph that this one was made from
    tolerances: dict[Execution, Share]  # largest difference of a probability from the trained network's, by execution
    passes: int = Field(default=2, ge=1)  # backbone passes a cell costs
    gate: GateResult | None = None  # int8 only

    @model_validator(mode="after")
    def _gate_goes_with_int8(self) -> Self:
        if self.gate is not None and self.precision != "int8":
            raise ValueError(f"a gate result goes with int8, not with {self.precision}")
        if not self.tolerances:
            raise ValueError("a graph needs the tolerance of one execution at least")
        return self


class GoldenEntry(FileEntry):
    """The golden set's file: crops with the probabilities of the trained networks, in safetensors.

    Attributes
    ----------
    count : int
        Crops, 1 to 16.
    source : {'drawn', 'validation'}
        Synthetic cells, or cells of the validation part.
    """

    count: int = Field(ge=1, le=16)
    source: Literal["drawn", "validation"]


class VoteRule(StrictModel):
    """How the three voters' probabilities become one call (runtime/inference/voting.py).

    Attributes
    ----------
    rule : str
        Always 'largest-probability'.
    tie : tuple of str
        Always ('all', 'a', 'b', 'combined'), the one order that the vote knows: a bundle that wants another must not be opened.
    """

    rule: Literal["largest-probability"] = "largest-probability"
    tie: tuple[Literal["all"], Literal["a"], Literal["b"], Literal["combined"]] = ("all", "a", "b", "combined")


class Manifest(StrictModel):
    """Everything that manifest.json says of a bundle (runtime/FORMAT.md).

    Attributes
    ----------
    format : str
        'major.minor' of the format.
    name : str
        The bundle's name, 1 to 80 characters.
    created : str
        Moment in UTC, ISO 8601.
    classes, voters : tuple of str
        Always ('hem', 'all') and ('a', 'b', 'combined'): the order of columns and rows in probabilities.
    backbone : str
        timm's name of the backbone.
    crop : CropSpecification
        How an image becomes a crop.
    vote : VoteRule
        How voters become a call.
    operating_point : OperatingPoint or None
        A threshold in place of the paper's rule.
    cascade : CascadeResult or None
        When the first voter may decide alone.
    uncertainty : Uncertainty or None
        What people who were held out showed.
    card : FileEntry or None
        The model card, written anew with every change.
    detector : DetectorEntry or None
        What finds white cells in frames; without one they are found by their stain.
    neighbours : NeighboursEntry or None
        Features of the training's cells, by which those most like a cell are found.
    measures_novelty : bool
        Whether the fused graphs also give how far a cell lies from those of the training.
    gate : {'passed', 'waived'}
        Whether the limits on int8 graphs hold in this bundle. Where they were waived its calls mean nothing.
    graphs : tuple of GraphEntry
        At least one, of which at least one is fused; one for each of models and precision.
    golden : GoldenEntry
        The crops that an engine must answer as the trained networks did.
    training : TrainingProvenance
        Data, split, configuration and patients.
    calibration : CalibrationProvenance or None
        How the int8 ranges were set.
    scores : tuple of Scores
        How the vote did on validation cells.
    """

    format: Annotated[str, StringConstraints(pattern=FORMAT_PATTERN)] = FORMAT
    name: Annotated[str, StringConstraints(min_length=1, max_length=80)]
    created: Moment  # UTC, ISO 8601
    classes: tuple[ClassName, ...] = CLASSES
    voters: tuple[Voter, ...] = VOTERS
    backbone: str  # timm's name
    crop: CropSpecification
    vote: VoteRule = VoteRule()
    operating_point: OperatingPoint | None = None
    cascade: CascadeResult | None = None  # since 1.1
    uncertainty: Uncertainty | None = None  # since 1.2
    card: FileEntry | None = None  # the model card, written anew with every change; since 1.2
    detector: DetectorEntry | None = None  # since 1.3
    neighbours: NeighboursEntry | None = None  # since 1.5
    measures_novelty: bool = False  # the fused graphs have the outputs `novelty` and `answers`; since 1.2
    gate: Literal["passed", "waived"] = "passed"
    graphs: tuple[GraphEntry, ...] = Field(min_length=1)
    golden: GoldenEntry
    training: TrainingProvenance
    calibration: CalibrationProvenance | None = None
    scores: tuple[Scores, ...] = ()

    @model_validator(mode="after")
    def _is_whole(self) -> Self:
        if self.classes != CLASSES or self.voters != VOTERS:
            raise ValueError(f"classes must be {CLASSES} and voters {VOTERS}, in this order")
        kinds = [(entry.models, entry.precision) for entry in self.graphs]
        if len(set(kinds)) != len(kinds):
            raise ValueError("two graphs of the same models and precision")
        if not any(entry.models == "ensemble" for entry in self.graphs):
            raise ValueError("no fused graph")
        for entry in self.graphs:
            gated = entry.models == "ensemble" and entry.precision == "int8" and self.gate == "passed"
            if gated and not (entry.gate and entry.gate.passed):
                raise ValueError("a fused int8 graph without a gate result that passed, in a bundle that says its gate passed")
        return self

    @model_validator(mode="after")
    def _cascade_has_its_graph(self) -> Self:
        if self.cascade and self.graph(self.cascade.precision) is None:
            raise ValueError(f"a cascade judged on a fused {self.cascade.precision} graph, which isn't there")
        return self

    @model_validator(mode="after")
    def _format_has_every_key(self) -> Self:
        told = self.calibration.model_dump(include=_LATE["1.1"]["calibration"]) if self.calibration else {}
        late = self.cascade or any(entry.gate and entry.gate.patient_flip_rate for entry in self.graphs)
        if self.format == "1.0" and (late or any(value is not None for value in told.values())):
            raise ValueError(f"keys that format 1.0 doesn't have: say {FORMAT}")
        if self.format in ("1.0", "1.1") and (self.uncertainty or self.measures_novelty or self.card):
            raise ValueError(f"keys that format {self.format} doesn't have: say {FORMAT}")
        least = max(5 if self.neighbours else 0, (4 if self.detector.int8 else 3) if self.detector else 0)
        if _minor(self.format) < least:
            raise ValueError(f"a key that format {self.format} doesn't have: say {FORMAT}")
        return self

    @model_validator(mode="after")
    def _limit_has_its_output(self) -> Self:
        if self.uncertainty and self.uncertainty.novelty and not self.measures_novelty:
            raise ValueError("a limit of novelty, and graphs that don't measure it")
        return self

    @model_validator(mode="after")
    def _neighbours_have_their_graph(self) -> Self:
        if self.neighbours and not self.measures_novelty:
            raise ValueError("features of the training's cells, and graphs that don't measure novelty by such features")
        fused = {entry.sha256 for entry in self.graphs if entry.models == "ensemble"}
        if self.neighbours and self.neighbours.graph not in fused:
            raise ValueError("neighbours: features of a graph that is none of the fused ones in this bundle")
        return self

    @model_validator(mode="after")
    def _files_have_places_of_their_own(self) -> Self:
        paths = [entry.file for entry in self.files()] + ["manifest.json"]
        if len(set(paths)) != len(paths):
            raise ValueError("two entries name the same file")
        folders = {parent for path in paths for parent in _parents(path)}
        if folders & set(paths):
            raise ValueError(f"'{min(folders & set(paths))}' is both a file and a folder")
        return self

    def files(self) -> tuple[FileEntry, ...]:
        """The entry of every file in the bundle but manifest.json.

        Returns
        -------
        tuple of FileEntry
        """
        detector = (self.detector.graph, self.detector.golden) if self.detector else ()
        int8 = (self.detector.int8.graph,) if self.detector and self.detector.int8 else ()
        others = (each for each in (self.neighbours, self.card) if each)
        return (*self.graphs, self.golden, *detector, *int8, *others)

    def json_bytes(self) -> bytes:
        """The content of manifest.json.

        A manifest in an earlier format has that format's names, and none of the keys that came later, since readers of that
        format refuse them.

        Returns
        -------
        bytes
            UTF-8, with a line feed at the end.
        """
        late: dict[str, Any] = {}
        for minor, keys in reversed(_LATE.items()):  # what came whole later counts before what came within it
            if _minor(self.format) < _minor(minor):
                late |= keys
        text = self.model_dump_json(indent=2, exclude=late or None)
        if _minor(self.format) < SINCE:
            text = json.dumps(with_former_names(json.loads(text)), indent=2, ensure_ascii=False)
        return (text + "\n").encode()

    def graph(self, precision: Precision, models: GraphModels = "ensemble") -> GraphEntry | None:
        """The entry of a graph, if the bundle has one.

        Parameters
        ----------
        precision : {'fp32', 'fp16', 'int8'}
            Number type of the graph's file.
        models : {'ensemble', 'a', 'b', 'combined'}
            All voters in one graph, or one voter alone.

        Returns
        -------
        GraphEntry or None
        """
        return next((entry for entry in self.graphs if (entry.models, entry.precision) == (models, precision)), None)


def _minor(format_: str) -> int:
    return int(format_.partition(".")[2])


def _parents(path: str) -> list[str]:
    steps = path.split("/")
    return ["/".join(steps[:count]) for count in range(1, len(steps))]


def describe_file(source: Path | bytes, file: str) -> FileEntry:
    """The entry of a file for a manifest: its path in the bundle, digest and size.

    Parameters
    ----------
    source : Path or bytes
        The file, or its content.
    file : str
        Its path from the bundle's root.

    Returns
    -------
    FileEntry
    """
    if isinstance(source, bytes):
        return FileEntry(file=file, sha256=bytes_sha256(source), size=len(source))
    return FileEntry(file=file, sha256=file_sha256(source), size=source.stat().st_size)


def with_present_names(table: Mapping[str, Any]) -> dict[str, Any]:
    """The JSON of a manifest of format 1.0 to 1.2 under the names of format 1.3.

    Parameters
    ----------
    table : mapping
        The JSON as it was read. Values of other types than the format's are left to the model that checks them.

    Returns
    -------
    dict

    Raises
    ------
    ValueError
        It has a name of format 1.3, which its own format doesn't have.
    """
    return _renamed(table, back=False)


def with_former_names(table: Mapping[str, Any]) -> dict[str, Any]:
    """The JSON of a manifest under the names of formats 1.0 to 1.2, for readers of these.

    Parameters
    ----------
    table : mapping
        The JSON under the names of format 1.3.

    Returns
    -------
    dict
    """
    return _renamed(table, back=True)


def _renamed(table: Mapping[str, Any], *, back: bool) -> dict[str, Any]:
    found = copy.deepcopy(dict(table))
    _rename_value(found, "gate", GATES, back=back)
    _rename_keys(found, "cascade", CASCADE_KEYS, back=back)
    graphs = found.get("graphs")
    for graph in graphs if isinstance(graphs, list) else ():
        if isinstance(graph, dict):
            _rename_value(graph, "models", MODELS, back=back)
            _rename_keys(graph, "gate", GATE_KEYS, back=back)
    return found


def _rename_value(table: dict[str, Any], key: str, names: Mapping[str, str], *, back: bool) -> None:
    value = table.get(key)
    if isinstance(value, str):
        table[key] = _names(names, back=back).get(value, value)
        if not back and value in names.values():
            raise ValueError(f"{key}: '{value}' is a name since format 1.{SINCE}")


def _rename_keys(table: dict[str, Any], key: str, names: Mapping[str, str], *, back: bool) -> None:
    record = table.get(key)
    if not isinstance(record, dict):
        return
    if not back and (late := sorted(set(record) & set(names.values()))):
        raise ValueError(f"{key}: '{late[0]}' is a key since format 1.{SINCE}")
    table[key] = {_names(names, back=back).get(name, name): value for name, value in record.items()}


def _names(names: Mapping[str, str], *, back: bool) -> Mapping[str, str]:
    return {new: old for old, new in names.items()} if back else names
