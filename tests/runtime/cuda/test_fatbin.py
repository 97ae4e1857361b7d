"""The compiled crop kernels: for every GPU that is known, from the sources that stand beside them, and loaded only then."""

from __future__ import annotations

import re
import shutil
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from blastscope.runtime.crop import CropSpecification
from blastscope.runtime.cuda.kernels.crop_launch_plan import CropPlan
from blastscope.runtime.cuda.kernels.fatbin import (
    FATBIN,
    FOLDER,
    MACHINES,
    PTX,
    RECORD,
    TARGETS,
    compiled_bytes,
    crop_fatbin,
    nvcc_version,
    read_record,
    sources,
)
from blastscope.runtime.errors import DeviceError, KernelError
from blastscope.runtime.io.hashing import file_sha256

REGISTERS = 65536  # of a multiprocessor, on every one of the targets


def entries(fatbin: bytes) -> Iterator[tuple[str, int]]:
    """Kind and architecture of each entry, as the container's headers have them."""
    magic, _, header, size = struct.unpack_from("<IHHQ", fatbin)
    assert magic == 0xBA55ED50
    assert header + size == len(fatbin)
    at = header
    while at < len(fatbin):
        kind, _, own_header, length = struct.unpack_from("<HHIQ", fatbin, at)
        yield {1: "ptx", 2: "elf"}[kind], struct.unpack_from("<I", fatbin, at + 28)[0]
        at += own_header + length


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    for path in [*sources(), FOLDER / FATBIN, FOLDER / RECORD]:
        shutil.copy(path, tmp_path)
    return tmp_path


def test_the_fatbin_holds_every_target() -> None:
    found = list(entries(crop_fatbin()))
    assert sorted(number for kind, number in found if kind == "elf") == sorted(MACHINES) == [75, 80, 86, 87, 89, 90, 100, 120]
    assert [number for kind, number in found if kind == "ptx"] == [PTX]
    assert read_record().targets == TARGETS


def test_the_fatbin_is_that_of_the_sources_beside_it() -> None:
    compiled = read_record()
    assert compiled.sources == {path.name: file_sha256(path) for path in sources()}, "run 'make kernels'"
    assert compiled.fatbin == file_sha256(FOLDER / FATBIN)
    assert {path.name for path in FOLDER.glob("*.cu*")} == set(compiled.sources)
    included = {name for path in sources() for name in re.findall(r'#include "(.+)"', path.read_text(encoding="utf-8"))}
    assert included <= set(compiled.sources)


def test_the_sources_compile_anew_to_the_same_bytes(tmp_path: Path) -> None:
    if shutil.which("nvcc") is None:
        pytest.skip("nvcc is not installed")
    if nvcc_version() != read_record().nvcc:
        pytest.skip(f"nvcc {nvcc_version()} is here, the kernels were compiled by {read_record().nvcc}")
    assert compiled_bytes(tmp_path) == crop_fatbin()


def test_the_kernels_fit_the_machines(tmp_path: Path) -> None:
    if shutil.which("nvcc") is None:
        pytest.skip("nvcc is not installed")
    command = ["nvcc", "-std=c++17", "-cubin", "-arch=sm_75", "--resource-usage", "-o", str(tmp_path / "cubin"), "crop.cu"]
    told = subprocess.run(command, cwd=FOLDER, capture_output=True, text=True, check=True)
    text = told.stdout + told.stderr
    used = {
        name: int(registers)
        for name, registers in re.findall(r"entry function '(\w+)'.*?Used (\d+) registers", text, re.DOTALL)
    }
    launches = CropPlan.make(CropSpecification(), 1, 450).launches(0, 0, 0, 0)
    assert set(used) == {launch.kernel for launch in launches}
    assert max(used.values()) * launches[0].block[0] * 4 <= REGISTERS  # four blocks at a time at least
    assert {int(spilled) for spilled in re.findall(r"(\d+) bytes spill", text)} == {0}


def test_cuobjdump_lists_what_we_read_from_the_headers() -> None:
    tool = shutil.which("cuobjdump")
    if tool is None:
        pytest.skip("cuobjdump is not installed")
    told = subprocess.run([tool, "--list-elf", "--list-ptx", str(FOLDER / FATBIN)], capture_output=True, text=True, check=True)
    listed = set(re.findall(r"sm_(\d+)\.(cubin|ptx)", told.stdout))
    assert listed == {(str(number), {"elf": "cubin", "ptx": "ptx"}[kind]) for kind, number in entries(crop_fatbin())}


def test_the_source_needs_no_header_that_nvrtc_lacks() -> None:
    text = "".join(path.read_text(encoding="utf-8") for path in sources())
    assert re.findall(r"#include <", text) == []


@pytest.mark.parametrize("name", [FATBIN, RECORD, *(path.name for path in sources())])
def test_a_file_that_is_missing_is_named_with_the_remedy(copy: Path, name: str) -> None:
    (copy / name).unlink()
    with pytest.raises(KernelError, match=f"{re.escape(name)}': it can't be read .*: install blastscope again") as caught:
        crop_fatbin(copy)
    assert caught.value.path == copy / name
    assert isinstance(caught.value, DeviceError)


@pytest.mark.parametrize("name", [FATBIN, *(path.name for path in sources())])
def test_a_file_that_was_changed_is_named_with_the_remedy(copy: Path, name: str) -> None:
    content = bytearray((copy / name).read_bytes())
    content[len(content) // 2] ^= 1
    (copy / name).write_bytes(content)
    with pytest.raises(KernelError, match=f"{re.escape(name)}': it.*make kernels") as caught:
        crop_fatbin(copy)
    assert caught.value.path == copy / name


@pytest.mark.parametrize("content", ["", "{}", '{"fatbin": 3}', "[]", '{"sources": {}}'])
def test_a_record_that_is_none_is_named(copy: Path, content: str) -> None:
    (copy / RECORD).write_text(content)
    with pytest.raises(KernelError, match="not the record of a compilation"):
        crop_fatbin(copy)


def test_an_untouched_copy_loads(copy: Path) -> None:
    assert crop_fatbin(copy) == crop_fatbin()
