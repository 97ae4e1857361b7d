"""The engines in the user's cache. An engine file is code: only what this user's blastscope built or trusted here is given out.

Beside each `NAME.engine` stands its sidecar `NAME.json` with the key and the file's digest, and `known/DIGEST` says that this
user built or trusted a file of that digest. All three must be plain files of this user that nobody else may write, the sidecar
must hold a key that serves the one asked for, and the bytes that are given out are those whose digest was taken. Else there is
no engine, and the next one that is built takes the place.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, NamedTuple, Self

from filelock import FileLock, Timeout
from pydantic import Field, ValidationError

from blastscope.runtime.backends.tensorrt.builder import DeviceContext, ProgressCallback, build_engine
from blastscope.runtime.backends.tensorrt.key import EngineKey
from blastscope.runtime.bundle.manifest import Digest, Moment
from blastscope.runtime.errors import EngineError
from blastscope.runtime.io.atomic import clear_abandoned_files, write_file
from blastscope.runtime.io.own_files import Unusable, delete_lock, make_private_folder, read_own
from blastscope.runtime.io.strict_model import StrictModel
from blastscope.runtime.io.temporary_file import clear_temporary_files, sibling

logger = logging.getLogger(__name__)

SIDECAR_LIMIT = 64 * 1024
_POLL = 0.1  # seconds between looks at a lock that another process holds


class Sidecar(StrictModel):
    """What stands beside an engine, and travels with it.

    Attributes
    ----------
    format : str
        Always 'blastscope engine 1'.
    key : EngineKey
        What the engine was built from and for.
    sha256 : str
        Digest of the engine's file, in hex.
    size : int
        Bytes of the engine's file.
    built : str
        Moment in UTC, ISO 8601.
    rebuilt : bool
        Whether it took the place of one that answered wrongly.
    """

    format: Literal["blastscope engine 1"] = "blastscope engine 1"
    key: EngineKey
    sha256: Digest
    size: int = Field(ge=1)
    built: Moment
    rebuilt: bool = False

    @classmethod
    def of(cls, key: EngineKey, data: bytes, *, rebuilt: bool = False) -> Self:
        """The sidecar of an engine that was built just now."""
        moment = datetime.now(UTC).isoformat(timespec="seconds")
        return cls(key=key, sha256=hashlib.sha256(data).hexdigest(), size=len(data), built=moment, rebuilt=rebuilt)


class EngineBlob(NamedTuple):
    """An engine's bytes, ready to be deserialised.

    Attributes
    ----------
    data : bytes
        The engine.
    path : Path
        Where it lies, or would lie.
    built : bool
        Whether it was built just now.
    note : str or None
        Why it couldn't be kept.
    rebuilt : bool
        Whether it took, now or earlier, the place of one that answered wrongly: another build won't mend that.
    """

    data: bytes
    path: Path
    built: bool
    note: str | None
    rebuilt: bool = False


def engines_folder(cache_dir: Path) -> Path:
    """Where the engines are kept: apart from those of the CPU's libraries, which hold no code."""
    return cache_dir / "engines" / "nvidia"


def engine_path(cache_dir: Path, key: EngineKey) -> Path:
    """Where an engine of that key is kept."""
    return engines_folder(cache_dir) / f"{key.name}.engine"


def find_engine(cache_dir: Path, key: EngineKey) -> bytes | None:
    """The engine for `key`, verified; None where there is none that may be used.

    First the one of that very key, then those built ahead of time that serve its GPU, named ones before portable ones.
    """
    found = _first(_candidates(cache_dir, key), key)
    return found.data if found else None


def _first(paths: Iterable[Path], key: EngineKey, *, rebuilt: bool = False) -> EngineBlob | None:
    """The first that may be used, with `rebuilt` of those alone that took the place of another."""
    for path in paths:
        with suppress(Unusable):
            data, side = read_engine(path, key)
            if side.rebuilt or not rebuilt:
                return EngineBlob(data, path, built=False, note=None, rebuilt=side.rebuilt)
    return None


def _candidates(cache_dir: Path, key: EngineKey) -> Iterator[Path]:
    exact = engine_path(cache_dir, key)
    yield exact
    ahead = []
    for path in sorted(engines_folder(cache_dir).glob("*.engine")):
        try:
            found = read_sidecar(path).key
        except Unusable:
            continue
        if path != exact and found.serves(key):
            ahead.append((not found.targets, path))
    yield from (path for _, path in sorted(ahead))


def read_engine(path: Path, wanted: EngineKey | None = None) -> tuple[bytes, Sidecar]:
    """The bytes of the engine at `path` and what is known of it. Raises `Unusable` with the reason."""
    side = read_sidecar(path)
    if path.stem != side.key.name:
        raise Unusable("its name is not that of its key")
    if wanted is not None and not side.key.serves(wanted):
        raise Unusable("it was built for another key")
    data = read_own(path, side.size)
    if len(data) != side.size or hashlib.sha256(data).hexdigest() != side.sha256:
        raise Unusable("it is damaged: its bytes are not those that were built")
    try:
        read_own(known_file(path, side.sha256), SIDECAR_LIMIT)
    except Unusable as error:
        raise Unusable("it was neither built here nor trusted: blastscope engines trust FILE") from error
    return data, side


def read_sidecar(path: Path) -> Sidecar:
    """The sidecar of the engine at `path`. Raises `Unusable`."""
    try:
        return Sidecar.model_validate_json(read_own(path.with_suffix(".json"), SIDECAR_LIMIT), strict=True)
    except ValidationError as error:
        raise Unusable("its sidecar is damaged, or of another version of blastscope") from error


def store_engine(cache_dir: Path, key: EngineKey, data: bytes, *, rebuilt: bool = False) -> Path:
    """Keeps an engine that was built here, in one step: the sidecar, which comes last, makes it one. Raises `OSError`."""
    path = engine_path(cache_dir, key)
    keep(path, data, Sidecar.of(key, data, rebuilt=rebuilt), "built")
    return path


def keep(path: Path, data: bytes, side: Sidecar, how: Literal["built", "trusted"]) -> None:
    """Writes an engine, what makes its digest known here, and its sidecar. Raises `OSError`."""
    make_private_folder(path.parent)
    make_private_folder(path.parent / "known")
    clear_temporary_files(path.parent)
    _write_own(path, data)
    _write_own(known_file(path, side.sha256), f"{how} {datetime.now(UTC).isoformat(timespec='seconds')}\n".encode())
    _write_own(path.with_suffix(".json"), (side.model_dump_json(indent=1) + "\n").encode())


def _write_own(path: Path, data: bytes) -> None:
    if path.is_symlink():
        path.unlink()  # a link is replaced, not followed

    write_file(path, lambda fresh: fresh.write_bytes(data), private=True)


def known_file(path: Path, sha256: str) -> Path:
    """What says that this user built or trusted the engine at `path`."""
    return path.parent / "known" / sha256


@contextmanager
def engine_lock(path: Path, cancelled: Callable[[], bool] | None) -> Iterator[None]:
    """Holds the lock under which the engine at `path` is built. The system lets go of a dead process's lock."""
    make_private_folder(path.parent)
    lock = FileLock(sibling(path, "lock"))
    waited = False
    while True:
        try:
            lock.acquire(timeout=_POLL if waited else 0)
            break
        except Timeout:
            if cancelled is not None and cancelled():
                raise EngineError(f"'{path.name}': waiting for the process that builds it was cancelled") from None
            if not waited:
                logger.info("another process is building %s: waiting for it", path.stem)
            waited = True
    try:
        yield
    finally:
        delete_lock(lock)
        lock.release()


def obtain_engine(
    cache_dir: Path,
    graph: Path,
    key: EngineKey,
    *,
    progress: ProgressCallback | None = None,
    cancelled: Callable[[], bool] | None = None,
    device_context: DeviceContext = nullcontext,
    exact: bool = False,
    rebuild: bool = False,
) -> EngineBlob:
    """The engine for a key from the cache, else built and kept; of two processes one builds.

    A cache that can't be written costs only that the engine isn't kept.

    Parameters
    ----------
    cache_dir : Path
        The cache.
    graph : Path
        The ONNX file.
    key : EngineKey
        From which graph, for which GPUs, batches and library.
    progress : callable, optional
        Gets each `BuildStep`.
    cancelled, device_context : callable
        As in `build_engine`.
    exact : bool
        True: an engine that was built ahead of time for others as well won't do.
    rebuild : bool
        True: the one in the cache answers wrongly, and its place is taken, once. One that took another's place already is given
        as it is.

    Returns
    -------
    EngineBlob

    Raises
    ------
    MissingLibrary, EngineError
        As `build_engine`.
    """
    path = engine_path(cache_dir, key)
    for folder in (path.parent, path.parent / "known"):
        clear_abandoned_files(folder)
    places = [path] if exact or rebuild else _candidates(cache_dir, key)
    found = _first(places, key, rebuilt=rebuild)
    if found:
        return found
    note = None
    with ExitStack() as held:
        try:
            held.enter_context(engine_lock(path, cancelled))
        except OSError as error:
            note = _why(path, error)
        found = _first([path], key, rebuilt=rebuild)  # built by the process that held the lock
        if found:
            return found
        data = build_engine(graph, key, progress=progress, cancelled=cancelled, device_context=device_context)
        if note is None:
            try:
                store_engine(cache_dir, key, data, rebuilt=rebuild)
            except OSError as error:
                note = _why(path, error)
        return EngineBlob(data, path, True, note, rebuild)


def _why(path: Path, error: OSError) -> str:
    return f"the engine isn't kept: '{path.parent}' can't be written ({(error.strerror or str(error)).lower()})"
