"""Classes, voters, precisions, and what a call returns: `Prediction` with its `Audit`, or a `Refusal`."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from math import isnan
from typing import Literal, TypedDict, get_args

ClassName = Literal["hem", "all"]
Voter = Literal["a", "b", "combined"]
Precision = Literal["fp32", "fp16", "int8"]
Execution = Literal["f32", "bf16", "f16", "int8"]
# of a network on a CPU's cores: whole, A beside B, whole with two cores a stream, or in parts that may be left out
Layout = Literal["fused", "side-by-side", "paired", "staged"]

CLASSES: tuple[ClassName, ...] = get_args(ClassName)  # 1 = ALL, as in the challenge's files
VOTERS: tuple[Voter, ...] = get_args(Voter)
PRECISIONS: tuple[Precision, ...] = get_args(Precision)
EXECUTIONS: tuple[Execution, ...] = get_args(Execution)
LAYOUTS: tuple[Layout, ...] = get_args(Layout)


ImageCode = Literal["undecodable", "bomb", "not-8-bit-rgb", "empty", "not-on-black", "touches-border", "too-small", "too-large"]
FrameCode = Literal["clumped", "out-of-focus", "not-lymphoid", "unsegmented"]  # only of a cell in a whole frame
TrainingCode = Literal["unlike-training"]  # only of a bundle whose graphs measure novelty
StreamCode = Literal["failed"]  # only of a frame in a stream, or of a file: examining it broke off
RefusalCode = ImageCode | FrameCode | TrainingCode | StreamCode
REFUSALS: tuple[RefusalCode, ...] = tuple(code for kind in get_args(RefusalCode) for code in get_args(kind))

Box = tuple[int, int, int, int]  # x0, y0, x1, y1 in pixels of the image, half-open


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why an image, a cell or a frame got no label.

    Attributes
    ----------
    code : str
        The reason for programs, one of `REFUSALS`.
    detail : str
        The reason for people: one sentence, which may change from one version to the next.
    """

    code: RefusalCode
    detail: str


@dataclass(frozen=True, slots=True)
class Audit:
    """What answered: the bundle and the engine by their digests, and how the engine computed.

    Attributes
    ----------
    bundle : str
        SHA-256, in hex, of the bundle's manifest, and through it of all its files.
    engine : str
        SHA-256, in hex, of what can change the engine: graph, library, device, execution and threads.
    backend, device : str
        The inference library, such as 'openvino', and the device that it ran on.
    precision : {'fp32', 'fp16', 'int8'}
        Number type of the graph's file.
    execution : {'f32', 'bf16', 'f16', 'int8'}
        Number type that the engine computed in.
    layout : {'fused', 'side-by-side', 'paired', 'staged'}
        How the network was laid out on the cores of a CPU.
    """

    bundle: str
    engine: str
    backend: str
    device: str
    precision: Precision
    execution: Execution
    layout: Layout = "fused"


class PredictionRow(TypedDict):
    """One prediction as the command line prints it.

    Attributes
    ----------
    label : ClassName or None
        The call; None for a refused cell.
    probability : float or None
        The deciding voter's, of its own call, 0 to 1.
    voter : Voter or None
        The voter that decided.
    probabilities : mapping of str to dict[str, float or None] or None
        By voter and class; a voter's are None where it was not run.
    decided_early : bool
        Whether the first voter of a cascade decided alone.
    novelty : float or None
        Distance from the training's cells; None where the bundle measures none.
    set : list of ClassName or None
        The classes that can't be excluded; None where the bundle doesn't say.
    box : list of int or None
        x0, y0, x1, y1 of the cell in pixels of the image, half-open.
    refusal : RefusalCode or None
        Code of the reason why there is no call.
    score : float or None
        The deciding voter's probability of ALL, 0 to 1.
    detail : str or None
        The refusal in words.
    audit : mapping of str to str
        What answered: digests of bundle and engine, backend, device, precision, execution.
    """

    label: ClassName | None
    probability: float | None
    voter: Voter | None
    probabilities: dict[str, dict[str, float] | None] | None
    decided_early: bool
    novelty: float | None
    set: list[ClassName] | None
    box: list[int] | None
    refusal: RefusalCode | None
    score: float | None
    detail: str | None
    audit: dict[str, str]


@dataclass(frozen=True, slots=True)
class Prediction:
    """The call on one image, or the reason why there is none.

    With a refusal `label`, `probability`, `score`, `voter`, `probabilities` and `set` are None, and `decided_early` is False.

    Attributes
    ----------
    label : {'hem', 'all'} or None
        'all' is a malignant lymphoblast, 'hem' a normal cell.
    probability : float or None
        The deciding voter's probability of `label`, 0 to 1.
    score : float or None
        The deciding voter's probability of ALL, 0 to 1. Put thresholds on this figure.
    voter : {'a', 'b', 'combined'} or None
        The voter that decided.
    probabilities : tuple of 3 pairs of float, or None
        A row for each voter (a, b, combined), a column for each class (hem, all). NaN for a voter that was not run.
    box : (x0, y0, x1, y1) or None
        The cell in pixels of the image, half-open: x1 and y1 lie outside.
    refusal : Refusal or None
        Why there is no label; None where there is one.
    audit : Audit
        What answered.
    decided_early : bool
        The first voter of a cascade was sure enough to decide alone.
    novelty : float or None
        Distance from the cells of the training, about 1 for one of them. A cell above the bundle's limit is refused as
        'unlike-training'. None for a bundle that doesn't measure it.
    set : tuple of {'hem', 'all'}, or None
        The classes that can't be excluded at the bundle's level: one where the vote is sure, both where it isn't, none where
        neither fits. None for a bundle without such levels.

    Examples
    --------
    >>> from blastscope import open_bundle, synthetic_cell
    >>> images = [synthetic_cell(seed) for seed in range(4)]
    >>> with open_bundle(unlike_training="call") as scope:  # drawn cells are unlike those of the training
    ...     prediction = scope.classify(images[0])
    ...     many = scope.classify_many(images)
    ...     future = scope.submit(images[0])
    ...     later = future.result()
    >>> prediction.label in ("hem", "all"), len(prediction.probabilities), len(many)
    (True, 3, 4)
    >>> later.label == prediction.label
    True

    Files and folders, with a refusal for what is no image:

    >>> with open_bundle() as scope:
    ...     for path, prediction in scope.classify_files(["no-such-file.png"]):
    ...         print(path, prediction.label, prediction.refusal.code)
    no-such-file.png None undecodable
    """

    label: ClassName | None
    probability: float | None
    score: float | None
    voter: Voter | None
    probabilities: tuple[tuple[float, float], ...] | None
    box: Box | None
    refusal: Refusal | None
    audit: Audit
    decided_early: bool = False
    novelty: float | None = None
    set: tuple[ClassName, ...] | None = None

    def row(self) -> PredictionRow:
        """The prediction as plain values, which `json.dumps` takes.

        Returns
        -------
        PredictionRow
            A dict with the names of the attributes; `refusal` is the code and `detail` the sentence, `probabilities` a dict by
            voter and class, with None for a voter that was not run.
        """
        table: dict[str, dict[str, float] | None] = {}
        for voter, pair in zip(VOTERS, self.probabilities or (), strict=self.probabilities is not None):
            table[voter] = None if any(map(isnan, pair)) else {**dict(zip(CLASSES, pair, strict=True))}
        return PredictionRow(
            label=self.label,
            probability=self.probability,
            voter=self.voter,
            probabilities=table or None,
            decided_early=self.decided_early,
            novelty=self.novelty,
            set=None if self.set is None else list(self.set),
            box=list(self.box) if self.box else None,
            refusal=self.refusal.code if self.refusal else None,
            score=self.score,
            detail=self.refusal.detail if self.refusal else None,
            audit=asdict(self.audit),
        )
