"""The folder of `make native-package`, in a Debian without Python, by `make native-bare`."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from native_library import ROOT

from blastscope import open_bundle
from blastscope.runtime.io.cnmc import scan_dataset
from blastscope.runtime.io.image import read_image

PACKAGE = ROOT / "dist" / "libblastscope"


def test_the_package_runs_in_a_debian_without_python(cnmc: Path, tmp_path: Path) -> None:
    missing = [tool for tool in ("debootstrap", "unshare", "chroot", "pkg-config", "cc") if shutil.which(tool) is None]
    if missing or os.geteuid() != 0:
        pytest.skip(f"needs root and {', '.join(missing) or 'nothing more'}: apt-get install debootstrap pkg-config gcc")
    with open_bundle(device="cpu", backend="openvino", cache_dir=tmp_path / "cache") as scope:
        images = (read_image(cell.path) for cell in scan_dataset(cnmc).cells)
        calls = ((image, scope.classify(image)) for image in images)
        image, prediction = next((image, call) for image, call in calls if call.label is not None)
    assert isinstance(image, np.ndarray)
    height, width, _ = image.shape
    cell = tmp_path / "cell.ppm"
    cell.write_bytes(f"P6\n{width} {height}\n255\n".encode() + np.ascontiguousarray(image).tobytes())
    wanted = f"{prediction.label} {prediction.probability:.4f}"
    subprocess.run([Path(__file__).with_name("bare.sh"), PACKAGE, cell, wanted], check=True)
