"""Longer checks of libblastscope, by `make native-check`: sanitizers, valgrind, and what 100,000 calls leave behind."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from damaged_bundles import write_damaged_bundles
from native_library import BUILT, ROOT, SOURCES, build, configure

from blastscope.benchmarks.libblastscope import NativeLibrary
from blastscope.runtime.bundle import read_bundle, sign_bundle, signature_path
from blastscope.runtime.bundle.trusted_keys import make_key

HERE = Path(__file__).parent
STRESS = HERE / "stress.cpp"
CALLS = 100_000
CLANG = ("clang++", "clang++-19")  # as in fuzz.sh


def stress(folder: Path, *flags: str, compiler: str = "g++") -> Path:
    """The program that does everything, on the library in `folder`."""
    program = folder / "stress"
    command = [compiler, "-std=c++17", "-g", *flags, f"-I{SOURCES / 'include'}", str(STRESS), "-o", str(program)]
    link = [f"-L{folder}", "-lblastscope", f"-Wl,-rpath,{folder}", "-Wl,--allow-shlib-undefined", "-pthread"]
    subprocess.run([*command, *link], check=True)
    return program


def run(*command: str | Path, **environment: str) -> str:
    """What the command wrote to stderr; it must end well."""
    done = subprocess.run(
        list(map(str, command)), capture_output=True, text=True, check=False, env={**os.environ, **environment}
    )
    print(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr[-8000:]
    return done.stderr


@pytest.fixture
def parts(tiny_bundle: Any, tmp_path: Path) -> list[list[str | Path]]:
    """The arguments of each part of the program: threads and closing, what is refused, signatures, a few calls more."""
    bundle, cache, damaged = tiny_bundle.make(), tmp_path / "cache", tmp_path / "damaged"
    write_damaged_bundles(bundle, damaged)
    key, _ = make_key(tmp_path / "right.pem")
    make_key(tmp_path / "wrong.pem")
    sign_bundle(read_bundle(bundle), key, signature_path(bundle))
    return [
        [bundle, cache],
        [bundle, cache, "refusals", damaged],
        [bundle, cache, "signed", tmp_path],
        [bundle, cache, "flat", "20"],
    ]


def sanitized(sanitizers: str) -> Path:
    """The program that does everything, with the sanitizers; for addresses on the library that `make native-fuzz` builds."""
    options = ["-DCMAKE_BUILD_TYPE=RelWithDebInfo"]
    clang = next(filter(None, map(shutil.which, CLANG)), None)
    if clang and sanitizers.startswith("address"):
        folder = ROOT / ".cache" / "native-fuzz"
        options += [f"-DCMAKE_CXX_COMPILER={clang}", f"-DCMAKE_C_COMPILER={clang.replace('++', '')}", "-DBLASTSCOPE_FUZZ=ON"]
        configure(folder, *options, f"-DBLASTSCOPE_SANITIZE={sanitizers},fuzzer-no-link")
    else:
        folder, clang = ROOT / ".cache" / f"native-{sanitizers.partition(',')[0]}", None
        configure(folder, *options, f"-DBLASTSCOPE_SANITIZE={sanitizers}")
    build(folder, "blastscope")
    return stress(folder, f"-fsanitize={sanitizers}", "-fno-omit-frame-pointer", compiler=clang or "g++")


@pytest.mark.parametrize("sanitizers", ["address,undefined", "thread"])
def test_sanitizers_find_nothing(parts: list[list[str | Path]], sanitizers: str) -> None:
    program = sanitized(sanitizers)
    environment = {
        "TBB_ENABLE_SANITIZERS": "1",  # else TBB loads its parts in a way that sanitizers refuse
        "ASAN_OPTIONS": "detect_leaks=1:detect_stack_use_after_return=1:strict_string_checks=1",
        "UBSAN_OPTIONS": "print_stacktrace=1:halt_on_error=1",
        "TSAN_OPTIONS": f"suppressions={HERE / 'threads.supp'}:ignore_noninstrumented_modules=1:second_deadlock_stack=1",
    }
    for arguments in parts:
        told = run(program, *arguments, **environment)
        assert "ERROR" not in told, told
        assert "WARNING: ThreadSanitizer" not in told, told


def test_valgrind_finds_no_leak_and_no_wrong_access(native: NativeLibrary, parts: list[list[str | Path]]) -> None:
    if shutil.which("valgrind") is None:
        pytest.skip("valgrind is not installed: apt-get install valgrind libc6-dbg")
    program = stress(BUILT)
    run(program, *parts[0])  # compiles, which valgrind makes slow
    valgrind = ["valgrind", "--error-exitcode=9", "--leak-check=full", "--errors-for-leak-kinds=definite", "--num-callers=40"]
    for arguments in parts[1:]:
        run(*valgrind, f"--suppressions={HERE / 'valgrind.supp'}", program, *arguments)


def test_memory_threads_and_descriptors_stay_flat(native: NativeLibrary, parts: list[list[str | Path]]) -> None:
    bundle, cache = parts[0]
    run(stress(BUILT), bundle, cache, "flat", str(CALLS))
