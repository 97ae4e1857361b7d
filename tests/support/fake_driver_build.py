"""The paper driver (tests/support/fake_cuda_driver/paper_cuda.c), compiled by whatever C compiler is here."""

from __future__ import annotations

import ctypes
import hashlib
import os
import shutil
import subprocess
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parent / "fake_cuda_driver"
BUILT = FOLDER.parent.parent / ".cache" / "paper"
FLAGS = ("-shared", "-fPIC", "-O1", "-Wall", "-Wextra", "-Werror")


def paper_library(soname: str) -> Path:
    """The library under that name: `libcuda.so.1` for a process of its own, and another for one that must not find it later."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        if os.environ.get("CI"):
            pytest.fail("no C compiler: CI must try the driver's errors")
        pytest.skip("the paper driver can't be compiled: no C compiler")
    sources = [FOLDER / "paper_cuda.c", FOLDER / "unwritten.h"]
    digest = hashlib.sha256(b"".join(source.read_bytes() for source in sources)).hexdigest()[:16]
    built = BUILT / digest / soname
    if not built.exists():
        built.parent.mkdir(parents=True, exist_ok=True)
        fresh = built.with_suffix(f".{os.getpid()}")
        command = [compiler, *FLAGS, f"-Wl,-soname,{soname}", "-o", str(fresh), str(sources[0]), "-ldl"]
        subprocess.run(command, check=True)
        fresh.replace(built)
    return built


def load_paper(path: Path) -> ctypes.CDLL:
    """The library, with the verbs that set it up."""
    library = ctypes.CDLL(str(path))
    library.paper_fail.argtypes = [ctypes.c_char_p, ctypes.c_int]
    return library
