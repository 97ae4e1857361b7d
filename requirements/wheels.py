"""Wheels of all that base.txt pins: whether every kind of machine finds them, and a folder of them for a closed network.

    python requirements/wheels.py check                     installs nothing; needs uv (pip install uv), which asks PyPI
    python requirements/wheels.py collect DIST WHEELHOUSE   for the Python and the kind of machine that this runs on

DIST holds blastscope's own wheel. The folder's requirements.txt lists every file with its hash, so that the other machine takes
nothing else: pip install --no-index --find-links WHEELHOUSE --require-hashes -r WHEELHOUSE/requirements.txt
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import tempfile
from itertools import product
from pathlib import Path

BASE = Path(__file__).resolve().parent / "base.txt"
PLATFORMS = ("x86_64-manylinux_2_28", "aarch64-manylinux_2_35", "aarch64-apple-darwin", "x86_64-pc-windows-msvc")
PYTHONS = ("3.11", "3.12", "3.13", "3.14")


def check() -> None:
    """Prints a line for each platform and Python, and exits with 1 where one lacks a wheel."""
    if not (uv := shutil.which("uv")):
        sys.exit("'uv' is not installed: pip install uv")
    lacking = 0
    for platform, python in product(PLATFORMS, PYTHONS):
        with tempfile.TemporaryDirectory() as target:
            command = [uv, "pip", "install", "--no-config", "--dry-run", "--target", target, "--only-binary", ":all:"]
            command += ["--no-deps", "--require-hashes", "--python-platform", platform, "--python-version", python]
            done = subprocess.run([*command, "--requirements", str(BASE)], capture_output=True, text=True, check=False)
        lacking += done.returncode != 0
        told = "all wheels there" if done.returncode == 0 else done.stderr.strip()
        print(f"{platform:<24} Python {python}: {told}", flush=True)
    sys.exit(lacking > 0)


def collect(dist: Path, wheelhouse: Path) -> None:
    """Downloads the wheels, adds blastscope's own, and writes requirements.txt with their hashes."""
    (own,) = dist.glob("blastscope-*.whl")
    download = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--only-binary", ":all:"]
    subprocess.run([*download, "--require-hashes", "--dest", str(wheelhouse), "--requirement", str(BASE)], check=True)
    shutil.copy(own, wheelhouse)
    version = own.name.split("-")[1]
    digest = hashlib.sha256(own.read_bytes()).hexdigest()
    pins = BASE.read_text(encoding="utf-8") + f"blastscope=={version} \\\n    --hash=sha256:{digest}\n"
    (wheelhouse / "requirements.txt").write_text(pins, encoding="utf-8")


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["check"]:
            check()
        case ["collect", dist, wheelhouse]:
            collect(Path(dist), Path(wheelhouse))
        case _:
            sys.exit(__doc__)
