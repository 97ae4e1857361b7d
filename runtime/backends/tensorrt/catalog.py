"""The engines in the cache: listed with their states, removed, and taken in from another machine.

An engine that was built elsewhere is taken in only if the user asks for it and every field of its key fits.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple, Self

from pydantic import ValidationError

from blastscope.runtime.backends.tensorrt.engine_store import (
    SIDECAR_LIMIT,
    Sidecar,
    engine_lock,
    engine_path,
    engines_folder,
    keep,
    known_file,
    read_engine,
    read_sidecar,
)
from blastscope.runtime.backends.tensorrt.key import (
    LAYOUT,
    LIBRARIES,
    EngineKey,
    Library,
    is_installed,
    library_version,
    platform_name,
    runs_on,
)
from blastscope.runtime.bundle import Bundle
from blastscope.runtime.cuda.driver import GpuFacts, gpu_facts, probe
from blastscope.runtime.errors import DataError, DriverError, EngineError, MissingLibrary, UsageError
from blastscope.runtime.io.atomic import clear_abandoned_files
from blastscope.runtime.io.own_files import Unusable


def incompatibilities(key: EngineKey, machine: EngineHost, bundle: Bundle | None = None) -> list[str]:
    """Why an engine can't be used on a machine, and for a bundle where one is named.

    That no GPU is here, or none that it is for, isn't among the reasons: see `gpu_incompatibility`.

    Parameters
    ----------
    key : EngineKey
        The engine's.
    machine : EngineHost
        Where it is to run.
    bundle : Bundle, optional
        Whose graph it is to be made of.

    Returns
    -------
    list of str
        Sentences; empty where nothing speaks against it.
    """
    return [*_library(key, machine), *(_graph(key, bundle) if bundle else ())]


def _library(key: EngineKey, machine: EngineHost) -> Iterator[str]:
    if key.layout != LAYOUT:
        yield f"built by another version of blastscope (layout {key.layout}, this one makes {LAYOUT})"
    if key.platform != machine.platform:
        yield f"built on {key.platform}, this is {machine.platform}"
    version = machine.versions.get(key.library)
    if version is None:
        yield f"{key.library} is not installed here: pip install 'blastscope[{key.library}]'"
    elif version != key.version:
        yield f"built by {key.library} {key.version}, {version} is installed"


def _graph(key: EngineKey, bundle: Bundle) -> Iterator[str]:
    manifest, known = bundle.manifest, dict[str, tuple[str, str]]()
    if manifest.detector:
        known = {file.sha256: ("detector", precision) for precision, file in manifest.detector.graphs.items()}
    known |= {entry.sha256: (entry.models, entry.precision) for entry in manifest.graphs}
    if key.graph not in known:
        yield f"its graph {key.graph[:12]}… is not in bundle '{bundle.path}'"
        return
    models, precision = known[key.graph]
    if models != key.models:
        yield f"its graph is that of '{models}', its key says '{key.models}'"
    if precision != key.precision:
        yield f"its graph is {precision}, its key says {key.precision}"


def gpu_incompatibility(key: EngineKey, machine: EngineHost) -> str | None:
    """Why no GPU of `machine` can run an engine of `key`; None where one can."""
    if not machine.gpus:
        return "no GPU can be used here: 'blastscope devices' says why"
    if key.gpu is None:
        if any(runs_on(key.targets, gpu) for gpu in machine.gpus):
            return None
        have = ", ".join(f"{gpu.name} ({gpu.target})" for gpu in machine.gpus)
        return f"built for {', '.join(key.targets) or 'GPUs from sm80 on'}, here is {have}"
    if key.gpu in machine.gpus:
        return None
    return min((_difference(key.gpu, gpu) for gpu in machine.gpus), key=len)


def _difference(built: GpuFacts, here: GpuFacts) -> str:
    if built.name != here.name:
        return f"built on '{built.name}', here is '{here.name}'"
    if built.capability != here.capability:
        return f"built for compute capability {built.capability}, here is {here.capability}"
    return f"built with driver {built.driver}, here is {here.driver}"


@dataclass(frozen=True, slots=True)
class EngineHost:
    """A machine as engines see it.

    Attributes
    ----------
    platform : str
        Operating system and processor.
    versions : mapping of str to str
        Versions of the libraries that can be loaded, 'tensorrt' and 'tensorrt-rtx'.
    gpus : tuple of GpuFacts
        Its GPUs.
    no_gpu : str or None
        Why there is none.
    """

    platform: str
    versions: Mapping[Library, str]
    gpus: tuple[GpuFacts, ...]
    no_gpu: str | None = None

    @classmethod
    def here(cls) -> Self:
        """The machine that runs this. Loads the libraries that are installed, and takes no GPU memory."""
        versions: dict[Library, str] = {}
        for library in LIBRARIES:
            try:
                if is_installed(library):
                    versions[library] = library_version(library)
            except (EngineError, MissingLibrary):
                continue  # too old or broken, which the verbs that need it say
        try:
            gpus = tuple(gpu_facts(gpu) for gpu in probe().gpus)
        except DriverError as error:
            return cls(platform_name(), versions, (), str(error))
        return cls(platform_name(), versions, gpus)


State = Literal["ready", "ahead", "stale", "unusable"]


@dataclass(frozen=True, slots=True)
class StoredEngine:
    """An engine of the cache.

    Attributes
    ----------
    path : Path
        The engine's file.
    size : int
        Bytes on disk; 0 where the file is gone.
    key : EngineKey or None
        What it was built from and for; None where its sidecar can't be read.
    state : {'ready', 'ahead', 'stale', 'unusable'}
        'ready': may run here. 'ahead': sound, but for a GPU that isn't here. 'stale': the machine, a library or the bundle
        changed. 'unusable': damaged, another user's, or never trusted here. The last two are built anew when they are
        asked for.
    reasons : tuple of str
        Why it isn't ready.
    """

    path: Path
    size: int
    key: EngineKey | None
    state: State
    reasons: tuple[str, ...]

    @property
    def name(self) -> str:
        """The engine's name on the command line."""
        return self.path.stem


def list_engines(cache_dir: Path, machine: EngineHost, bundle: Bundle | None = None) -> list[StoredEngine]:
    """Every engine kept in `cache_dir`, verified, judged for `machine` and, where one is named, for `bundle`."""
    folder = engines_folder(cache_dir)
    stems = {path.stem for ending in ("engine", "json") for path in folder.glob(f"[!.]*.{ending}")}
    return [_judge(folder / f"{stem}.engine", machine, bundle) for stem in sorted(stems)]


def _judge(path: Path, machine: EngineHost, bundle: Bundle | None) -> StoredEngine:
    size = path.lstat().st_size if path.is_symlink() or path.exists() else 0
    try:
        key = read_sidecar(path).key
    except Unusable as error:
        return StoredEngine(path, size, None, "unusable", (str(error),))
    try:
        read_engine(path)
    except Unusable as error:
        return StoredEngine(path, size, key, "unusable", (str(error),))
    stale = incompatibilities(key, machine, bundle)
    elsewhere = gpu_incompatibility(key, machine)
    if elsewhere and key.gpu is not None:
        stale.append(elsewhere)
    if stale:
        return StoredEngine(path, size, key, "stale", tuple(stale))
    return StoredEngine(path, size, key, "ahead", (elsewhere,)) if elsewhere else StoredEngine(path, size, key, "ready", ())


def pick_engine(engines: list[StoredEngine], name: str) -> StoredEngine:
    """The engine called `name`: its name, its path, or the beginning of either. Raises `UsageError`."""
    wanted = Path(name).name.removesuffix(".engine")
    found = [engine for engine in engines if engine.name == wanted] or [
        engine for engine in engines if wanted and engine.name.startswith(wanted)
    ]
    if not found:
        raise UsageError(f"no engine '{name}' is in the cache: 'blastscope engines' lists them")
    if len(found) > 1:
        raise UsageError(f"'{name}' is the beginning of {len(found)} engines: {', '.join(one.name for one in found)}")
    return found[0]


def remove_engine(engine: StoredEngine) -> None:
    """Deletes the engine and all that is known of it. Raises `OSError`."""
    with suppress(Unusable):  # nothing is known of it then
        known_file(engine.path, read_sidecar(engine.path).sha256).unlink(missing_ok=True)
    # the sidecar first: without it the rest is no engine
    for ending in (".json", ".engine", ".jit"):  # .jit: what TensorRT-RTX compiled of it
        engine.path.with_suffix(ending).unlink(missing_ok=True)


def remove_unusable(cache_dir: Path) -> None:
    """Deletes what belongs to no engine any more: compiled kernels, known digests, files of killed writers.

    Kernels compiled of an engine that was built ahead of time go too: they are known by the GPU's own key. Raises `OSError`.
    """
    folder = engines_folder(cache_dir)
    wanted = set()
    for path in folder.glob("[!.]*.json"):
        with suppress(Unusable):
            wanted.add(known_file(path, read_sidecar(path).sha256))
    yesterday = time.time() - 86400
    for files in (folder, folder / "known"):
        clear_abandoned_files(files)
    for path in (*folder.glob("*.jit"), *folder.glob("known/[!.]*")):
        with suppress(FileNotFoundError):
            orphaned = not path.with_suffix(".engine").exists() if path.suffix == ".jit" else path not in wanted
            # a file of today may be one that is being written
            if orphaned and (path.suffix == ".jit" or path.stat().st_mtime < yesterday):
                path.unlink()


class Trusted(NamedTuple):
    """An engine that was built elsewhere, and is trusted here now.

    Attributes
    ----------
    path : Path
        Its copy in the cache, which is what will run.
    sha256 : str
        Digest of that file, in hex.
    key : EngineKey
        What it was built from and for.
    """

    path: Path
    sha256: str
    key: EngineKey


def trust_engine(file: Path, bundle: Bundle, machine: EngineHost, cache_dir: Path) -> Trusted:
    """Copies an engine into the cache and records its digest as one that this user trusts.

    An engine is code: call this only because the user said so.

    Parameters
    ----------
    file : Path
        The engine. Its bytes must be those that the sidecar beside it describes.
    bundle : Bundle
        Whose graph it must be made of.
    machine : EngineHost
        Its libraries and one of its GPUs must fit, too.
    cache_dir : Path
        The cache.

    Returns
    -------
    Trusted

    Raises
    ------
    DataError
        The files can't be read.
    EngineError
        Names every field of the key that doesn't fit.
    """
    side = _travelled(file)
    data = _bytes(file, side)
    elsewhere = gpu_incompatibility(side.key, machine)
    problems = [*incompatibilities(side.key, machine, bundle), *([elsewhere] if elsewhere else [])]
    if problems:
        remedy = f"build one here: blastscope build --runtime {side.key.library}"
        raise EngineError(f"engine '{file}' is not taken: {'; '.join(problems)}; {remedy}")
    path = engine_path(cache_dir, side.key)
    with engine_lock(path, None):
        keep(path, data, side, "trusted")
    return Trusted(path, side.sha256, side.key)


def _travelled(file: Path) -> Sidecar:
    beside = file.with_suffix(".json")
    try:
        with beside.open("rb") as stream:
            return Sidecar.model_validate_json(stream.read(SIDECAR_LIMIT), strict=True)
    except OSError as error:
        raise DataError(beside, f"the engine's sidecar can't be read: {(error.strerror or str(error)).lower()}") from error
    except ValidationError as error:
        raise DataError(beside, "is not the sidecar of an engine of this version of blastscope") from error


def _bytes(file: Path, side: Sidecar) -> bytes:
    try:
        with file.open("rb") as stream:
            data = stream.read(side.size + 1)
    except OSError as error:
        raise DataError(file, f"the engine can't be read: {(error.strerror or str(error)).lower()}") from error
    if len(data) != side.size or hashlib.sha256(data).hexdigest() != side.sha256:
        raise DataError(file, f"is not the engine that '{file.with_suffix('.json').name}' describes: its bytes differ")
    return data
