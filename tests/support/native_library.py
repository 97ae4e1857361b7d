"""libblastscope, built by CMake; `blastscope.benchmarks.libblastscope` calls it."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path

from filelock import FileLock

ROOT = Path(__file__).resolve().parents[2]
SOURCES = ROOT / "runtime" / "native"
BUILT = ROOT / ".cache" / "native"
HEADERS = ("nlohmann/json.hpp", "minizip/unzip.h", "openssl/provider.h", "google/protobuf/message_lite.h")
PACKAGES = "cmake g++ nlohmann-json3-dev libminizip-dev libprotobuf-dev protobuf-compiler libssl-dev zlib1g-dev"


class CannotBuild(Exception):
    """What is missing here to build it."""


def openvino_cmake() -> Path:
    """The folder of CMake files in OpenVINO's wheel."""
    found = find_spec("openvino")
    if found is None or found.origin is None:
        raise CannotBuild("openvino is not installed")
    return Path(found.origin).parent / "cmake"


def configure(folder: Path, *options: str) -> None:
    """Prepares a build of runtime/native in `folder`. Raises `CannotBuild` where a tool or a header is missing."""
    missing = [tool for tool in ("cmake", "g++", "protoc") if shutil.which(tool) is None]
    missing += [header for header in HEADERS if not any(Path(place, header).exists() for place in _includes())]
    if missing:
        raise CannotBuild(f"{', '.join(missing)} missing: apt-get install {PACKAGES}")
    command = ["cmake", "-S", str(SOURCES), "-B", str(folder), f"-DOpenVINO_DIR={openvino_cmake()}", *options]
    _run(command)


def build(folder: Path, *targets: str) -> None:
    """Builds `targets`, by default all, in a folder that was configured."""
    wanted = [word for target in targets for word in ("--target", target)]
    _run(["cmake", "--build", str(folder), "--parallel", str(os.cpu_count() or 1), *wanted])


def built_library() -> Path:
    """The library, built where `make native` builds it; what hasn't changed isn't compiled again, and nothing twice at once."""
    BUILT.parent.mkdir(exist_ok=True)
    with FileLock(BUILT.with_suffix(".lock")):
        configure(BUILT)
        build(BUILT, "blastscope")
    return BUILT / "libblastscope.so"


def _run(command: Sequence[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]


def _includes() -> Iterator[str]:
    yield from ("/usr/include", "/usr/local/include")
    yield from os.environ.get("CPLUS_INCLUDE_PATH", "").split(":")
