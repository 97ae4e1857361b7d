"""`PartFolder`: results as Parquet files in a folder, each written whole, that an interrupted run is gone on with.

Each part is named after the files that it answers and is renamed into place once it is whole. So a file is answered in one part
or in none, whatever ended the run: a part that is written twice, because its answer got lost, has one name.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from blastscope.runtime.errors import DataError, MissingLibrary, UsageError
from blastscope.runtime.io.atomic import write_file

if TYPE_CHECKING:
    import pyarrow as pa

Row = dict[str, Any]
HEAD = b"blastscope"  # the key of a part's metadata that says what it was made with


class FileState(NamedTuple):
    """What tells whether a file is still the one that was answered."""

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
