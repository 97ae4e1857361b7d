"""Programs in C and C++ on libblastscope: those of its page, and one that does everything from 32 threads."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from native_library import SOURCES

from blastscope import SHIPPED_BUNDLE
from blastscope.benchmarks.libblastscope import NativeLibrary
from blastscope.benchmarks.native import measure_native_start, native_classifier
from blastscope.runtime.errors import EngineError
from blastscope.runtime.io.synthetic import synthetic_cell

PAGE = (SOURCES / "README.md").read_text(encoding="utf-8")
FLAGS = ("-Wall", "-Wextra", "-Werror", f"-I{SOURCES / 'include'}")
COMPILERS = {"c": ("gcc", "-std=c99", "-pedantic"), "cpp": ("g++", "-std=c++17")}


def compiled(native: NativeLibrary, source: Path, place: Path, language: str) -> Path:
    program = place / source.stem
    folder = native.path.parent
    link = (f"-L{folder}", "-lblastscope", f"-Wl,-rpath,{folder}", "-Wl,--allow-shlib-undefined", "-pthread")
    subprocess.run([*COMPILERS[language], *FLAGS, str(source), "-o", str(program), *link], check=True)
    return program


def run(*command: str | Path) -> str:
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("language", ["c", "cpp"])
def test_the_programs_of_the_page_run(native: NativeLibrary, tmp_path: Path, language: str) -> None:
    (block,) = re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)
    source = tmp_path / f"page.{language}"
    source.write_text(block, encoding="utf-8")
    said = run(compiled(native, source, tmp_path, language), SHIPPED_BUNDLE)
    assert re.search("refused as|ALL by|score", said)


def test_the_example_says_what_python_says(native: NativeLibrary, tiny_bundle: Any, tmp_path: Path) -> None:
    from blastscope import open_bundle

    bundle, image = tiny_bundle.make(), synthetic_cell(5)
    height, width, _ = image.shape
    (tmp_path / "cell.ppm").write_bytes(f"P6\n{width} {height}\n255\n".encode() + np.ascontiguousarray(image).tobytes())
    said = run(compiled(native, SOURCES / "examples" / "classify.c", tmp_path, "c"), bundle, tmp_path / "cell.ppm")
    with open_bundle(bundle, device="cpu", backend="openvino") as scope:
        prediction = scope.classify(image)
    assert said == f"{prediction.label} {prediction.probability:.4f}\n"


def test_the_benchmarks_start_gives_time_label_and_memory(native: NativeLibrary, tiny_bundle: Any, tmp_path: Path) -> None:
    bundle, image = tiny_bundle.make(), synthetic_cell(5)
    seconds, first = measure_native_start(native.path, bundle, image, ("fp32", "f32", "fused"), tmp_path / "cache")
    with native.opened(bundle, cache_dir=tmp_path / "cache") as scope:
        assert native_classifier(scope)([image]) == [first.label]
    assert first.label in ("hem", "all")
    assert 0 < seconds < 600
    assert first.peak_mib is not None
    assert 10 < first.peak_mib < 1000
    with pytest.raises(EngineError, match="no such folder"):
        measure_native_start(native.path, tmp_path / "none", image, ("fp32", "f32", "fused"))


def test_every_function_holds_from_32_threads_and_while_closing(
    native: NativeLibrary, tiny_bundle: Any, tmp_path: Path
) -> None:
    program = compiled(native, Path(__file__).with_name("stress.cpp"), tmp_path, "cpp")
    assert run(program, tiny_bundle.make(), tmp_path / "cache").endswith("ok\n")


def test_the_library_exports_the_functions_of_the_header_alone(native: NativeLibrary) -> None:
    header = (SOURCES / "include" / "blastscope.h").read_text(encoding="utf-8")
    declared = set(re.findall(r"\b(blastscope_\w+)\(", header.split("/* The library's version")[1])) - {"blastscope_options"}
    listed = run("nm", "-D", "--defined-only", native.path)
    exported = {line.split()[-1].split("@")[0] for line in listed.splitlines() if " T " in line}
    assert exported - {"_init", "_fini"} == declared
    assert len(declared) == 14
