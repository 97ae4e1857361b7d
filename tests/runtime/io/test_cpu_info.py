"""Device strings, and how much of the machine may be used."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from blastscope.runtime.errors import UsageError
from blastscope.runtime.inference.options import Device, parse_device
from blastscope.runtime.io import cpu_info as device
from blastscope.runtime.io.cpu_info import usable_threads


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("auto", Device("auto", "0")),
        ("cpu", Device("cpu", "CPU")),
        ("cuda", Device("cuda", "0")),
        ("cuda:3", Device("cuda", "3")),
        ("openvino:GPU.1", Device("openvino", "GPU.1")),
        ("openvino:npu", Device("openvino", "NPU")),
    ],
)
def test_a_device_string_names_one_device(text: str, wanted: Device) -> None:
    assert parse_device(text) == wanted


@pytest.mark.parametrize(
    "text", ["", "gpu", "CUDA", "cuda:", "cuda:x", "cuda:0:1", "openvino", "openvino:", "openvino:a b", "cpu\n"]
)
def test_any_other_device_string_is_refused_with_the_known_ones(text: str) -> None:
    with pytest.raises(UsageError, match="auto, cpu, cuda, cuda:N or openvino:NAME"):
        parse_device(text)


def test_no_more_threads_are_used_than_the_affinity_allows() -> None:
    assert 1 <= usable_threads() <= len(os.sched_getaffinity(0))


def test_a_core_with_two_hardware_threads_counts_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "allowed_cpus", lambda: [0, 1, 2, 3])
    monkeypatch.setattr(device, "_siblings", lambda cpu: str(cpu % 2))
    monkeypatch.setattr(device, "_cgroup_quota", lambda: None)
    assert usable_threads() == 2


@pytest.mark.parametrize(("quota", "wanted"), [(0.2, 1), (1.0, 1), (2.5, 3), (64.0, 4)])
def test_a_quota_limits_the_threads_and_leaves_one(monkeypatch: pytest.MonkeyPatch, quota: float, wanted: int) -> None:
    monkeypatch.setattr(device, "allowed_cpus", lambda: [0, 1, 2, 3])
    monkeypatch.setattr(device, "_siblings", str)
    monkeypatch.setattr(device, "_cgroup_quota", lambda: quota)
    assert usable_threads() == wanted


def group(folder: Path, lines: str, files: dict[str, str]) -> float | None:
    folder.mkdir(exist_ok=True)
    (folder / "self").write_text(lines)
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return device._cgroup_quota(folder, folder / "self")


def test_the_tightest_quota_on_the_way_up_counts(tmp_path: Path) -> None:
    files = {"a/b/cpu.max": "max 100000\n", "a/cpu.max": "150000 100000\n", "cpu.max": "300000 100000\n"}
    assert group(tmp_path, "0::/a/b\n", files) == 1.5


def test_the_older_control_groups_are_read_too(tmp_path: Path) -> None:
    files = {"cpu/a/cpu.cfs_quota_us": "250000", "cpu/a/cpu.cfs_period_us": "100000"}
    assert group(tmp_path, "3:cpu,cpuacct:/a\n", files) == 2.5
    assert group(tmp_path, "3:cpu:/a\n", {"cpu/a/cpu.cfs_quota_us": "-1"}) is None


def test_control_groups_are_found_where_they_are_mounted(tmp_path: Path) -> None:
    files = {"cpu,cpuacct/a/cpu.cfs_quota_us": "50000", "cpu,cpuacct/a/cpu.cfs_period_us": "100000"}
    assert group(tmp_path, "3:cpu,cpuacct:/a\n0::/\n", files) == 0.5
    assert group(tmp_path / "both", "3:cpuacct:/\n0::/b\n", {"unified/b/cpu.max": "120000 100000"}) == 1.2


def test_in_a_container_the_path_may_be_invisible_and_the_root_its_own(tmp_path: Path) -> None:
    assert group(tmp_path, "0::/system.slice/docker-4f2a.scope\n", {"cpu.max": "175000 50000\n"}) == 3.5
    files = {"cpu/cpu.cfs_quota_us": "150000", "cpu/cpu.cfs_period_us": "100000"}
    assert group(tmp_path / "older", "4:cpu,cpuacct:/docker/4f2a\n", files) == 1.5


@pytest.mark.parametrize("text", ["", "nonsense", "0::/\n", "a\n\n:::\n"])
def test_without_a_readable_control_group_there_is_no_quota(tmp_path: Path, text: str) -> None:
    assert group(tmp_path, text, {}) is None


def test_instruction_sets_are_read_as_linux_tells_them(monkeypatch: pytest.MonkeyPatch) -> None:
    for told, wanted in (
        ("x86_64\nflags\t\t: fpu avx2 avx512_vnni", {"fpu", "avx2", "avx512_vnni"}),
        ("aarch64\nFeatures\t: fp asimd asimddp", {"fp", "asimd", "asimddp"}),
    ):
        monkeypatch.setattr(device, "cpu_identity", lambda told=told: told)
        assert device.cpu_features() == wanted


def test_where_the_system_tells_no_instruction_sets_opencv_does(monkeypatch: pytest.MonkeyPatch) -> None:
    told = device.cpu_features()
    monkeypatch.setattr(device, "cpu_identity", lambda: "AMD64 a processor")
    assert device.cpu_features() == {name for name in device._OPENCV if name in told}
