"""Maps each top-level room `x/` to the package `blastscope.x`; everything else stands in pyproject.toml."""

from pathlib import Path

from setuptools import find_packages, setup

ROOMS = ("runtime", "train", "calibration", "export", "benchmarks")
HERE = Path(__file__).parent


def room_packages(room: str) -> list[str]:
    """The room and its sub-packages under their import names."""
    inner = find_packages(str(HERE / room))
    return [f"blastscope.{room}", *(f"blastscope.{room}.{name}" for name in inner)]


# The links in blastscope/ serve editors; following them here would pack every room twice.
own = list(find_packages(str(HERE), include=["blastscope", "blastscope.cli", "blastscope.serve"]))

setup(
    packages=own + [name for room in ROOMS for name in room_packages(room)],
    package_dir={"blastscope": "blastscope", **{f"blastscope.{room}": room for room in ROOMS}},
)
