"""`SessionOptions`: the validated arguments of `open_bundle`."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from numbers import Integral
from pathlib import Path
from typing import Literal, Self, TypeVar, get_args

from blastscope.runtime.backends.protocol import EngineOptions, Workload
from blastscope.runtime.errors import UsageError
from blastscope.runtime.io.cpu_info import KNOWN
from blastscope.runtime.types import EXECUTIONS, LAYOUTS, PRECISIONS, Execution, Layout, Precision

T = TypeVar("T", bound=str)
WORKLOADS: tuple[Workload, ...] = get_args(Workload)
MOST_THREADS = 1024
Meanwhile = Literal["wait", "cpu"]
UnlikeTraining = Literal["refuse", "call"]


@dataclass(frozen=True, slots=True)
class Device:
    """A device as the caller named it.

    Attributes
    ----------
    kind : {'auto', 'cpu', 'cuda', 'openvino'}
        What the name asks for.
    name : str
        As the inference library calls it: 'CPU', 'GPU.0', '0'.
    """

    kind: Literal["auto", "cpu", "cuda", "openvino"]
    name: str


CPU = Device("cpu", "CPU")


def parse_device(text: str) -> Device:
    """The device that `text` names: auto, cpu, cuda[:N] or openvino:NAME. Raises `UsageError`.

    `auto` is the first NVIDIA GPU where an engine for it exists or can be built, and else the CPU; device_selection.py decides.
    """
    if not isinstance(text, str):
        raise UsageError(f"device is {text!r}, not text: say {KNOWN}")
    if text == "auto":
        return Device("auto", "0")
    if text == "cpu":
        return CPU
    if found := re.fullmatch(r"cuda(?::(\d{1,3}))?", text):
        return Device("cuda", found[1] or "0")
    if found := re.fullmatch(r"openvino:([A-Za-z0-9_.]+)", text):
        return Device("openvino", found[1].upper())
    raise UsageError(f"device '{text}' is not known: say {KNOWN}")


@dataclass(frozen=True, slots=True)
class SessionOptions:
    """The checked arguments of `open_bundle`. None means that the runtime chooses, as 'auto' does there.

    Attributes
    ----------
    device : Device
        From 'auto', 'cpu', 'cuda', 'cuda:N' or 'openvino:NAME'. 'auto' is an NVIDIA GPU where an engine for it exists or can be
        built, else the CPU; `Scope.notes` says which and why.
    precision : {'fp32', 'fp16', 'int8'} or None
        The graph of the bundle. None: the one measured to be fastest on this machine, of those that the gate admitted; before
        that is measured, the one that is likely fastest.
    execution : {'f32', 'bf16', 'f16', 'int8'} or None
        The number type that the engine computes in. None: as for `precision`.
    backend : str or None
        The inference library, such as 'openvino'. None: as for `precision`.
    workload : {'latency', 'throughput'}
        One answer as soon as possible, or as many answers as possible.
    threads : int or None
        The cores to use, at most 1024. None: as many as the process may use.
    allow_ungated : bool
        Open a bundle whose gate was waived, too. Its calls mean nothing.
    cache_dir : Path
        Where compiled engines and what was measured are kept.
    while_building : {'wait', 'cpu'}
        A GPU's engine is built when it is first wanted, in seconds to minutes. 'wait' waits for it; with 'cpu' the handle
        answers on the CPU until `Scope.reopen` is called.
    layout : {'fused', 'side-by-side', 'paired', 'staged'} or None
        How the network is laid out on a CPU's cores. None: what was measured to be fastest on this machine.
    cascade : bool
        The bundle's first voter decides alone where it is as sure as the bundle's record demands (`Prediction.decided_early`).
        That changes a few calls; the record says how many. On a CPU only; a bundle without a record is refused.
    unlike_training : {'refuse', 'call'}
        What happens to a cell that lies farther from the training's cells than the bundle's limit: it is refused as
        'unlike-training', or called all the same. `Prediction.novelty` tells the distance.

    Examples
    --------
    >>> from blastscope import open_bundle
    >>> with open_bundle(device="cpu", precision="fp32", workload="throughput", threads=1) as scope:
    ...     print(scope.audit.precision)
    fp32
    """

    device: Device
    precision: Precision | None
    execution: Execution | None
    backend: str | None
    workload: Workload
    threads: int | None
    allow_ungated: bool
    cache_dir: Path
    while_building: Meanwhile = "wait"
    layout: Layout | None = None
    cascade: bool = False
    unlike_training: UnlikeTraining = "refuse"

    @classmethod
    def parse(
        cls,
        *,
        device: str = "auto",
        precision: str = "auto",
        execution: str = "auto",
        backend: str = "auto",
        workload: str = "latency",
        threads: int | None = None,
        allow_ungated: bool = False,
        cache_dir: Path | str,
        while_building: str = "wait",
        layout: str = "auto",
        cascade: bool = False,
        unlike_training: str = "refuse",
    ) -> Self:
        """The options that `open_bundle`'s arguments of the same names mean; 'auto' becomes None.

        Returns
        -------
        SessionOptions

        Raises
        ------
        UsageError
            A word that isn't known, or a value of another type.
        """
        return cls(
            device=parse_device(device),
            precision=None if precision == "auto" else _one_of("precision", precision, PRECISIONS),
            execution=None if execution == "auto" else _one_of("execution", execution, EXECUTIONS),
            backend=None if backend == "auto" else _text("backend", backend),
            workload=_one_of("workload", workload, WORKLOADS),
            threads=None if threads is None else whole_number("threads", threads, most=MOST_THREADS),
            allow_ungated=_flag("allow_ungated", allow_ungated),
            cache_dir=as_path("cache_dir", cache_dir).absolute(),  # the program may change its folder
            while_building=_one_of("while_building", while_building, get_args(Meanwhile)),
            layout=None if layout == "auto" else _one_of("layout", layout, LAYOUTS),
            cascade=_flag("cascade", cascade),
            unlike_training=_one_of("unlike_training", unlike_training, get_args(UnlikeTraining)),
        )

    def engine_options(self, execution: Execution, layout: Layout = "fused") -> EngineOptions:
        """The options for a backend that loads an engine.

        Parameters
        ----------
        execution : {'f32', 'bf16', 'f16', 'int8'}
            What the engine is to compute in.
        layout : {'fused', 'side-by-side', 'paired', 'staged'}
            How the network is to be laid out on the cores of a CPU.

        Returns
        -------
        EngineOptions
        """
        return EngineOptions(
            self.workload,
            execution,
            layout=layout,
            threads=self.threads,
            cache_dir=self.cache_dir,
            device=self.device.name,
        )


def whole_number(what: str, value: object, *, most: int | None = None) -> int:
    """The argument as an int of at least 1.

    Parameters
    ----------
    what : str
        The argument's name, for the error.
    value : object
        Any integer; a bool is none.
    most : int, optional
        The largest that is allowed.

    Returns
    -------
    int

    Raises
    ------
    UsageError
        `value` is no whole number, below 1, or above `most`.
    """
    if not isinstance(value, Integral) or isinstance(value, bool):
        raise UsageError(f"{what} is {value!r}: it must be a whole number")
    if value < 1:
        raise UsageError(f"{what} is {value}: at least 1 is needed")
    if most is not None and int(value) > most:
        raise UsageError(f"{what} is {value}: at most {most} are allowed")
    return int(value)


def as_path(what: str, value: object) -> Path:
    """The argument as a path.

    Parameters
    ----------
    what : str
        The argument's name, for the error.
    value : object
        Text, or an object with `__fspath__`.

    Returns
    -------
    Path

    Raises
    ------
    UsageError
        `value` is something else, is empty, or holds a null character.
    """
    if not isinstance(value, str | os.PathLike) or "\0" in (name := os.fsdecode(value)) or not name:
        raise UsageError(f"{what} is {value!r}: it must be a path")
    return Path(name)


def _flag(what: str, value: object) -> bool:
    if not isinstance(value, bool):
        raise UsageError(f"{what} is {value!r}: say True or False")
    return value


def _text(what: str, value: object) -> str:
    if not isinstance(value, str):
        raise UsageError(f"{what} is {value!r}, not text")
    return value


def _one_of(what: str, value: str, known: tuple[T, ...]) -> T:
    _text(what, value)
    found = next((one for one in known if one == value), None)
    if found is None:
        auto = "auto, " if what in ("precision", "execution", "layout") else ""
        raise UsageError(f"{what} '{value}' is not known: say {auto}{', '.join(known)}")
    return found
