"""`RayRun`: images or frames examined by many machines of a Ray cluster, with one warm handle an actor, resumable.

The machines need blastscope, and see bundle, images and frames under the same paths. Answers come to whoever started the run,
who alone writes them. An actor that is lost, with its machine or for want of memory, is begun anew, and its work given out
again; what it had answered stands. A file that ends its actor each time gets a refusal as `failed`.

Results are Parquet files in a folder (`PartFolder`), so that an interrupted run is gone on with. Each part is named after the
files that it answers and is renamed into place once it is whole. So a file is answered in one part or in none, whatever ended
the run: a part that is written twice, because its answer got lost, has one name.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Self

from blastscope.runtime.errors import (
    BlastscopeError,
    DataError,
    DeviceError,
    DigestMismatch,
    MissingLibrary,
    UnavailableError,
    UsageError,
)
from blastscope.runtime.frames.types import FrameSpecification
from blastscope.runtime.io.atomic import write_file
from blastscope.runtime.session import open_bundle
from blastscope.runtime.types import Refusal

if TYPE_CHECKING:
    import pyarrow as pa

Row = dict[str, Any]
HEAD = b"blastscope"  # the key of a part's metadata that says what it was made with
Task = Literal["classify", "examine"]

AHEAD = 2  # chunks that each actor has at hand: it never waits for the next one
TRIES = 3  # of a chunk before its files go one by one, and of a file before it is refused
CHUNK = {"classify": 64, "examine": 1}  # files a chunk
PAIR = {"hem": "float64", "all": "float64"}
AUDIT = dict.fromkeys(("bundle", "engine", "backend", "device", "precision", "execution", "layout"), "string")
CALL: dict[str, Any] = {"label": "string", "probability": "float64", "score": "float64", "voter": "string"} | {
    "novelty": "float64",
    "set": ["string"],
    "box": ["int32"],
    "refusal": "string",
    "detail": "string",
}
CELL: dict[str, Any] = CALL | {"contour": [["int32"]], "group": "string"}
COUNTS = dict.fromkeys(("cells", "hem", "all", "refused"), "int32")
GROUPS = dict.fromkeys(("lymphoid", "myeloid", "other", "not_lymphoid", "not_judged"), "int32")
SCHEMAS: dict[Task, dict[str, Any]] = {
    "classify": CALL | {"probabilities": {"a": PAIR, "b": PAIR, "combined": PAIR}, "decided_early": "bool_", "audit": AUDIT},
    "examine": {
        "refusal": "string",
        "detail": "string",
        "validated": "bool_",
        "pixel_um": "float64",
        "scale_source": "string",
        "counts": COUNTS,
        "groups": GROUPS,
        "cells": [CELL],
        "size": ["int32"],
        "notes": ["string"],
        "doubts": ["string"],
    },
}


class FileState(NamedTuple):
    """Size and time of a file, by which a change is noticed.

    Attributes
    ----------
    size : int or None
        Bytes; None where there is no such file.
    modified_ns : int or None
        When it was last written, in nanoseconds since 1970.
    """

    size: int | None
    modified_ns: int | None


def state_of(path: Path) -> FileState:
    """The state of the file at `path`; of None where there is none."""
    try:
        status = path.stat()
    except (OSError, ValueError):
        return FileState(None, None)
    return FileState(status.st_size, status.st_mtime_ns)


class PartFolder:
    """The folder `place`, which is made. `schema` is that of a row, `made_with` all that changes an answer, as JSON values.

    Raises
    ------
    MissingLibrary
        Without pyarrow.
    UsageError
        The folder was begun with something else.
    DataError
        A part of it can't be read.
    """

    def __init__(self, place: Path, schema: Mapping[str, Any], made_with: Mapping[str, Any]) -> None:
        try:
            import pyarrow
        except ModuleNotFoundError as error:
            raise MissingLibrary("pyarrow", "ray") from error
        self._place = place
        head = {HEAD: json.dumps(made_with, sort_keys=True).encode()}
        fields = {"path": "string", "file_bytes": "int64", "file_modified_ns": "int64"}
        own = [(name, getattr(pyarrow, kind)()) for name, kind in fields.items()]
        self._schema: pa.Schema = pyarrow.schema([*own, *((name, _type(kind)) for name, kind in schema.items())], metadata=head)
        if place.exists() and not place.is_dir():
            raise DataError(place, "is a file, where a folder is asked for: name another place")
        self._done = self._read(made_with)

    def is_done(self, path: Path) -> bool:
        """Whether an earlier run answered this file, and it hasn't changed since."""
        return self._done.get(str(path), (None, None))[0] == state_of(path)

    def refused(self, paths: Iterable[Path]) -> int:
        """How many of these an earlier run refused."""
        return sum(self._done[str(path)][1] for path in paths if str(path) in self._done)

    def write(self, paths: Sequence[Path], rows: Sequence[Row]) -> None:
        """Writes the part that answers `paths`, a row each in their order."""
        import pyarrow
        import pyarrow.parquet

        states = [state_of(path) for path in paths]
        whole = [
            {**row, "path": str(path), "file_bytes": state.size, "file_modified_ns": state.modified_ns}
            for path, state, row in zip(paths, states, rows, strict=True)
        ]
        table = pyarrow.Table.from_pylist(whole, schema=self._schema)
        name = hashlib.sha256(json.dumps([(str(path), *state) for path, state in zip(paths, states, strict=True)]).encode())
        write_file(
            self._place / f"part-{name.hexdigest()[:24]}.parquet",
            lambda fresh: pyarrow.parquet.write_table(table, fresh, compression="zstd"),
        )

    def _read(self, made_with: Mapping[str, Any]) -> dict[str, tuple[FileState, bool]]:
        import pyarrow
        import pyarrow.parquet

        done: dict[str, tuple[FileState, bool]] = {}
        for part in sorted(self._place.glob("part-*.parquet")):
            try:
                found = json.loads((pyarrow.parquet.read_schema(part).metadata or {}).get(HEAD, b"{}"))
                rows = pyarrow.parquet.read_table(
                    part, columns=["path", "file_bytes", "file_modified_ns", "refusal"]
                ).to_pylist()
            except (pyarrow.ArrowException, OSError, ValueError, KeyError) as error:
                raise DataError(part, f"is no part of results, or damaged: {error}") from error
            changed = [name for name in made_with if found.get(name) != made_with[name]]
            if changed:
                raise UsageError(f"'{self._place}' was begun with another {' and '.join(changed)}: name another folder")
            for row in rows:
                done[row["path"]] = FileState(row["file_bytes"], row["file_modified_ns"]), row["refusal"] is not None
        return done


def _type(kind: Any) -> Any:
    """Arrow's type of a field: by its name, of a list by a list of one kind, of a record by a mapping."""
    import pyarrow

    if isinstance(kind, str):
        return getattr(pyarrow, kind)()
    if isinstance(kind, list):
        return pyarrow.list_(_type(kind[0]))
    return pyarrow.struct([(name, _type(one)) for name, one in kind.items()])


@dataclass(frozen=True)
class Work:
    """What the actors do, all of them alike.

    Attributes
    ----------
    task : {'classify', 'examine'}
        What is done with each path.
    bundle : Path or None
        None: the shipped one.
    digest : str
        Of the bundle that is meant, in hex.
    engine : mapping of str
        Keyword arguments of `open_bundle`.
    pixel_um : float or None
        Micrometres per pixel of all frames; None: what each says.
    spec : FrameSpecification or None
        What is assumed of frames and cells.
    """

    task: Task
    bundle: Path | None
    digest: str
    engine: Mapping[str, Any] = field(default_factory=dict)
    pixel_um: float | None = None
    spec: FrameSpecification | None = None

    @property
    def made_with(self) -> dict[str, Any]:
        """Everything that changes an answer, for the record of a run."""
        wanted = {"bundle": self.digest, "task": self.task, "pixel size": self.pixel_um}
        chosen = {name: value for name, value in self.engine.items() if name in ("precision", "unlike_training", "cascade")}
        return {**wanted, "specification": self.spec.model_dump() if self.spec else None, "options": chosen}


class Answered(NamedTuple):
    """A file with its row, as `PredictionRow` or `FrameRow` have it.

    Attributes
    ----------
    path : Path
        The file.
    row : Row
        What is known of it.
    """

    path: Path
    row: Row


class Worker:
    """What an actor holds: an open bundle. Raises `DigestMismatch` where its machine has another bundle under that path."""

    def __init__(self, work: Work) -> None:
        self._work = work
        self._scope = open_bundle(work.bundle, **work.engine, workload="throughput")
        found = self._scope.bundle.digest
        if found != work.digest:
            place = work.bundle or "the shipped bundle"
            raise DigestMismatch(place, "manifest.json", f"differs on a machine of the cluster: {found}, not {work.digest}")

    def process(self) -> int:
        """The number of its process, once the bundle is open."""
        return os.getpid()

    def answer(self, paths: Sequence[str]) -> list[Row]:
        """The answers on files, a row for each."""
        files = [Path(path) for path in paths]
        if self._work.task == "classify":
            return [dict(prediction.row()) for _, prediction in self._scope.classify_files(files)]
        reports = self._scope.examine_files(files, pixel_um=self._work.pixel_um, spec=self._work.spec)
        return [dict(report.row()) for report in reports]


class _Chunk(NamedTuple):
    """Files that one actor gets at a time.

    Attributes
    ----------
    paths : tuple of Path
        The files.
    tries : int
        How many actors were lost with them.
    """

    paths: tuple[Path, ...]
    tries: int = 0


class RayRun:
    """A run on the cluster at `address`, which is `local` for one on this machine alone. Use it as a context manager.

    Parameters
    ----------
    address : str
        As `ray.init` takes it: `auto`, `HOST:PORT`, `ray://HOST:PORT`, `local`.
    work : Work
        What is to be done.
    results : Path
        The folder of Parquet files that the answers go to. What is there is not done again.
    actors : int, optional
        How many; by default one for each CPU of the cluster that an actor's threads fill.

    Raises
    ------
    MissingLibrary, DeviceError
        Without Ray; where no cluster answers.
    UsageError, DataError
        `results` was begun with something else, or can't be used.
    BlastscopeError
        What opening the bundle raises on the machines.
    """

    def __init__(self, address: str, work: Work, results: Path, *, actors: int | None = None) -> None:
        try:
            ray: Any = import_module("ray")  # without types that hold
        except ModuleNotFoundError as error:
            raise MissingLibrary("ray", "ray") from error
        self._ray, self._work, self.lost = ray, work, 0
        self._parts = PartFolder(results, SCHEMAS[work.task], work.made_with)
        try:
            ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, **_alone(address))
        except Exception as error:  # Ray raises no class of its own where a node doesn't come up
            ray.shutdown()
            raise DeviceError(f"no Ray cluster answers at '{address}': {error}") from error
        try:
            threads = work.engine.get("threads") or 1
            count = actors or max(int(ray.cluster_resources().get("CPU", 1)) // threads, 1)
            kind = ray.remote(num_cpus=threads, max_restarts=-1)(Worker)
            self._actors = [kind.remote(work) for _ in range(count)]
            self.processes = self._ready()
        except BaseException:
            ray.shutdown()
            raise

    def _ready(self) -> list[int]:
        """The processes of the actors, on whichever machine, once all have opened the bundle."""
        try:
            found: list[int] = self._ray.get([actor.process.remote() for actor in self._actors])
        except self._ray.exceptions.RayError as error:
            cause = getattr(error, "cause", None) or error
            if isinstance(cause, BlastscopeError):
                raise cause from error
            raise UnavailableError(f"an actor of the cluster can't open the bundle: {str(error).strip()[-600:]}") from error
        return found

    def answers(self, paths: Sequence[Path]) -> Iterator[Answered]:
        """The files that no earlier run answered, each once, as their rows are written."""
        left = [path for path in dict.fromkeys(paths) if not self._parts.is_done(path)]
        size = CHUNK[self._work.task]
        waiting = deque(_Chunk(tuple(left[at : at + size])) for at in range(0, len(left), size))
        at_work: dict[Any, tuple[_Chunk, Any]] = {}
        free = deque(actor for _ in range(AHEAD) for actor in self._actors)
        while waiting or at_work:
            while waiting and free:
                chunk, actor = waiting.popleft(), free.popleft()
                at_work[actor.answer.remote([str(path) for path in chunk.paths])] = chunk, actor
            (done, *_), _ = self._ray.wait(list(at_work), num_returns=1)
            chunk, actor = at_work.pop(done)
            free.append(actor)
            try:
                rows = self._ray.get(done)
            except self._ray.exceptions.RayError as error:
                self.lost += 1
                rows = self._again(chunk, waiting, error)
            if rows:
                self._parts.write(chunk.paths, rows)
                yield from map(Answered, chunk.paths, rows)

    def _again(self, chunk: _Chunk, waiting: deque[_Chunk], error: Exception) -> list[Row]:
        """Gives a chunk out again whose actor was lost; refusals where it ends every actor."""
        if chunk.tries + 1 < TRIES:
            waiting.append(chunk._replace(tries=chunk.tries + 1))
            return []
        if len(chunk.paths) > 1:
            waiting.extend(_Chunk((path,)) for path in chunk.paths)
            return []
        told = (str(error).strip().splitlines() or [type(error).__name__])[0]
        return [_failed(self._work.task, Refusal("failed", f"its actor was lost {TRIES} times: {told[:300]}"))]

    def refused_before(self, paths: Sequence[Path]) -> int:
        """How many of `paths` an earlier run refused."""
        return self._parts.refused(path for path in dict.fromkeys(paths) if self._parts.is_done(path))

    def close(self) -> None:
        """Leaves the cluster and ends its actors."""
        with suppress(self._ray.exceptions.RayError):
            for actor in self._actors:
                self._ray.kill(actor)
        self._ray.shutdown()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def _alone(address: str) -> dict[str, Any]:
    """What a cluster that is begun for this run alone does without: a dashboard, and an address that others reach."""
    return {"include_dashboard": False, "_node_ip_address": "127.0.0.1"} if address == "local" else {}


def _failed(task: Task, refusal: Refusal) -> Row:
    nothing: Row = dict.fromkeys(SCHEMAS[task])
    empty: Row = (
        {"decided_early": False} if task == "classify" else {"validated": False, "cells": [], "notes": [], "doubts": []}
    )
    return {**nothing, **empty, "refusal": refusal.code, "detail": refusal.detail}
