"""Selects the device: the one named, or with `auto` a GPU with an engine, else the CPU.

What was taken and why stands in the session's events. An open handle never moves to another device by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from blastscope.runtime.backends.protocol import BACKENDS, GPU_BACKENDS, Cascade, load_gpu_backend
from blastscope.runtime.bundle import Bundle
from blastscope.runtime.cuda.driver import GpuDevice, find_gpu
from blastscope.runtime.errors import (
    BlastscopeError,
    DeviceError,
    DeviceLost,
    GoldenMismatch,
    MissingLibrary,
    OutOfDeviceMemory,
    UnavailableError,
    UngatedBundle,
    UsageError,
)
from blastscope.runtime.inference.background import BackgroundBuild
from blastscope.runtime.inference.events import BuildStarted, CascadeEnabled, DeviceSelected, PassedOver
from blastscope.runtime.inference.loader import BackendPlan, LoadedSession, load_plan, plan_backend
from blastscope.runtime.inference.options import CPU, Device, SessionOptions
from blastscope.runtime.types import VOTERS

DEFAULT = "openvino"
NEVER_BUILDS = "onnxruntime"  # and is the slowest
# What a device or its libraries may lack, so that another may be asked.
_PASSED_OVER = (UnavailableError, GoldenMismatch)


def load_session(bundle: Bundle, options: SessionOptions) -> LoadedSession:
    """The engine that the options name, or the best of those that the options leave open. Raises `BlastscopeError`s."""
    if bundle.manifest.gate != "passed" and not options.allow_ungated:
        raise UngatedBundle(
            bundle.path,
            f"its gate is '{bundle.manifest.gate}', so its calls mean nothing; allow_ungated=True opens it anyway",
        )
    if options.backend is not None and options.backend not in {**BACKENDS, **GPU_BACKENDS}:
        raise UsageError(
            f"backend '{options.backend}' is not known: say auto, {', '.join(sorted({**BACKENDS, **GPU_BACKENDS}))}"
        )
    if options.cascade or options.layout:
        return _open_laid_out(bundle, options)
    if options.device.kind == "auto":
        return _open_auto(bundle, options)
    if options.device.kind == "cuda":
        return _open_gpu(bundle, options)
    return _open_host(bundle, options)


def _open_laid_out(bundle: Bundle, options: SessionOptions) -> LoadedSession:
    """On the CPU, in the layout that the options name or that leaving voters out needs."""
    what = "cascade" if options.cascade else "layout"
    if options.device.kind == "cuda":
        raise UsageError(f"{what} is for a CPU: say device='cpu', or leave it out")
    if not options.cascade:
        return _open_host(bundle, options)
    found = bundle.manifest.cascade
    if found is None:
        raise UsageError(f"bundle '{bundle.path}' has no cascade: 'blastscope calibrate --cascade' measures one")
    if options.precision not in (None, found.precision) or options.layout not in (None, "staged"):
        wanted = options.layout if options.precision in (None, found.precision) else options.precision
        raise UsageError(f"the cascade of bundle '{bundle.path}' is of its {found.precision} graph, staged: not {wanted}")
    opened = _open_host(bundle, replace(options, precision=found.precision, layout="staged"))
    opened.lanes.enable_cascade(Cascade(VOTERS.index(found.first), found.threshold))
    opened.events.add(CascadeEnabled(found.first, found.threshold, found.flip_rate.value))
    return opened


def _open_auto(bundle: Bundle, options: SessionOptions) -> LoadedSession:
    if options.backend is not None and options.backend not in GPU_BACKENDS:
        return _open_host(bundle, options)
    try:
        opened = _open_gpu(bundle, replace(options, device=Device("cuda", "0")))
    except _PASSED_OVER as error:
        if options.backend is not None and options.backend not in BACKENDS:
            raise
        opened = _open_host(bundle, options)
        opened.events.add_first(DeviceSelected("CPU", opened.lanes.name, str(error)))
        return opened
    if not opened.building:
        opened.events.add_first(DeviceSelected(opened.lanes.engine.device, opened.lanes.name))
    return opened


def _open_host(bundle: Bundle, options: SessionOptions) -> LoadedSession:
    """On the CPU, or on a device that OpenVINO names."""
    device = CPU if options.device.kind in ("auto", "cuda") else options.device
    wanted = replace(options, device=device)
    # whoever names a precision, a layout or a cascade gets the first backend's, and the same one at every opening
    named = options.backend or options.precision or options.execution or options.layout
    compared = device == CPU and not named
    others = [name for name in BACKENDS if name != DEFAULT] if compared else []
    try:
        plan = plan_backend(bundle, wanted, options.backend or DEFAULT, *others)
    except MissingLibrary as error:
        if not others:
            raise
        try:
            plan = plan_backend(bundle, wanted, *others)
        except MissingLibrary:
            raise error from None  # the library that comes with the package
        opened = load_plan(plan)
        opened.events.add_first(PassedOver(DEFAULT, str(error)))
        return opened
    return load_plan(plan)


def _open_gpu(bundle: Bundle, options: SessionOptions) -> LoadedSession:
    """On the GPU that the options name, by the first library that can. Raises `DriverError`, `UnavailableError`s."""
    gpu = find_gpu(int(options.device.name))
    failures: dict[str, BlastscopeError] = {}
    for choice in _choices(bundle, options, failures):
        if choice.must_build and options.while_building == "cpu":
            return _open_meanwhile(choice, gpu)
        try:
            opened = load_plan(choice)
        except _PASSED_OVER as error:
            failures[choice.name] = error
            continue
        opened.events.add_first(*(PassedOver(name, str(error)) for name, error in failures.items()))
        return opened
    raise _summed(gpu, failures)


def _choices(bundle: Bundle, options: SessionOptions, failures: dict[str, BlastscopeError]) -> list[BackendPlan]:
    """What each library can do: those whose engine is at hand first, then those that build, the one that never builds last."""
    found = []
    for name in [options.backend] if options.backend else GPU_BACKENDS:
        try:
            found.append(plan_backend(bundle, options, name))
        except UnavailableError as error:
            failures[name] = error
    return sorted(found, key=lambda choice: (choice.name == NEVER_BUILDS, choice.must_build))


def _open_meanwhile(choice: BackendPlan, gpu: GpuDevice) -> LoadedSession:
    """The CPU, while the engine of `choice` is built in a thread of its own."""
    options, (entry, execution, *_) = choice.options, choice.ranked[0]
    there = options.backend if options.backend in BACKENDS else None
    opened = _open_host(choice.bundle, replace(options, execution=None, backend=there))
    graph = choice.bundle.file(entry)

    def build(cancelled: Callable[[], bool]) -> None:
        engine_options = replace(options.engine_options(execution), cancelled=cancelled)
        load_gpu_backend(choice.name).build(graph, entry.sha256, engine_options)

    what = f"the {entry.precision} engine of {choice.name} for {gpu.name}"
    opened.events.add_first(BuildStarted(what))
    opened.building = BackgroundBuild(build, opened.events, what)
    return opened


def _summed(gpu: GpuDevice, failures: Mapping[str, BlastscopeError]) -> BlastscopeError:
    """One error for all: the only one, or one that says more than that a library is missing."""
    errors = list(failures.values())
    telling = [error for error in errors if isinstance(error, DeviceLost | OutOfDeviceMemory | GoldenMismatch)]
    if telling or len({str(error) for error in errors}) == 1:
        return (telling or errors)[0]
    reasons = "; ".join(f"{name}: {error}" for name, error in failures.items())
    return DeviceError(f"cuda:{gpu.ordinal} {gpu.name} can't be used: {reasons}")
