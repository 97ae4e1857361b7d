"""What a handle takes of the machine, counted: no thread more than it may have, and no processor time while it waits."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import pytest

# One crop wants a cell larger than OpenCV converts in one piece.
BEGIN = """
import json, os, sys, time
from pathlib import Path
import numpy as np

def tasks():
    return sorted(os.listdir("/proc/self/task"))

def spent():
    return {task: int(open(f"/proc/self/task/{task}/schedstat").read().split()[0]) / 1e9 for task in tasks()}
"""


def told(code: str, *arguments: object, first: str = "") -> Any:
    """What `code` prints, as JSON, in a process of its own, where `first` runs before any library is loaded."""
    if not Path("/proc/self/schedstat").exists():
        pytest.skip("this system doesn't tell what each thread spends")
    done = subprocess.run(
        [sys.executable, "-c", first + BEGIN + code, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_a_crop_wakes_no_thread_of_opencv() -> None:
    if cv2.getNumThreads() < 2:
        pytest.skip("OpenCV has one thread here")
    code = """
import cv2
from blastscope.runtime.crop import CropSpecification, crop_cell
from blastscope.runtime.io.synthetic import synthetic_cell
image = synthetic_cell(1)
before = tasks()
crop_cell(image, CropSpecification())
print(json.dumps([before == tasks(), image.shape[0] * image.shape[1] > 98304]))
"""
    assert told(code) == [True, True]


def test_one_thread_takes_one_core_and_a_waiting_handle_none(tmp_path: Path) -> None:
    code = """
from blastscope import open_bundle
with open_bundle(device="cpu", threads=1, layout="fused", cache_dir=Path(sys.argv[1])) as scope:
    side = scope.bundle.manifest.crop.side_px
    crops = np.zeros((1, side, side, 3), np.uint8)
    scope.infer(crops)
    before = spent()
    for _ in range(20):
        scope.infer(crops)
    after = spent()
    time.sleep(0.3)
    waited = sum(spent().values()) - sum(after.values())
used = sorted(after[task] - before.get(task, 0.0) for task in after)
print(json.dumps([used[-1], sum(used[:-1]), waited]))
"""
    busiest, others, waited = told(code, tmp_path)
    assert others < 0.2 * busiest
    assert waited < 0.03


def test_no_thread_leaves_the_cores_that_the_process_may_use(tmp_path: Path) -> None:
    # as taskset would: NumPy's own threads keep the cores that they were made with
    first = """
import os
cpu = min(os.sched_getaffinity(0))
os.sched_setaffinity(0, {cpu})
"""
    code = """
from blastscope import open_bundle
from blastscope.runtime.io.cpu_info import usable_threads
with open_bundle(device="cpu", workload="throughput", layout="fused", cache_dir=Path(sys.argv[1])) as scope:
    side = scope.bundle.manifest.crop.side_px
    scope.infer(np.zeros((4, side, side, 3), np.uint8))
    lanes = len(scope._run.opened.lanes.engine.lanes)
    allowed = {tuple(os.sched_getaffinity(int(task))) for task in tasks()}
print(json.dumps([usable_threads(), lanes, allowed == {(cpu,)}]))
"""
    assert told(code, tmp_path, first=first) == [1, 1, True]


def test_files_are_read_by_as_many_threads_as_there_are_lanes(tmp_path: Path, tiny_bundle: Any) -> None:
    path = tiny_bundle.make()
    for number in range(40):
        cv2.imwrite(str(tmp_path / f"{number}.png"), tiny_bundle.cell(number))
    code = """
import threading
from blastscope import open_bundle
from blastscope.runtime.session import scope as module
seen, counts = set(), {"read": 0}
real = module.read_image
def read(path):
    seen.add(threading.current_thread().name)
    counts["read"] += 1
    return real(path)
module.read_image = read
with open_bundle(sys.argv[1], workload="throughput", threads=3, layout="fused", cache_dir=Path(sys.argv[2])) as scope:
    calls = list(scope.classify_files(sorted(Path(sys.argv[3]).glob("*.png"))))
print(json.dumps([len(calls), counts["read"], len(seen)]))
"""
    calls, read, threads = told(code, path, tmp_path / "cache", tmp_path)
    assert (calls, read) == (40, 40)
    assert threads <= 3
