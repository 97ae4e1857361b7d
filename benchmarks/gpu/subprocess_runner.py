"""Runs the steps of the GPU check in child processes.

The child writes a line as each step begins and another with its findings, and the parent reads them. After a step that crashed
the child, or lost the GPU for it, the remaining steps get a new child.
"""

from __future__ import annotations

import importlib
import shutil
import signal
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from tempfile import TemporaryDirectory

from blastscope.benchmarks.gpu_schema import Findings
from blastscope.runtime.cuda.kernels.fatbin import compiled_bytes, nvcc_version, read_record
from blastscope.runtime.errors import BlastscopeError
from blastscope.runtime.io.hashing import bytes_sha256

RESTART_EXIT_CODE = 75  # of a child for which the GPU is lost: the remaining steps need another one
_POLL_INTERVAL_S = 0.2
_BEGIN = "begin "

MakeCommand = Callable[[Sequence[str], Path], list[str]]  # from steps and the file for the child's lines
MakeFailure = Callable[[str, str], Findings]  # from a step that crashed its child, and the reason


def run_isolated(
    steps: Sequence[str], make_command: MakeCommand, make_failure: MakeFailure, *, step_timeout_s: float
) -> Iterator[Findings]:
    """Runs steps in child processes.

    Parameters
    ----------
    steps
        Names, in the order in which they run.
    make_command
        Gives the command line of a child that runs these steps and writes its lines with `write_line`.
    make_failure
        Gives the findings of a step that crashed its child or hung.
    step_timeout_s
        Seconds after which a child that writes nothing is killed.

    Yields
    ------
    Findings
        One for each step, in the order of `steps`.
    """
    remaining = list(steps)
    while remaining:
        with TemporaryDirectory() as folder:
            file = Path(folder) / "found"
            reason = _run_child(make_command(remaining, file), file, step_timeout_s)
            begun, found = read_findings(file)
        yield from found
        remaining = remaining[len(found) :]
        if reason is None and not found:
            reason = "the process did nothing"
        if remaining and reason is not None:
            # the step that had begun failed; without one the child can't start, and no step can run
            failed = remaining[:1] if len(begun) > len(found) or found else remaining
            yield from (make_failure(step, reason) for step in failed)
            remaining = remaining[len(failed) :]


def read_findings(file: Path) -> tuple[list[str], list[Findings]]:
    """The steps that began, and the findings of those that ended."""
    lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
    begun = [line.removeprefix(_BEGIN) for line in lines if line.startswith(_BEGIN)]
    return begun, [Findings.model_validate_json(line) for line in lines if line.startswith("{") and line.endswith("}")]


def write_line(file: Path, line: str) -> None:
    """Appends a line for the parent; it stays, however this process ends."""
    with file.open("a", encoding="utf-8") as stream:
        stream.write(f"{line}\n")


def _run_child(command: list[str], file: Path, step_timeout_s: float) -> str | None:
    """Why the child ended before its work did; None where it finished, or asks for a restart."""
    stderr_lines: list[str] = []
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, errors="replace") as process:
        reader = threading.Thread(target=_forward_stderr, args=(process, stderr_lines))
        reader.start()
        try:
            silent = _wait_until_silent(process, file, step_timeout_s)
        finally:
            process.kill()  # does nothing to one that has ended
            reader.join()
    if silent:
        return f"no output for {step_timeout_s:.0f} s: the process was killed"
    if process.returncode in (0, RESTART_EXIT_CODE):
        return None
    lines = [line.strip() for line in stderr_lines if line.strip()]
    return f"the process {describe_exit(process.returncode)}{f': {lines[-1]}' if lines else ''}"


def _wait_until_silent(process: subprocess.Popen[str], file: Path, step_timeout_s: float) -> bool:
    """True as soon as `file` hasn't grown for `step_timeout_s` seconds; False when the process ends before that."""
    last, size = time.monotonic(), 0
    while process.poll() is None:
        time.sleep(_POLL_INTERVAL_S)
        now = file.stat().st_size if file.exists() else 0
        if now != size:
            last, size = time.monotonic(), now
        elif time.monotonic() - last > step_timeout_s:
            return True
    return False


def _forward_stderr(process: subprocess.Popen[str], lines: list[str]) -> None:
    assert process.stderr is not None
    for line in process.stderr:
        lines.append(line)
        sys.stderr.write(line)


def describe_exit(code: int) -> str:
    """How a process with this exit code ended, to follow 'the process'."""
    try:
        return f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with {code}"
    except ValueError:
        return f"ended with {code}"


def build_pycuda(wheelhouse: Path, target: Path) -> str:
    """Builds pycuda without the network where it isn't installed, and puts it on the import path.

    Parameters
    ----------
    wheelhouse
        Folder with pycuda's source package.
    target
        Folder to install it into.

    Returns
    -------
    str
        The version and whether it was installed or built; or why it couldn't be built.
    """
    try:
        return f"{version('pycuda')}, installed"
    except PackageNotFoundError:
        pass
    sources, root = sorted(wheelhouse.glob("pycuda-*.tar.gz")), _cuda_root()
    if not sources or root is None:
        missing = "no CUDA headers to build it with" if sources else f"no pycuda-*.tar.gz in '{wheelhouse}' to build it from"
        return f"not installed, and {missing}"
    try:
        with TemporaryDirectory() as folder:
            done = _install(sources[-1], root, Path(folder), target)
    except (OSError, ValueError, tarfile.TarError) as error:
        return f"could not be built from '{sources[-1]}': {error}"
    if done.returncode:
        reason = [line for line in done.stderr.splitlines() if "rror" in line] or ["pip gives no reason"]
        return f"could not be built from '{sources[-1]}': {reason[-1].strip()}"
    sys.path.insert(0, str(target))
    importlib.invalidate_caches()
    return f"{version('pycuda')}, built here from '{sources[-1].name}'"


def _install(source: Path, root: Path, folder: Path, target: Path) -> subprocess.CompletedProcess[str]:
    with tarfile.open(source) as archive:
        archive.extractall(folder, filter="data")
    (unpacked,) = (path for path in folder.iterdir() if path.is_dir())
    (folder / "lib").mkdir()
    if driver := _loaded_driver():
        (folder / "lib" / "libcuda.so").symlink_to(driver)  # the driver has no file with the name that a linker searches
    settings = {"CUDA_ROOT": str(root), "CUDA_ENABLE_CURAND": False, "CUDADRV_LIB_DIR": [str(folder / "lib")]}
    (unpacked / "siteconf.py").write_text("".join(f"{name} = {value!r}\n" for name, value in settings.items()))
    options = ["--quiet", "--no-index", "--no-deps", "--no-build-isolation", "--upgrade", "--target", str(target)]
    command = [sys.executable, "-m", "pip", "install", *options, str(unpacked)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def _cuda_root() -> Path | None:
    """The folder of CUDA's headers."""
    nvcc = shutil.which("nvcc")
    of_nvcc = [Path(nvcc).resolve().parent.parent] if nvcc else []
    folders = [*of_nvcc, *sorted(Path("/usr/local").glob("cuda*"), reverse=True)]
    return next((folder for folder in folders if (folder / "include" / "cuda.h").exists()), None)


def _loaded_driver() -> str | None:
    """The file of the driver that this process has loaded; None before `find_gpu`, which loads it."""
    lines = Path("/proc/self/maps").read_text(encoding="utf-8").splitlines()
    return next((line.split()[-1] for line in lines if "/libcuda.so" in line), None)


def rebuild_kernels() -> str:
    """Compiles the crop kernels with nvcc, and says whether the result is what is shipped; or that there is no nvcc."""
    if shutil.which("nvcc") is None:
        return "as shipped; no nvcc here to compile them"
    try:
        record, here = read_record(), nvcc_version()
        with TemporaryDirectory() as folder:
            same = bytes_sha256(compiled_bytes(Path(folder))) == record.fatbin
    except (BlastscopeError, OSError, subprocess.CalledProcessError) as error:
        return f"as shipped; nvcc is here and can't compile them: {error}"
    if here != record.nvcc:
        return f"as shipped by nvcc {record.nvcc}; nvcc {here} compiles them too"
    return f"nvcc {here} makes {'the bytes that are shipped' if same else '**other bytes than are shipped**'}"
