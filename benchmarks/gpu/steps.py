"""The steps of the check: the crop by each specification, and each engine of each network. Whatever happens is a finding."""

from __future__ import annotations

import random
from collections.abc import Sequence
from functools import cached_property
from itertools import cycle, islice
from pathlib import Path

from blastscope.benchmarks.gpu.crops import NoNetwork, compare_crops, time_crops
from blastscope.benchmarks.gpu.engines import Bench, Plan, empty_rows, told
from blastscope.benchmarks.gpu.schema import CropCheck, Findings, GpuRow
from blastscope.benchmarks.interleaved_timing import Image
from blastscope.benchmarks.models import Tell, prepare
from blastscope.runtime.backends.nvidia.pixel_pipeline import PixelPipeline
from blastscope.runtime.crop import Crop, CropSpecification, crop_cell
from blastscope.runtime.cuda.protocol import Gpu
from blastscope.runtime.errors import DeviceError
from blastscope.runtime.io.cnmc import scan_dataset
from blastscope.runtime.io.image import read_image
from blastscope.runtime.io.synthetic import synthetic_cells
from blastscope.runtime.types import Refusal

CROP = "crop"
# the paper's, and that of the shipped bundle
SPECS = {"fit": CropSpecification(), "keep": CropSpecification(side_px=144, scale="keep", window_px=288)}
TIMED = "fit"


def step_of(network: str, engine: str) -> str:
    """The name of the step that measures `engine` on `network`; or the crop, by the scale `engine`."""
    return f"{network} {engine}"


def broken(step: str, problem: str, plan: Plan) -> Findings:
    """What is to be told of a step that gave nothing."""
    network, _, engine = step.partition(" ")
    if network != CROP:
        return Findings(rows=empty_rows(network, engine, plan, problem))
    check = CropCheck(source=f"{engine} to {SPECS[engine].side_px} px", images=0, different=0, problem=problem)
    row = GpuRow(network=CROP, what="crop", engine="kernels", batch=1, problem=problem)
    rows = tuple(row.model_copy(update={"batch": batch}) for batch in plan.batches) if engine == TIMED else ()
    return Findings(crops=(check,), rows=rows)


class Work:
    """Does steps on one GPU, in this process. What several steps need is made once."""

    def __init__(self, gpu: Gpu, plan: Plan, data: Path | None, tell: Tell) -> None:
        self._gpu, self._plan, self._data, self._tell = gpu, plan, data, tell
        self._bench: tuple[str, Bench] | None = None  # of one network at a time: each fills the GPU's memory

    def do(self, step: str) -> Findings:
        """What `step` finds. Raises nothing: what fails is a finding too."""
        network, _, engine = step.partition(" ")
        self._tell(step)
        try:
            return self._crop(engine) if network == CROP else self._bench_of(network).measure(engine)
        except Exception as error:  # noqa: BLE001  a first run on a new GPU may fail in any way
            return broken(step, told(error), self._plan)

    def lost(self) -> bool:
        """Whether nothing on the GPU answers any more, in this process."""
        try:
            with self._gpu.current():
                self._gpu.check("looking at the GPU")
        except DeviceError:
            return True
        return False

    def _crop(self, scale: str) -> Findings:
        """The kernels on all real cells or drawn ones, against OpenCV, and their times."""
        spec, plan, rows = SPECS[scale], self._plan, list[GpuRow]()
        every = some_images(self._data, None)
        source = f"{'C-NMC' if self._data else 'drawn'}, {scale} to {spec.side_px} px"
        pipeline = PixelPipeline(CROP, self._gpu, NoNetwork(), spec, batches=plan.batches)
        try:
            check = compare_crops(pipeline, every, spec, source)
            if scale == TIMED:
                for batch in plan.batches:
                    rows += time_crops(self._gpu, pipeline, self._images[:batch], spec, plan.pace)
        except Exception as error:  # noqa: BLE001
            found = broken(step_of(CROP, scale), told(error), plan)
            return found if not rows else found.model_copy(update={"rows": tuple(rows)})
        finally:
            pipeline.close()
        return Findings(crops=(check,), rows=tuple(rows))

    def _bench_of(self, network: str) -> Bench:
        if self._bench is None or self._bench[0] != network:
            self._bench = None
            contender = prepare(network, self._data, self._tell)
            self._bench = (network, Bench(self._gpu, contender, self._images, self._plan))
        return self._bench[1]

    @cached_property
    def _images(self) -> list[Image]:
        most = max(*self._plan.batches, self._plan.cells)
        return cells_among(some_images(self._data, 2 * most), most)


def some_images(data: Path | None, count: int | None) -> list[Image]:
    """`count` images of real cells below `data`, or of drawn ones; None: all real ones, or 256 drawn ones."""
    if data is None:
        return [cell.image for cell in synthetic_cells(count or 256, seed=0)]
    cells = list(scan_dataset(data).cells)
    chosen = cells if count is None else random.Random(0).sample(cells, min(count, len(cells)))
    read = [read_image(cell.path) for cell in chosen]
    return [image for image in read if not isinstance(image, Refusal)]


def cells_among(images: Sequence[Image], count: int) -> list[Image]:
    """`count` of `images` that get a call, not a refusal, so that all sides have the same to do; few are taken repeatedly."""
    found = [image for image in images if all(isinstance(crop_cell(image, spec), Crop) for spec in SPECS.values())]
    return list(islice(cycle(found), count))
