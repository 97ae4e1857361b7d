"""Writes the bill of materials of a release, in CycloneDX 1.6: what `pip install blastscope` brings, and the shipped networks.

    python requirements/sbom.py DIST

Packages, licences and who needs whom come from the running Python, which must hold what base.txt pins: `cyclonedx-py
environment` reads them. What base.txt doesn't name is left out, so that an environment with more in it gives the same result.
"""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from blastscope import __version__

HERE = Path(__file__).resolve().parent
SHIPPED = HERE.parent / "blastscope" / "shipped"
MANIFEST = "manifest.json"
ATTRIBUTION = (
    "Trained on cells of C-NMC 2019 (A. Gupta and R. Gupta, doi:10.7937/tcia.2019.dc64i46r, CC BY 3.0), on the first stages of "
    "timm's tf_efficientnet_lite0 with ImageNet's weights (Apache-2.0)."
)


def main(dist: Path) -> None:
    """Writes `blastscope-VERSION.cdx.json` into `dist`, and prints its path."""
    bill = shipped_only(environment(), base_pins())
    describe_release(bill)
    text = json.dumps(bill, indent=2, sort_keys=True) + "\n"
    if error := JsonStrictValidator(SchemaVersion.V1_6).validate_str(text):
        sys.exit(f"the bill of materials is not CycloneDX 1.6: {error}")
    dist.mkdir(parents=True, exist_ok=True)
    path = dist / f"blastscope-{__version__}.cdx.json"
    path.write_text(text, encoding="utf-8")
    print(path)


def environment() -> dict[str, Any]:
    """The bill of everything that is installed, with blastscope at its root."""
    with tempfile.TemporaryDirectory() as place:
        out = Path(place) / "all.json"
        command = [
            sys.executable,
            "-m",
            "cyclonedx_py",
            "environment",
            "--spec-version",
            "1.6",
            "--output-reproducible",
            "--no-validate",
        ]
        command += [
            "--mc-type",
            "library",
            "--pyproject",
            str(HERE.parent / "pyproject.toml"),
            "--output-file",
            str(out),
            sys.executable,
        ]
        subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
        found: dict[str, Any] = json.loads(out.read_text(encoding="utf-8"))
    return found


def base_pins() -> dict[str, set[str]]:
    """The versions that base.txt has of each package; some have one for each range of Pythons."""
    pins: dict[str, set[str]] = {}
    for name, version in re.findall(r"^([\w.-]+)==([^\s;]+)", (HERE / "base.txt").read_text(encoding="utf-8"), re.MULTILINE):
        pins.setdefault(normal(name), set()).add(version)
    return pins


def shipped_only(bill: dict[str, Any], pins: dict[str, set[str]]) -> dict[str, Any]:
    """The bill without packages that aren't pinned; one that is there in another version ends the program."""
    kept = [one for one in bill["components"] if normal(one["name"]) in pins]
    wrong = [f"{one['name']} {one['version']}" for one in kept if one["version"].split("+")[0] not in pins[normal(one["name"])]]
    if wrong:
        sys.exit(f"not the versions of base.txt: {', '.join(wrong)}")
    known = {one["bom-ref"] for one in kept} | {bill["metadata"]["component"]["bom-ref"]}
    edges = [
        {"ref": edge["ref"], "dependsOn": [one for one in edge.get("dependsOn", ()) if one in known]}
        for edge in bill["dependencies"]
        if edge["ref"] in known
    ]
    return {**bill, "components": kept, "dependencies": edges}


def describe_release(bill: dict[str, Any]) -> None:
    """Adds blastscope's own version and licence, and the shipped bundle, whose digest covers each of its files."""
    own = bill["metadata"]["component"]
    own |= {"version": __version__, "purl": f"pkg:pypi/blastscope@{__version__}"}
    own["licenses"] = [{"license": {"id": "Apache-2.0"}}]
    data = (SHIPPED / MANIFEST).read_bytes()
    manifest = json.loads(data)
    bill["components"].append(
        {
            "type": "machine-learning-model",
            "bom-ref": "shipped-bundle",
            "name": manifest["name"],
            "version": manifest["created"],
            "description": ATTRIBUTION,
            "hashes": [{"alg": "SHA-256", "content": hashlib.sha256(data).hexdigest()}],
            "licenses": [{"license": {"id": "Apache-2.0"}}],
        }
    )


def normal(name: str) -> str:
    """A package's name as PyPI compares it."""
    return re.sub(r"[-_.]+", "-", name).lower()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
