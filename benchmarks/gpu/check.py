"""`make gpu-check`: builds what this machine can, checks that it is right, measures it, and writes the results down.

    python -m blastscope.benchmarks.gpu.check --network inception_resnet_v2 --network shipped

Needs nothing from the network. Exits 0 when all that ran was right, 1 when something was wrong, 4 without a GPU.
"""

from __future__ import annotations

import argparse
import random
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from itertools import cycle, islice
from pathlib import Path

from blastscope.benchmarks.gpu.building import build_pycuda, rebuild_kernels
from blastscope.benchmarks.gpu.crops import NoNetwork, compare_crops, time_crops
from blastscope.benchmarks.gpu.engines import Plan, measure
from blastscope.benchmarks.gpu.rows import Agreement, CropCheck, GpuCheck, GpuRow
from blastscope.benchmarks.networks import prepare
from blastscope.benchmarks.page import write_page
from blastscope.benchmarks.rows import LIBRARIES, this_machine, versions
from blastscope.benchmarks.turns import Image, Pace
from blastscope.cli.places import find_data
from blastscope.runtime.cells import find_cells
from blastscope.runtime.crop import Crop, CropSpec, crop_cell
from blastscope.runtime.drawn import draw_cells
from blastscope.runtime.errors import BlastscopeError
from blastscope.runtime.gpu.driver import FoundGpu, find_gpu, probe
from blastscope.runtime.gpu.pipeline import Pipeline
from blastscope.runtime.gpu.protocol import Gpu
from blastscope.runtime.image import read_image
from blastscope.runtime.prediction import Refusal

HERE = Path(__file__).resolve().parent.parent
SPECS = (CropSpec(), CropSpec(side_px=144, scale="keep", window_px=288))  # the paper's, and that of the shipped bundle
PACKAGES = (*LIBRARIES, "pycuda", "cuda-bindings", "tensorrt", "tensorrt-rtx-cu13", "onnxruntime-gpu", "triton")


def main(words: Sequence[str] | None = None) -> int:
    """Runs the check. Gives the exit code."""
    wish = _arguments().parse_args(words)
    wish.data = find_data(wish.data)
    try:
        find_gpu(wish.gpu)
        built = {"pycuda": build_pycuda(wish.wheelhouse, wish.wheelhouse / "built"), "crop kernels": rebuild_kernels()}
        for name, how in built.items():
            _tell(f"{name}: {how}")
        from blastscope.runtime.gpu.pycuda_gpu import open_gpu

        gpu = open_gpu(wish.gpu)
    except BlastscopeError as error:
        _tell(f"nothing can be measured here: {error}")
        write_page(wish.out / "RESULTS.md", wish.out / "results")
        return error.exit_code
    check = run(gpu, built, wish)
    _keep(check, wish.out)
    return 0 if check.passed else 1


def run(gpu: Gpu, built: dict[str, str], wish: argparse.Namespace) -> GpuCheck:
    """Everything that was wished for, on `gpu`."""
    plan = Plan(tuple(wish.batch or (1, 8, 64)), Pace(rounds=wish.rounds, calls=5, seconds=wish.seconds))
    images = cells_among(some_images(wish.data, 2 * max(*plan.batches, plan.cells)), max(*plan.batches, plan.cells))
    rows: list[GpuRow] = []
    agreements: list[Agreement] = []
    crops = check_all_crops(gpu, wish.data, plan, images, rows)
    notes: list[str] = []
    for name in wish.network or ("inception_resnet_v2", "shipped"):
        try:
            contender = prepare(name, wish.data, _tell)
        except (BlastscopeError, ImportError) as error:
            notes.append(f"{name} could not be prepared: {error}")
            _tell(notes[-1])
            continue
        more, agreed = measure(gpu, contender, images, plan, _tell)
        rows += more
        agreements += agreed
    return GpuCheck(
        date=datetime.now(UTC).date().isoformat(),
        **_told_of(gpu.found),
        machine=this_machine(),
        versions=versions(PACKAGES),
        built=built,
        crops=tuple(crops),
        agreements=tuple(agreements),
        rows=tuple(rows),
        notes=tuple(notes),
    )


def check_all_crops(gpu: Gpu, data: Path | None, plan: Plan, images: Sequence[Image], rows: list[GpuRow]) -> list[CropCheck]:
    """The kernels in both shapes of the specification, on all real cells or drawn ones; adds the crop's own times to `rows`."""
    checks = []
    every = some_images(data, None)
    source = "C-NMC" if data else "drawn"
    for spec in SPECS:
        _tell(f"crops of {len(every)} images, {spec.scale} to {spec.side_px} px")
        pipeline = Pipeline("crop", gpu, NoNetwork(), spec, batches=plan.batches)
        try:
            checks.append(compare_crops(pipeline, every, spec, f"{source}, {spec.scale} to {spec.side_px} px"))
            if spec.scale == "fit":
                for batch in plan.batches:
                    rows += time_crops(gpu, pipeline, images[:batch], spec, plan.pace)
        finally:
            pipeline.close()
    return checks


def some_images(data: Path | None, count: int | None) -> list[Image]:
    """`count` images of real cells below `data`, or of drawn ones; None: all real ones, or 256 drawn ones."""
    if data is None:
        return [cell.image for cell in draw_cells(count or 256, seed=0)]
    cells = list(find_cells(data).cells)
    chosen = cells if count is None else random.Random(0).sample(cells, min(count, len(cells)))
    read = [read_image(cell.path) for cell in chosen]
    return [image for image in read if not isinstance(image, Refusal)]


def cells_among(images: Sequence[Image], count: int) -> list[Image]:
    """`count` of `images` that get a call, not a refusal, so that all sides have the same to do; few are taken repeatedly."""
    found = [image for image in images if all(isinstance(crop_cell(image, spec), Crop) for spec in SPECS)]
    return list(islice(cycle(found), count))


def _told_of(gpu: FoundGpu) -> dict[str, str]:
    """The GPU and its driver, as the results name them."""
    driver = probe()
    facts = {"gpu": gpu.name, "capability": f"{gpu.capability[0]}.{gpu.capability[1]}"}
    return {**facts, "driver": driver.version, "cuda": f"{driver.cuda[0]}.{driver.cuda[1]}"}


def _keep(check: GpuCheck, out: Path) -> None:
    results = out / "results"
    results.mkdir(parents=True, exist_ok=True)
    name = "-".join("".join(letter if letter.isalnum() else " " for letter in check.gpu.lower()).split())
    path = results / f"{name}-{check.date}.json"
    path.write_text(check.model_dump_json(indent=2) + "\n", encoding="utf-8")
    write_page(out / "RESULTS.md", results)
    _tell(f"written: '{path}' and '{out / 'RESULTS.md'}'")


def _arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="make gpu-check", description="Check and measure this machine's GPU.")
    parser.add_argument("--gpu", type=int, default=0, help="number of the GPU")
    parser.add_argument("--network", action="append", help="shipped, or a timm backbone with random weights; repeatable")
    parser.add_argument("--batch", type=int, action="append", help="repeatable; default 1, 8 and 64")
    parser.add_argument("--rounds", type=int, default=4, help="turns of each side")
    parser.add_argument("--seconds", type=float, default=1.0, help="of one turn of one side")
    parser.add_argument("--data", type=Path, help="folder of C-NMC cells; drawn ones where there are none")
    parser.add_argument("--wheelhouse", type=Path, default=Path("wheelhouse"), help="where pycuda's source package may lie")
    parser.add_argument("--out", type=Path, default=HERE, help="where RESULTS.md and results/ are")
    return parser


def _tell(text: str) -> None:
    sys.stderr.write(f"{text}\n")


if __name__ == "__main__":
    sys.exit(main())
