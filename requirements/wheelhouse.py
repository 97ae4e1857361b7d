"""Fills a folder with blastscope's wheel and those of all that it needs, for a machine without a network.

    python requirements/wheelhouse.py DIST WHEELHOUSE

DIST holds blastscope's own wheel. The folder's requirements.txt lists every file with its hash, so that the other machine takes
nothing else: pip install --no-index --find-links WHEELHOUSE --require-hashes -r WHEELHOUSE/requirements.txt
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from pathlib import Path

BASE = Path(__file__).resolve().parent / "base.txt"


def main(dist: Path, wheelhouse: Path) -> None:
    """Downloads the wheels that base.txt pins, for the Python and the machine that this runs on."""
    (own,) = dist.glob("blastscope-*.whl")
    download = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--only-binary", ":all:"]
    subprocess.run([*download, "--require-hashes", "--dest", str(wheelhouse), "--requirement", str(BASE)], check=True)
    shutil.copy(own, wheelhouse)
    version = own.name.split("-")[1]
    digest = hashlib.sha256(own.read_bytes()).hexdigest()
    pins = BASE.read_text(encoding="utf-8") + f"blastscope=={version} \\\n    --hash=sha256:{digest}\n"
    (wheelhouse / "requirements.txt").write_text(pins, encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
