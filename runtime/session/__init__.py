"""`open_bundle`, which gives a `Scope`: the thread-safe handle that classifies cells and examines frames."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from blastscope.runtime.backends.protocol import Workload
from blastscope.runtime.bundle import read_bundle, read_signed_bundle
from blastscope.runtime.bundle.trusted_keys import RequiredSignature
from blastscope.runtime.errors import DigestMismatch, UsageError, warn_deprecated
from blastscope.runtime.inference.options import SessionOptions, as_path, whole_number
from blastscope.runtime.io.paths import SHIPPED_BUNDLE, default_cache_dir
from blastscope.runtime.session.scope import Scope as Scope
from blastscope.runtime.types import Execution, Layout, Precision

if TYPE_CHECKING:
    from blastscope.runtime.evaluation.validation_record import ValidationRecord


def open_bundle(
    path: Path | str | None = None,
    *,
    device: str = "auto",
    precision: Precision | Literal["auto"] | str = "auto",
    execution: Execution | Literal["auto"] | str = "auto",
    backend: str = "auto",
    workload: Workload | str = "latency",
    threads: int | None = None,
    allow_ungated: bool = False,
    queue: int = 64,
    cache_dir: Path | str | None = None,
    while_building: Literal["wait", "cpu"] | str = "wait",
    validation: Path | str | None = None,
    tell: Callable[[str], None] | None = None,
    layout: Layout | Literal["auto"] | str = "auto",
    cascade: bool = False,
    unlike_training: Literal["refuse", "call"] | str = "refuse",
    require_signature: RequiredSignature | None = None,
) -> Scope:
    """A handle on the networks of a bundle. `SessionOptions` explains the options in full, runtime/README.md with examples.

    Raises `UsageError` for a wrong argument, `BundleError` for a bundle that can't be trusted (`UngatedBundle`,
    `GoldenMismatch`, `SignatureError` among them), `UnavailableError` for a missing library or device.

    Parameters
    ----------
    path : Path or str, optional
        The bundle's folder or zip; by default the bundle that comes with the package.
    device : {'auto', 'cpu', 'cuda', 'cuda:N', 'openvino:NAME'}
        'auto' is an NVIDIA GPU where an engine for it exists or can be built, else the CPU.
    precision, execution, backend, layout : str
        Graph, number type of the engine, library, and layout on the CPU's cores. 'auto' takes what is fastest on this machine.
    workload, threads : {'latency', 'throughput'}, int
        One answer as soon as possible, or as many as possible; and the cores to use, by default all that the process may.
    allow_ungated, cascade : bool
        Open a bundle whose gate was waived; let its first voter decide alone where it is sure, as its record allows.
    queue : int
        How many images may wait in `submit`.
    cache_dir, validation : Path or str, optional
        Folder for compiled engines, by default the user's cache; and the record that `blastscope validate` wrote.
    while_building : {'wait', 'cpu'}
        Whether the CPU answers until a GPU's engine is built.
    tell : callable, optional
        Deprecated, gone in the next version: use the logger 'blastscope', which says what takes long and what was chosen.
    unlike_training : {'refuse', 'call'}
        Whether a cell unlike those of the training is refused, or called all the same.
    require_signature : Path, str or iterable of these, optional
        Public keys, one of which must have signed the bundle, or 'trusted' for those that `blastscope trust` keeps.
    """
    if tell is not None:
        _log_to(tell)
    path, queue = as_path("path", SHIPPED_BUNDLE if path is None else path), whole_number("queue", queue)
    cache = default_cache_dir() if cache_dir is None else as_path("cache_dir", cache_dir).absolute()
    options = SessionOptions.parse(
        device=device,
        precision=precision,
        execution=execution,
        backend=backend,
        workload=workload,
        threads=threads,
        allow_ungated=allow_ungated,
        cache_dir=cache,
        while_building=while_building,
        layout=layout,
        cascade=cascade,
        unlike_training=unlike_training,
    )
    record = None if validation is None else _read_record(as_path("validation", validation))
    read = partial(read_bundle, path, cache_dir=cache)
    if require_signature is not None:
        read = partial(read_signed_bundle, path, require_signature, cache_dir=cache)
    for _ in range(2):
        with suppress(DigestMismatch):  # a writer may have put the next bundle in this one's place
            return Scope(read(), options, queue=queue, validation=record)
    return Scope(read(), options, queue=queue, validation=record)


def _read_record(path: Path) -> ValidationRecord:
    from blastscope.runtime.evaluation.validation_record import read_validation

    return read_validation(path)


class _TellHandler(logging.Handler):
    """Gives what takes long to a function that takes a line of text."""

    def __init__(self, tell: Callable[[str], None]) -> None:
        super().__init__(logging.INFO)
        self.tell = tell

    def emit(self, record: logging.LogRecord) -> None:
        self.tell(record.getMessage())


def _log_to(tell: Callable[[str], None]) -> None:
    """What `tell` did before there was logging."""
    if not callable(tell):
        raise UsageError(f"tell is {tell!r}: it must be a function that takes a line of text")
    warn_deprecated("tell", "a handler of logging.getLogger('blastscope')", stacklevel=4)
    logger = logging.getLogger("blastscope.runtime.backends")
    if not any(isinstance(handler, _TellHandler) and handler.tell == tell for handler in logger.handlers):
        logger.addHandler(_TellHandler(tell))
    if logger.getEffectiveLevel() > logging.INFO:
        logger.setLevel(logging.INFO)
