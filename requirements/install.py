"""Makes a virtual environment with the pinned packages of a set, each checked against its hash.

    python requirements/install.py demo     what `make demo` needs
    python requirements/install.py test     all that the suite and the linters need

The files beside this one, written by lock.py, pin every package by version and by the hashes that PyPI gives. PyTorch is the
one exception: pip's own settings may name an index or a folder with a build of it for the CPU alone, whose hashes PyPI doesn't
know. So pip is asked first which files it would take. Those of PyPI are installed by their hashes, with the CUDA libraries that
they need; other builds by their version, and their files and digests are told.

Needs Python's standard library alone. Packages but PyTorch are installed by uv where there is one, which is faster; pip's
settings of indexes and folders are passed on to it. Whatever it can't do, pip does. Python compiles a module when it first
imports it, and so not all of them here.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import venv
from collections.abc import Sequence
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
SETS = {"demo": HERE / "demo.txt", "test": ROOT / "requirements.txt"}
TORCH = HERE / "torch.txt"
OLDEST, NEWEST = (3, 11), (3, 14)
PIP_SETTINGS = {"index-url": "--index-url", "extra-index-url": "--extra-index-url", "find-links": "--find-links"}
SAID = {
    "demo": "PyTorch, OpenVINO, ONNX Runtime and what they need",
    "test": "the linters, pytest, napari with Qt, TensorRT-RTX and what they need",
}


def main() -> None:
    """What the command line runs."""
    parser = argparse.ArgumentParser(description="Installs a set of pinned packages, and blastscope.")
    parser.add_argument("set", choices=SETS)
    parser.add_argument("--venv", type=Path, default=ROOT / ".venv", help="default: .venv beside README.md")
    asked = parser.parse_args()
    if not OLDEST <= sys.version_info[:2] <= NEWEST:
        found = "{}.{}".format(*sys.version_info)
        sys.exit(f"blastscope needs Python 3.11 to 3.14, not {found}: make PYTHON=python3.12 ...")
    print(
        f"Installing into {asked.venv}, once: {SAID[asked.set]}.\n"
        f"Where pip finds no PyTorch for the CPU alone (PIP_EXTRA_INDEX_URL may name an index) it brings CUDA, several GB.",
        flush=True,
    )
    if not (asked.venv / "pyvenv.cfg").exists():
        venv.create(asked.venv, with_pip=True, symlinks=os.name != "nt")
    python = asked.venv / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    install_hashed(python, SETS[asked.set])
    install_torch(python)
    run_pip(python, "install", "--no-deps", "--no-build-isolation", "--editable", str(ROOT))


def install_hashed(python: Path, pins: Path) -> None:
    """Installs what a file of pins lists, and no more: it is complete. A file whose hash isn't listed there is refused."""
    if uv := shutil.which("uv"):
        command = [uv, "pip", "install", "--quiet", "--python", str(python), "--no-deps", "--require-hashes"]
        command += ["--requirements", str(pins), "--index-strategy", "unsafe-best-match", *uv_settings(python)]
        done = subprocess.run(command, check=False)
        if done.returncode == 0:
            return
        print("uv couldn't install them: pip does", file=sys.stderr, flush=True)
    run_pip(python, "install", "--no-deps", "--no-compile", "--require-hashes", "--requirement", str(pins))


def uv_settings(python: Path) -> list[str]:
    """Pip's settings of indexes and folders, as uv takes them: it reads neither pip.conf nor PIP_ variables."""
    lines = run_pip(python, "config", "list", read=True).splitlines()
    options: list[str] = []
    for scope in ("global", "install", ":env:"):  # pip's order: the later ones hold
        for line in lines:
            name, _, value = line.partition("=")
            key = name.removeprefix(f"{scope}.")
            if name.startswith(f"{scope}.") and key in PIP_SETTINGS:
                for one in value.strip("'\"").replace("\\n", " ").split():
                    options += [PIP_SETTINGS[key], one]
            elif name == f"{scope}.no-index":
                options.append("--no-index")
    return options


def install_torch(python: Path) -> None:
    """Installs PyTorch and torchvision: PyPI's by their hashes, another build by its version alone."""
    pins = torch_pins()
    report = json.loads(
        run_pip(python, "install", "--dry-run", "--ignore-installed", "--no-deps", "--report", "-", *pins, read=True)
    )
    known = set(re.findall(r"--hash=sha256:([0-9a-f]{64})", TORCH.read_text(encoding="utf-8")))
    chosen = [(item["download_info"]["url"], file_digest(item["download_info"])) for item in report["install"]]
    if all(digest in known for _, digest in chosen):
        install_hashed(python, TORCH)
        return
    for url, digest in chosen:
        print(f"not PyPI's file, taken by pip's settings: {url} (sha256 {digest})" if digest not in known else url, flush=True)
    run_pip(python, "install", "--no-deps", "--no-compile", *pins)


def torch_pins() -> list[str]:
    """`torch==...` and `torchvision==...` with their markers, as torch.txt has them."""
    lines = re.findall(r"^(torch(?:vision)?==.*?)\s*\\?$", TORCH.read_text(encoding="utf-8"), re.MULTILINE)
    return [line.strip() for line in lines]


def file_digest(download: dict[str, dict[str, dict[str, str]]]) -> str:
    """The SHA-256 of a file that pip reports, empty where it tells none."""
    return download.get("archive_info", {}).get("hashes", {}).get("sha256", "")


def run_pip(python: Path, *words: str, read: bool = False) -> str:
    """Runs pip of the virtual environment; its errors go to stderr and end this program."""
    command: Sequence[str] = [str(python), "-m", "pip", "--disable-pip-version-check", "--quiet", *words]
    done = subprocess.run(command, stdout=subprocess.PIPE if read else None, text=True, encoding="utf-8", check=False)
    if done.returncode:
        sys.exit(done.returncode)
    return done.stdout or ""


if __name__ == "__main__":
    main()
