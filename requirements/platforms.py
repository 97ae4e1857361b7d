"""Checks that each kind of machine finds wheels of all that base.txt pins, and hashes for them.

    python requirements/platforms.py

Nothing is installed. Needs uv (pip install uv), which asks PyPI.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from itertools import product
from pathlib import Path

BASE = Path(__file__).resolve().parent / "base.txt"
PLATFORMS = ("x86_64-manylinux_2_28", "aarch64-manylinux_2_35", "aarch64-apple-darwin", "x86_64-pc-windows-msvc")
PYTHONS = ("3.11", "3.12", "3.13", "3.14")


def main() -> None:
    """Prints a line for each platform and Python, and exits with 1 where one lacks a wheel."""
    if not (uv := shutil.which("uv")):
        sys.exit("'uv' is not installed: pip install uv")
    lacking = 0
    for platform, python in product(PLATFORMS, PYTHONS):
        with tempfile.TemporaryDirectory() as target:
            command = [
                uv,
                "pip",
                "install",
                "--no-config",
                "--dry-run",
                "--target",
                target,
                "--only-binary",
                ":all:",
                "--no-deps",
            ]
            command += [
                "--require-hashes",
                "--python-platform",
                platform,
                "--python-version",
                python,
                "--requirements",
                str(BASE),
            ]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
        lacking += done.returncode != 0
        told = "all wheels there" if done.returncode == 0 else done.stderr.strip()
        print(f"{platform:<24} Python {python}: {told}", flush=True)
    sys.exit(lacking > 0)


if __name__ == "__main__":
    main()
