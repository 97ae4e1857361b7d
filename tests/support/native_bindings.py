"""The C# and Java classes over libblastscope, compiled, and the programs that the suite asks them with."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple, Never

import cv2
import numpy as np
import pytest
from native_library import ROOT, SOURCES
from numpy.typing import NDArray

CHECKS = ROOT / "tests" / "native"
JNA = Path("/usr/share/java/jna.jar")
IMAGEJ = Path("/usr/share/java/ij.jar")
PACKAGES = "mono-mcs mono-runtime openjdk-17-jdk-headless libjna-java libij-java"
INEXACT = ("probability", "score", "novelty", "probabilities")


class Binding(NamedTuple):
    """A class over the library: how to compile a program that uses it, how to run one, and what it calls `DigestMismatch`."""

    language: str
    folder: Path  # of the built class and of programs
    library: Path

    def run(self, program: str, *arguments: str | Path, status: int = 0) -> str:
        """What a program prints; it must end with `status`, and where that isn't 0 the errors come back."""
        environment = {**os.environ, "LD_LIBRARY_PATH": str(self.library.parent), "XDG_CACHE_HOME": str(self.folder / "cache")}
        if self.language == "csharp":
            command = ["mono", str(self.folder / f"{program}.exe")]
        else:
            classes = f"{self.folder / 'blastscope.jar'}:{self.folder}:{JNA}"
            command = ["java", "-Djava.awt.headless=true", f"-Dblastscope.library={self.library}", "-cp", classes, program]
        return _run([*command, *map(str, arguments)], status, environment)

    def compile(self, source: Path) -> None:
        """Compiles a program."""
        if self.language == "csharp":
            words = ["mcs", "-langversion:latest", "-warnaserror", f"-r:{self.folder / 'Blastscope.dll'}"]
            pictures = SOURCES / "csharp" / "examples" / "PictureFile.cs"
            _run([*words, f"-out:{self.folder / source.stem}.exe", str(source), str(pictures)])
        else:
            words = ["javac", "-Xlint:all", "-Werror", "-encoding", "UTF-8", "-cp", str(self.folder / "blastscope.jar")]
            _run([*words, "-d", str(self.folder), str(source)])

    def exception(self, name: str) -> str:
        """The class that Python's exception `name` has here."""
        return name if self.language == "java" else name.removesuffix("Error") + "Exception"


def built_binding(language: str, folder: Path) -> None:
    """Compiles the class, its example and its checks into a folder; skips without a compiler."""
    if language == "csharp" and not (shutil.which("mcs") and shutil.which("mono")):
        missing("Mono and its compiler mcs are")
    if language == "java" and not (shutil.which("javac") and JNA.exists()):
        missing("a JDK or JNA's jar is")
    binding = Binding(language, folder, library=Path())
    _run([str(SOURCES / language / "build.sh"), str(folder)])
    suffix = {"csharp": "cs", "java": "java"}[language]
    binding.compile(CHECKS / language / f"Checks.{suffix}")
    if language == "java":
        binding.compile(SOURCES / "java" / "examples" / "Classify.java")


def missing(what: str) -> Never:
    """Skips; in CI it fails, which installs all of them."""
    reason = f"{what} missing: apt-get install {PACKAGES}"
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)


def write_picture(path: Path, image: NDArray[np.uint8]) -> Path:
    """An RGB image as a file that OpenCV writes."""
    assert cv2.imwrite(str(path), image[..., ::-1])
    return path


def write_lines(path: Path, lines: Iterable[object]) -> Path:
    """A text file."""
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


def assert_same_row(ours: dict[str, Any], theirs: dict[str, Any]) -> None:
    """Holds a prediction's row to Python's: calls, boxes and refusals are the same, probabilities within 1e-6."""
    assert {key: value for key, value in ours.items() if key not in INEXACT} == {
        key: value for key, value in theirs.items() if key not in INEXACT
    }
    for key in INEXACT:
        one, other = ours[key], theirs[key]
        if isinstance(one, dict) and isinstance(other, dict):
            for voter in ("a", "b", "combined"):
                assert one[voter] == (other[voter] and pytest.approx(other[voter], abs=1e-6))
        else:
            assert one == (other if other is None else pytest.approx(other, abs=1e-6))


def _run(command: list[str], status: int = 0, environment: dict[str, str] | None = None) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, timeout=600)
    assert done.returncode == status, done.stdout[-4000:] + done.stderr[-4000:]
    return done.stdout if status == 0 else done.stderr
