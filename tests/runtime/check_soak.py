"""Run by `make soak`: 10,000 frames through streams and 100,000 cells through a handle, with memory, threads and files flat.

Real frames, made small, and the engine that a handle takes by itself, on a tiny network: what is looked at is everything
around it. SOAK_SHARE=0.1 takes a tenth of it.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from blastscope.runtime.errors import DeviceLost
from blastscope.runtime.frames.types import FrameReport
from blastscope.runtime.io.cpu_info import usable_threads
from blastscope.runtime.io.image import read_image
from blastscope.runtime.session import Scope, open_bundle
from blastscope.runtime.streaming.frame_queue import Frame, StreamFailure
from blastscope.runtime.types import Refusal

SHARE = float(os.environ.get("SOAK_SHARE", "1"))
FRAMES, CELLS = round(10_000 * SHARE), round(100_000 * SHARE)
SIZE = (240, 180)
PIXEL_UM = 0.21  # of the frames at this size
SAMPLES = 60
WARM = 0.15  # of a run, in which caches and pools fill
ALLOWED_MIB = 12.0
PATIENCE_S = 300.0


@dataclass(frozen=True)
class Sample:
    """The process at one moment."""

    done: int
    rss_mib: float
    threads: int
    files: int


def sample(done: int) -> Sample:
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return Sample(done, int(status["VmRSS"].split()[0]) / 1024, int(status["Threads"]), len(os.listdir("/proc/self/fd")))  # noqa: PTH208


class Diary:
    """Samples while things are done, and the figures that come of them."""

    def __init__(self, name: str, total: int) -> None:
        self.name, self.total, self.samples = name, total, list[Sample]()
        self.started = time.monotonic()

    def note(self, done: int) -> None:
        if done % max(1, self.total // SAMPLES) == 0:
            self.samples.append(sample(done))

    def flat(self) -> None:
        """Prints the figures, and asserts that nothing grew after the beginning."""
        late = [one for one in self.samples if one.done > WARM * self.total]
        third = max(1, len(late) // 3)
        first, last = (float(np.median([one.rss_mib for one in part])) for part in (late[:third], late[-third:]))
        seconds = time.monotonic() - self.started
        threads, files = (sorted({getattr(one, name) for one in late}) for name in ("threads", "files"))
        least = [min(one.threads for one in part) for part in (late[:third], late[-third:])]
        start, most = self.samples[0].rss_mib, max(one.rss_mib for one in late)
        print(
            f"\n{self.name}: {self.total} in {seconds:.0f} s; RSS {start:.0f} MiB at first, then {first:.1f} to {last:.1f}, "
            f"at most {most:.1f}; threads {threads}, files {files}"
        )
        assert last - first < ALLOWED_MIB
        assert most - first < 3 * ALLOWED_MIB
        assert least[1] <= least[0]
        assert threads[-1] - threads[0] <= usable_threads()  # those that look at the places of one frame come and go
        assert files[-1] - files[0] <= 1


@pytest.fixture
def scope(tiny_bundle: Any, tmp_path: Path) -> Iterator[Scope]:
    with open_bundle(tiny_bundle.make(), device="cpu", precision="fp32", cache_dir=tmp_path / "cache") as opened:
        yield opened


@pytest.fixture(scope="module")
def frames(shared_data: Path) -> list[NDArray[np.uint8]]:
    names = (shared_data / "bccd" / "train.txt").read_text().split()[:40]
    read = [read_image(shared_data / "bccd" / "JPEGImages" / f"{name}.jpg") for name in names]
    return [cv2.resize(one, SIZE, interpolation=cv2.INTER_AREA) for one in read if not isinstance(one, Refusal)]  # type: ignore[misc]


class Trouble:
    """What goes wrong on purpose, by the number of the frame."""

    def __init__(self, scope: Scope) -> None:
        self._examine = scope.examine
        self.injected = dict.fromkeys(("source", "examine", "lost", "on_report", "refusal"), 0)

    def __call__(self, kind: str) -> None:
        self.injected[kind] += 1

    def examine(self, frame: NDArray[np.uint8], **words: Any) -> FrameReport:
        """In place of the handle's own."""
        number = words["metadata"]["number"]
        if number % 211 == 7:
            self("lost")
            raise DeviceLost("inference", 700)
        if number % 97 == 5:
            self("examine")
            raise RuntimeError(f"frame {number}")
        return self._examine(frame, **words)


class Source:
    """Frames, some of which are none, from a camera that fails now and then."""

    def __init__(self, frames: list[NDArray[np.uint8]], trouble: Trouble) -> None:
        self.frames, self.trouble = frames, trouble
        self.number = -1
        self.failed = False
        self.buffer = np.empty_like(frames[0])  # as a camera has one

    def __iter__(self) -> Source:
        return self

    def __next__(self) -> Frame:
        if self.number % 113 == 11 and not self.failed:
            self.failed = True
            self.trouble("source")
            raise OSError(f"after frame {self.number}")
        self.failed = False
        self.number += 1
        if self.number >= FRAMES:
            raise StopIteration
        self.buffer[:] = self.frames[self.number % len(self.frames)]
        pixels: Any = self.buffer
        if self.number % 89 == 3:
            self.trouble("refusal")
            pixels = np.zeros((self.number % 7, 5), np.uint16)
        return Frame(pixels, metadata={"number": self.number})


def test_ten_thousand_frames_leave_memory_and_threads_as_they_were(
    scope: Scope, frames: list[NDArray[np.uint8]], monkeypatch: pytest.MonkeyPatch
) -> None:
    diary, trouble, failures = Diary("frames, none dropped", FRAMES), Trouble(scope), list[str]()
    monkeypatch.setattr(scope, "examine", trouble.examine)
    told = {"frames": 0, "cells": 0, "refused": 0}

    def consume(report: FrameReport) -> None:
        assert report.id == told["frames"]  # in order, none missing
        told["frames"] += 1
        told["cells"] += report.counts["cells"]
        told["refused"] += report.refusal is not None
        diary.note(told["frames"])
        if told["frames"] % 131 == 0:
            trouble("on_report")
            raise ValueError("the disk is full")

    def hear(failure: StreamFailure) -> None:
        failures.append(failure.where)

    with scope.stream(Source(frames, trouble), consume, 4, "block", on_error=hear, pixel_um=PIXEL_UM) as stream:
        while not stream.wait(PATIENCE_S):
            assert stream.stats.waiting <= 9
    stats = stream.stats
    print(f"\n{stats}\ninjected: {trouble.injected}, cells: {told['cells']}")
    assert (stats.state, stats.taken, stats.reported, stats.dropped) == ("ended", FRAMES, FRAMES, 0)
    injected = trouble.injected
    assert stats.refused == told["refused"] == injected["refusal"] + injected["examine"] + injected["lost"]
    assert stats.failed == len(failures) == sum(injected.values()) - injected["refusal"]
    assert told["cells"] > FRAMES / 4
    diary.flat()


def test_a_consumer_that_is_slow_and_stops_costs_frames_and_no_memory(scope: Scope, frames: list[NDArray[np.uint8]]) -> None:
    total = FRAMES // 4
    diary, gate = Diary("frames, pushed at a slow and a stopped consumer", total), threading.Event()
    gate.set()
    pace_s = 0.0
    last = -1

    def consume(report: FrameReport) -> None:
        nonlocal last
        assert isinstance(report.id, int)
        assert report.id > last
        last = report.id
        time.sleep(pace_s)
        assert gate.wait(PATIENCE_S)

    longest = 0.0
    with scope.stream(None, consume, 4, pixel_um=PIXEL_UM) as stream:
        for number in range(total):
            phase = 5 * number // total
            pace_s = 0.05 if phase in (1, 3) else 0.0  # slow, and slow again
            if phase == 2:
                gate.clear()  # stopped
            else:
                gate.set()
            began = time.perf_counter()
            stream.put(frames[number % len(frames)])
            longest = max(longest, time.perf_counter() - began)
            diary.note(number)
            assert stream.stats.waiting <= 9
            time.sleep(0.01)
    stats = stream.stats
    print(f"\n{stats}\nlongest put: {1e3 * longest:.1f} ms")
    assert stats.taken == total == stats.reported + stats.dropped
    assert stats.dropped > total / 5 - 10  # while it was stopped
    assert stats.reported > total / 50
    diary.flat()


@pytest.mark.parametrize("way", ["classify_many", "submit"])
def test_a_hundred_thousand_cells_leave_memory_and_threads_as_they_were(way: str, scope: Scope, tiny_bundle: Any) -> None:
    cells = [tiny_bundle.cell(seed, 80 + seed % 40) for seed in range(64)]
    expected = [prediction.label for prediction in scope.classify_many(cells)]
    diary = Diary(f"cells through {way}", CELLS)
    ways: dict[str, Callable[[], list[str | None]]] = {
        "classify_many": lambda: [prediction.label for prediction in scope.classify_many(cells)],
        "submit": lambda: [future.result().label for future in [scope.submit(cell) for cell in cells]],
    }
    for start in range(0, CELLS, len(cells)):
        assert ways[way]() == expected
        if (start // len(cells)) % max(1, CELLS // len(cells) // SAMPLES) == 0:
            diary.samples.append(sample(start))
    diary.flat()
