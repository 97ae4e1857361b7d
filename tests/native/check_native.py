"""Longer checks of libblastscope, by `make native-check`: sanitizers, valgrind, and memory over 100,000 calls."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from native_library import BUILT, ROOT, SOURCES, NativeLibrary, build, configure

STRESS = Path(__file__).with_name("stress.cpp")
# OpenVINO and TBB aren't built with sanitizers: the thread sanitizer doesn't see how TBB's threads wait for each other
SUPPRESSED = "called_from_lib:libopenvino\ncalled_from_lib:libtbb\nrace:libopenvino\nrace:libtbb\n"


def stress(folder: Path, *flags: str) -> Path:
    """The program that does everything, on the library in `folder`."""
    program = folder / "stress"
    command = ["g++", "-std=c++17", "-g", *flags, f"-I{SOURCES / 'include'}", str(STRESS), "-o", str(program)]
    link = [f"-L{folder}", "-lblastscope", f"-Wl,-rpath,{folder}", "-Wl,--allow-shlib-undefined", "-pthread"]
    subprocess.run([*command, *link], check=True)
    return program


@pytest.mark.parametrize("sanitizers", ["address,undefined", "thread"])
def test_sanitizers_find_nothing(tiny_bundle: Any, tmp_path: Path, sanitizers: str) -> None:
    folder = ROOT / ".cache" / f"native-{sanitizers.partition(',')[0]}"
    configure(folder, f"-DBLASTSCOPE_SANITIZE={sanitizers}", "-DCMAKE_BUILD_TYPE=RelWithDebInfo")
    build(folder, "blastscope")
    program = stress(folder, f"-fsanitize={sanitizers}", "-fno-omit-frame-pointer")
    (tmp_path / "suppressed").write_text(SUPPRESSED, encoding="utf-8")
    environment = {
        **os.environ,
        "ASAN_OPTIONS": "detect_leaks=1",
        "UBSAN_OPTIONS": "print_stacktrace=1:halt_on_error=1",
        "TSAN_OPTIONS": f"suppressions={tmp_path / 'suppressed'}:ignore_noninstrumented_modules=1:halt_on_error=1",
    }
    command = [str(program), str(tiny_bundle.make()), str(tmp_path / "cache")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr[-8000:]
    assert "ERROR" not in done.stderr
    assert "WARNING: ThreadSanitizer" not in done.stderr


def test_valgrind_finds_no_leak_and_no_wrong_access(native: NativeLibrary, tiny_bundle: Any, tmp_path: Path) -> None:
    if shutil.which("valgrind") is None:
        pytest.skip("valgrind is not installed")
    program = stress(BUILT)
    bundle, cache = tiny_bundle.make(), tmp_path / "cache"
    subprocess.run([str(program), str(bundle), str(cache)], check=True)  # compiles, which valgrind makes slow
    told = tmp_path / "valgrind.txt"
    valgrind = ["valgrind", "--leak-check=full", "--errors-for-leak-kinds=definite", f"--log-file={told}"]
    done = subprocess.run([*valgrind, str(program), str(bundle), str(cache), "20"], capture_output=True, text=True, check=False)
    report = told.read_text(encoding="utf-8")
    assert done.returncode == 0, done.stdout + done.stderr + report[-4000:]
    ours = [block for block in report.split("==\n==") if "libblastscope" in block and "libopenvino" not in block]
    assert not ours, ours[0]


def test_memory_stays_flat_over_100_000_calls(native: NativeLibrary, tiny_bundle: Any, tmp_path: Path) -> None:
    said = subprocess.run(
        [str(stress(BUILT)), str(tiny_bundle.make()), str(tmp_path / "cache"), "100000"],
        capture_output=True,
        text=True,
        check=False,
    )
    print(said.stdout)
    assert said.returncode == 0, said.stdout + said.stderr
