"""Everything that blastscope raises on purpose, one class per thing a caller would do differently; and deprecation warnings.

    BlastscopeError                 exit code 1
    ├── UsageError (ValueError)     2  the call is wrong: mend the arguments
    │   ├── ConfigError             2  a key or value in a TOML file
    │   ├── ImageError              2  not an image array at all: wrong type, dtype or rank
    │   └── DataError               2  a file or folder of the caller's that can't be used as it is
    │       └── WriteError (OSError) 2  one that can't be written: make room, or name another place
    ├── BundleError                 3  the bundle can't be used: get a good copy
    │   ├── DigestMismatch          3  a file differs from what the manifest says
    │   ├── FormatTooNew            3  written for a later version: upgrade
    │   ├── SignatureError          3  it isn't signed by a key that was required: ask its maker
    │   ├── GoldenMismatch          3  this engine answers differently from the networks that were trained
    │   └── UngatedBundle           3  a benchmark bundle, whose answers mean nothing
    ├── UnavailableError            4  this machine lacks something
    │   ├── MissingLibrary          4  a pip install away
    │   ├── DeviceError             4  no such device, or it failed
    │   │   ├── DriverError         4  no NVIDIA driver, one that is too old, or no GPU behind it
    │   │   ├── OutOfDeviceMemory   4  free memory there, or take smaller batches
    │   │   ├── DeviceLost          4  the device stopped in mid-run: reopen the handle
    │   │   └── KernelError         4  the crop kernels are damaged: install blastscope again
    │   └── EngineError             4  the inference library refused or broke off
    └── Closed                      1  the handle or the stream was closed

`exit_code` is what the command line exits with. Foreign exceptions are translated into these once, at the edge, with `from`.
"""

from __future__ import annotations

import errno
import warnings
from collections.abc import Callable, Iterable
from functools import wraps
from pathlib import Path
from typing import Any, ParamSpec, Self, TypeVar

P = ParamSpec("P")
R = TypeVar("R")

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # of an `OSError`: there is no room for more


def _quoted(path: Path | str) -> str:
    """A path as a message of one line has it."""
    return "'" + str(path).replace("\n", "\\x0a").replace("\r", "\\x0d") + "'"


class BlastscopeError(Exception):
    """Any error that blastscope raises on purpose: catch this class to catch all of them.

    Attributes
    ----------
    exit_code : int
        What the command line exits with.
    """

    exit_code = 1

    def __reduce__(self) -> tuple[Any, ...]:
        """How a process pool carries the error home: Python's own way calls `__init__` with the message alone."""
        return _again, (type(self), self.args, vars(self))


def _again(kind: type[BlastscopeError], args: tuple[object, ...], facts: dict[str, object]) -> BlastscopeError:
    error = kind.__new__(kind)
    error.args = args
    for name, value in facts.items():
        setattr(error, name, value)
    return error


class UsageError(BlastscopeError, ValueError):
    """An argument that is wrong. It is a `ValueError`, too."""

    exit_code = 2


class ConfigError(UsageError):
    """A configuration file, or a section of one, with an unknown key or a value that can't be.

    Attributes
    ----------
    path : Path
        The file, or the name of the section.
    problems : tuple of str
        One line for each key that is wrong.
    known : tuple of str
        The keys that would be right, where an unknown one was found.
    """

    def __init__(self, path: Path | str, problems: Iterable[str], *, known: Iterable[str] = ()) -> None:
        self.path = Path(path)
        self.problems = tuple(problems)
        self.known = tuple(known)
        known_text = f"; known keys: {', '.join(self.known)}" if self.known else ""
        super().__init__(f"configuration {_quoted(self.path)}: {'; '.join(self.problems)}{known_text}")


class ImageError(UsageError):
    """What was handed over is not an image: not a uint8 array of shape (H, W, 3), or not a PIL image in 8-bit RGB."""


class DataError(UsageError):
    """A file or folder of cells, labels or a run that can't be used as it is.

    Attributes
    ----------
    path : Path
        The file or folder.
    problem : str
        What is wrong with it.
    """

    def __init__(self, path: Path | str, problem: str) -> None:
        self.path = Path(path)
        self.problem = problem
        super().__init__(f"{_quoted(self.path)}: {problem}")


class WriteError(DataError, OSError):
    """A file or folder that can't be written, because the disk is full for example. It is an `OSError`, too.

    Attributes
    ----------
    path, problem
        As those of `DataError`.
    errno, strerror, filename
        As those of any `OSError`; `filename` is `path` as text.
    """

    def __init__(self, path: Path | str, cause: OSError) -> None:
        reason = (cause.strerror or str(cause) or type(cause).__name__).lower()
        remedy = "make room there, or name another place" if cause.errno in FULL else "name another place"
        super().__init__(path, f"can't be written, {reason}: {remedy}")
        self.args = (f"{_quoted(self.path)}: {self.problem}",)  # Python 3.14's OSError leaves them empty
        self.errno, self.strerror, self.filename = cause.errno, cause.strerror, str(path)

    def __new__(cls, *_: object) -> Self:
        """An `OSError`, which else would take what it is made of for a number and a reason."""
        return OSError.__new__(cls)

    def __str__(self) -> str:
        return str(self.args[0])

    def __reduce__(self) -> tuple[Any, ...]:
        """With what an `OSError` keeps apart."""
        own = {"errno": self.errno, "strerror": self.strerror, "filename": self.filename}
        return _again, (type(self), self.args, {**vars(self), **own})


class BundleError(BlastscopeError):
    """A bundle that can't be used.

    Attributes
    ----------
    path : Path
        The bundle's folder or zip.
    problem : str
        What is wrong with it.
    """

    exit_code = 3

    def __init__(self, path: Path | str, problem: str) -> None:
        self.path = Path(path)
        self.problem = problem
        super().__init__(f"bundle {_quoted(self.path)}: {problem}")


class DigestMismatch(BundleError):
    """A file of the bundle that is missing, or differs from what the manifest says in size or digest.

    Attributes
    ----------
    path, problem
        As those of `BundleError`.
    file : str
        The file's path from the bundle's root.
    """

    def __init__(self, path: Path | str, file: str, problem: str) -> None:
        self.file = file
        super().__init__(path, f"{file} {problem}")


class FormatTooNew(BundleError):
    """A bundle in a later format than this version of blastscope reads.

    Attributes
    ----------
    path, problem
        As those of `BundleError`.
    needed, supported : str
        The bundle's format, and the latest that is read, as 'major.minor'.
    """

    def __init__(self, path: Path | str, *, needed: str, supported: str) -> None:
        self.needed = needed
        self.supported = supported
        super().__init__(
            path, f"format {needed} is newer than {supported}: upgrade blastscope to one that reads format {needed}"
        )


class SignatureError(BundleError):
    """A bundle that a signature was required of, and that has none, or one of another key or of other bytes."""


class GoldenMismatch(BundleError):
    """An engine whose answers on the golden set differ from those of the trained networks by more than the tolerance."""


class UngatedBundle(BundleError):
    """A bundle whose gate was waived: it is for benchmarks, and its calls mean nothing."""


class UnavailableError(BlastscopeError):
    """Something that was asked for and that this machine doesn't have."""

    exit_code = 4


class MissingLibrary(UnavailableError):
    """A library that is not installed.

    Attributes
    ----------
    library : str
        Its name.
    command : str
        The pip command that installs it.
    """

    def __init__(self, library: str, extra: str) -> None:
        self.library = library
        self.command = f"pip install 'blastscope[{extra}]'" if extra else "pip install blastscope"
        super().__init__(f"'{library}' is not installed: {self.command}")


class DeviceError(UnavailableError):
    """A device that isn't there, or that failed."""


class DriverError(DeviceError):
    """A driver that keeps every NVIDIA GPU from being used.

    Attributes
    ----------
    reason : {'missing', 'too old', 'no gpu', 'unusable'}
        What is wrong with it.
    """

    def __init__(self, problem: str, *, reason: str = "unusable") -> None:
        self.reason = reason
        super().__init__(problem)


class OutOfDeviceMemory(DeviceError):
    """The GPU's memory is full.

    Attributes
    ----------
    doing : str
        What the memory was wanted for.
    """

    def __init__(self, doing: str) -> None:
        self.doing = doing
        super().__init__(
            f"{doing}: the GPU's memory is full: close what else uses it, take smaller batches, or say device='cpu'"
        )


class DeviceLost(DeviceError):
    """The GPU, or the process's context on it, broke down: nothing on it answers until the handle is reopened.

    Attributes
    ----------
    doing : str
        What was under way.
    code : int or None
        CUDA's error number, where it told one.
    """

    def __init__(self, doing: str, code: int | None = None) -> None:
        self.doing = doing
        self.code = code
        told = "" if code is None else f" (CUDA error {code})"
        super().__init__(
            f"{doing}: the GPU was lost{told}: call reopen() on the handle; if that fails, start the process anew, or reopen "
            f"with device='cpu'"
        )


class KernelError(DeviceError):
    """The compiled crop kernels are missing, or were not made from the sources beside them.

    Attributes
    ----------
    path : Path
        The kernels' file.
    problem : str
        What is wrong with it.
    """

    def __init__(self, path: Path | str, problem: str) -> None:
        self.path = Path(path)
        self.problem = problem
        super().__init__(
            f"crop kernels {_quoted(self.path)}: {problem}: install blastscope again, or run 'make kernels' in a checkout"
        )


class EngineError(UnavailableError):
    """The inference library couldn't load a graph, or broke off while it ran."""


class Closed(BlastscopeError):
    """The handle, or the stream, was closed before this call or during it."""

    def __init__(self, problem: str = "the handle is closed: open the bundle again") -> None:
        super().__init__(problem)


def warn_deprecated(old: str, new: str, *, stacklevel: int = 3) -> None:
    """Warns whoever uses the name `old`, which is accepted in this version only, to use `new` instead."""
    text = f"{old} is deprecated and will be removed in the next version: use {new}"
    warnings.warn(text, FutureWarning, stacklevel=stacklevel)


def renamed_keywords(**renamed: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """A decorator that takes keyword arguments under their old names, with a `FutureWarning`: `old="new"`."""

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        @wraps(function)
        def call(*args: P.args, **given: P.kwargs) -> R:
            for old, new in renamed.items():
                if old in given:
                    warn_deprecated(f"{function.__name__}({old}=...)", f"{new}=...")
                    given.setdefault(new, given.pop(old))
            return function(*args, **given)

        return call

    return decorate
