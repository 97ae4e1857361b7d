"""Builds what the GPU check needs: pycuda from a source package, the crop kernels with nvcc."""

from __future__ import annotations

import importlib
import shutil
import subprocess
import sys
import tarfile
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from tempfile import TemporaryDirectory

from blastscope.runtime.cuda.kernels.compile import compiled_bytes, nvcc_version
from blastscope.runtime.cuda.kernels.fatbin import read_record
from blastscope.runtime.errors import BlastscopeError
from blastscope.runtime.io.hashing import bytes_sha256


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
