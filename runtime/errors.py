"""Everything that blastscope raises on purpose, one class per thing a caller would do differently.

    BlastscopeError                 exit code 1
    ├── UsageError (ValueError)     2  the call is wrong: mend the arguments
    │   ├── ConfigError             2  a key or value in a TOML file
    │   ├── ImageError              2  not an image array at all: wrong type, dtype or rank
    │   └── DataError               2  a file or folder of the caller's that can't be used as it is
    │       └── WriteError (OSError) 2  one that can't be written: make room, or name another place
    ├── BundleError                 3  the bundle can't be used: get a good copy
    │   ├── DigestMismatch          3  a file differs from what the manifest says
    │   ├── FormatTooNew            3  written for a later version: upgrade
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

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Self


class BlastscopeError(Exception):
    """Root of the tree: catch it to catch all of them."""

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
    """The arguments are wrong."""

    exit_code = 2


class ConfigError(UsageError):
    """A configuration file with an unknown key or a value out of range."""

    def __init__(self, path: Path | str, problems: Iterable[str], *, known: Iterable[str] = ()) -> None:
        self.path = Path(path)
        self.problems = tuple(problems)
        self.known = tuple(known)
        known_text = f"; known keys: {', '.join(self.known)}" if self.known else ""
        super().__init__(f"configuration '{self.path}': {'; '.join(self.problems)}{known_text}")


class ImageError(UsageError):
    """What was handed over is not a (H, W, 3) uint8 array."""


class DataError(UsageError):
    """A file or folder, of cells, labels or a run, that can't be used as it stands."""

    def __init__(self, path: Path | str, problem: str) -> None:
        self.path = Path(path)
        self.problem = problem
        super().__init__(f"'{self.path}': {problem}")


class WriteError(DataError, OSError):
    """A file or folder that can't be written. `errno` says why, as that of any `OSError`."""

    def __init__(self, path: Path | str, cause: OSError) -> None:
        reason = (cause.strerror or str(cause) or type(cause).__name__).lower()
        super().__init__(path, f"can't be written, {reason}: make room there, or name another place")
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
    """A bundle that can't be opened."""

    exit_code = 3

    def __init__(self, path: Path | str, problem: str) -> None:
        self.path = Path(path)
        self.problem = problem
        super().__init__(f"bundle '{self.path}': {problem}")


class DigestMismatch(BundleError):
    """A file of the bundle is missing, shortened, lengthened or changed."""

    def __init__(self, path: Path | str, file: str, problem: str) -> None:
        self.file = file
        super().__init__(path, f"{file} {problem}")


class FormatTooNew(BundleError):
    """The bundle's format is newer than this version of blastscope reads."""

    def __init__(self, path: Path | str, *, needed: str, supported: str) -> None:
        self.needed = needed
        self.supported = supported
        super().__init__(
            path, f"format {needed} is newer than {supported}: upgrade blastscope to one that reads format {needed}"
        )


class GoldenMismatch(BundleError):
    """The engine's answers on the golden set lie outside the tolerance."""


class UngatedBundle(BundleError):
    """The bundle's gate was waived, so its calls mean nothing."""


class UnavailableError(BlastscopeError):
    """The machine lacks what was asked for."""

    exit_code = 4


class MissingLibrary(UnavailableError):
    """A library that an extra would bring is not installed."""

    def __init__(self, library: str, extra: str) -> None:
        self.library = library
        self.command = f"pip install 'blastscope[{extra}]'" if extra else "pip install blastscope"
        super().__init__(f"'{library}' is not installed: {self.command}")


class DeviceError(UnavailableError):
    """The device named is not here, or stopped working."""


class DriverError(DeviceError):
    """No GPU can be used because of its driver. `reason` says which: missing, too old, no gpu or unusable."""

    def __init__(self, problem: str, *, reason: str = "unusable") -> None:
        self.reason = reason
        super().__init__(problem)


class OutOfDeviceMemory(DeviceError):
    """The GPU's memory is full."""

    def __init__(self, doing: str) -> None:
        self.doing = doing
        super().__init__(
            f"{doing}: the GPU's memory is full: close what else uses it, take smaller batches, or say device='cpu'"
        )


class DeviceLost(DeviceError):
    """The GPU, or the process's context on it, broke down; `code` is CUDA's error. Nothing on it answers any more."""

    def __init__(self, doing: str, code: int | None = None) -> None:
        self.doing = doing
        self.code = code
        told = "" if code is None else f" (CUDA error {code})"
        super().__init__(
            f"{doing}: the GPU was lost{told}: call reopen() on the handle; if that fails, start the process anew, or reopen "
            f"with device='cpu'"
        )


class KernelError(DeviceError):
    """The compiled crop kernels are missing, or aren't those of the sources beside them."""

    def __init__(self, path: Path | str, problem: str) -> None:
        self.path = Path(path)
        self.problem = problem
        super().__init__(
            f"crop kernels '{self.path}': {problem}: install blastscope again, or run 'make kernels' in a checkout"
        )


class EngineError(UnavailableError):
    """The inference library could not load or run a graph."""


class Closed(BlastscopeError):
    """The handle, or the stream, was closed before this call."""

    def __init__(self, problem: str = "the handle is closed: open the bundle again") -> None:
        super().__init__(problem)
