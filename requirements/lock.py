"""Writes the pins anew: requirements.txt, and base.txt, demo.txt and torch.txt beside this file.

    python requirements/lock.py              keeps each version that still fits
    python requirements/lock.py --upgrade    takes the newest of each

They hold for Linux, macOS and Windows and for Python 3.11 to 3.14. Versions are chosen once, for requirements.txt, and the
other sets take them from there. Needs uv (pip install uv), which asks PyPI.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
ALL = ROOT / "requirements.txt"
EXTRAS = {
    HERE / "base.txt": (),
    HERE / "demo.txt": ("train", "export"),
    ALL: ("train", "export", "signing", "dev"),
}
SAYS = {
    HERE / "base.txt": "What `pip install blastscope` brings",
    HERE / "demo.txt": "What `make demo` installs, apart from PyTorch (torch.txt)",
    HERE / "torch.txt": "PyTorch as PyPI has it, with CUDA on Linux: see install.py",
    ALL: "What `make test` installs, apart from PyTorch (requirements/torch.txt)",
}
OF_TORCH = re.compile(r"(torch|torchvision|triton|nvidia-.*|cuda-.*)==")  # what a build for the CPU alone brings or leaves out
BUILDING = "setuptools>=77\n"  # installs this repository itself, without a build environment of its own


def main() -> None:
    """What the command line runs."""
    parser = argparse.ArgumentParser(description="Writes the files of pinned packages anew.")
    parser.add_argument("--upgrade", action="store_true", help="take the newest version of each package")
    upgrade = parser.parse_args().upgrade
    if not (uv := shutil.which("uv")):
        sys.exit("'uv' is not installed: pip install uv")
    with tempfile.TemporaryDirectory() as place:
        before = Path(place) / "before.txt"
        before.write_text("" if upgrade else pins_only(ALL) + pins_only(HERE / "torch.txt"), encoding="utf-8")
        everything = compiled(uv, ALL, before)
        chosen = Path(place) / "chosen.txt"
        chosen.write_text(everything, encoding="utf-8")
        write(ALL, [block for block in blocks(everything) if not OF_TORCH.match(block)])
        write(HERE / "torch.txt", [block for block in blocks(everything) if OF_TORCH.match(block)])
        for path in (HERE / "base.txt", HERE / "demo.txt"):
            write(path, [block for block in blocks(compiled(uv, path, chosen)) if not OF_TORCH.match(block)])


def pins_only(path: Path) -> str:
    """The pins of a file without their hashes; a line that somebody added by hand may have none."""
    if not path.exists():
        return ""
    lines = re.findall(r"^[A-Za-z0-9][^\s=]*==[^\\\n#]*", path.read_text(encoding="utf-8"), re.MULTILINE)
    return "".join(f"{line.strip()}\n" for line in lines)


def compiled(uv: str, path: Path, preferred: Path) -> str:
    """The pins that belong into a file, in the versions of `preferred` where they fit."""
    with tempfile.TemporaryDirectory() as place:
        out = Path(place) / "out.txt"
        shutil.copyfile(preferred, out)  # uv keeps what stands in the file that it writes
        command = [uv, "pip", "compile", "--quiet", "--universal", "--python-version", "3.11", "--generate-hashes"]
        command += ["--no-config", "--no-annotate", "--no-header", "--constraints", str(HERE / "constraints.txt")]
        command += [word for extra in EXTRAS[path] for word in ("--extra", extra)]
        command += ["--output-file", str(out), str(ROOT / "pyproject.toml"), "-"]
        subprocess.run(command, input=BUILDING if EXTRAS[path] else "", text=True, check=True)
        return out.read_text(encoding="utf-8")


def blocks(text: str) -> list[str]:
    """One text for each pin: its line and those of its hashes."""
    return re.findall(r"^[A-Za-z0-9].*\n(?:    .*\n)+", text, re.MULTILINE)


def write(path: Path, pins: list[str]) -> None:
    """Replaces a file of pins."""
    head = f"# {SAYS[path]}. Linux, macOS and Windows, Python 3.11 to 3.14. Written by `make lock`.\n"
    path.write_text(head + "".join(pins), encoding="utf-8")


if __name__ == "__main__":
    main()
