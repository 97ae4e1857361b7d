"""Maps each top-level folder `x/` to the package `blastscope.x`; everything else stands in pyproject.toml."""

from pathlib import Path

from setuptools import find_packages, setup

FOLDERS = ("runtime", "train", "calibration", "export", "benchmarks")
HERE = Path(__file__).parent


def packages_of(folder: str) -> list[str]:
    """The folder and its sub-packages under their import names."""
    inner = find_packages(str(HERE / folder))
    return [f"blastscope.{folder}", *(f"blastscope.{folder}.{name}" for name in inner)]


# The links in blastscope/ serve editors; following them here would pack every folder twice.
own = list(find_packages(str(HERE), include=["blastscope", "blastscope.cli", "blastscope.serve"]))

setup(
    packages=own + [name for folder in FOLDERS for name in packages_of(folder)],
    package_dir={"blastscope": "blastscope", **{f"blastscope.{folder}": folder for folder in FOLDERS}},
)
