"""The fused Inception-ResNet-v2 ensemble, exported once, built by TensorRT-RTX in every precision.

Every kind of its blocks is there twice instead of 9 to 20 times. `make engines-check` builds all of it, in every precision for
every kind of GPU. Random weights, so its gate is waived.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from trt_logs import listen

from blastscope.runtime.backends.tensorrt.builder import BuildStep
from blastscope.runtime.backends.tensorrt.engine_store import find_engine, obtain_engine
from blastscope.runtime.backends.tensorrt.key import EngineKey, platform_name
from blastscope.runtime.crop import crop_cell
from blastscope.runtime.cuda.driver import GpuFacts
from blastscope.runtime.io.synthetic import synthetic_cells
from blastscope.runtime.types import PRECISIONS, Precision

if TYPE_CHECKING:
    from torch import nn

trt = pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx-cu13 is not installed")

TARGETS = ("sm86", "sm89", "sm120")
TYPES: dict[Precision, str] = {"fp32": "Float", "fp16": "Half", "int8": "Int8"}  # what the library calls a convolution's input


def shorten(backbone: nn.Module) -> None:
    """Leaves two of each kind of block: the repeats are alike, with weights of the same shapes."""
    for name, count in {"repeat": 10, "repeat_1": 20, "repeat_2": 9}.items():
        blocks = getattr(backbone, name)
        assert len(blocks) == count
        assert len({tuple(tuple(weights.shape) for weights in block.parameters()) for block in blocks}) == 1
        setattr(backbone, name, blocks[:2])


@pytest.fixture(scope="module")
def graphs(tmp_path_factory: pytest.TempPathFactory) -> dict[Precision, Path]:
    """The graph files as `make_benchmark_bundle` makes them, less the comparisons, which other tests make on small networks."""
    import torch

    from blastscope.calibration.config import CalibrationConfig
    from blastscope.calibration.quantisation.quantizer import make_int8
    from blastscope.export.onnx_export import make_graph, trace
    from blastscope.export.onnx_writer import convert_fp16
    from blastscope.train.config import NetworkConfig, TrainConfig
    from blastscope.train.ensemble_checkpoint import random_ensemble

    config = TrainConfig(network=NetworkConfig(backbone="inception_resnet_v2", weights="none"))
    crops = np.stack([crop_cell(cell.image, config.crop).pixels for cell in synthetic_cells(2, seed=0)])
    folder = tmp_path_factory.mktemp("graphs")
    files: dict[Precision, Path] = {precision: folder / f"{precision}.onnx" for precision in PRECISIONS}
    before = torch.get_num_threads()
    torch.set_num_threads(1)  # on a busy machine two threads wait for each other longer than they work
    try:
        trained = random_ensemble(config, np.ascontiguousarray(crops[:, ::3, ::3]))  # statistics need no fine detail
        for voter in (trained.ensemble.a, trained.ensemble.b):
            shorten(voter.backbone)
        model = trace(make_graph(trained.ensemble, "ensemble"), config.crop.side_px, "ensemble")
    finally:
        torch.set_num_threads(before)
    files["fp32"].write_bytes(model.SerializeToString())
    files["fp16"].write_bytes(convert_fp16(model, "ensemble").SerializeToString())
    del model, trained
    make_int8(files["fp32"], files["int8"], crops[:1], CalibrationConfig(method="minmax"))
    return files


@pytest.mark.slow
@pytest.mark.parametrize("precision", PRECISIONS)
def test_the_ensemble_of_the_paper_is_built_for_three_kinds_of_gpu_at_once(
    precision: Precision, graphs: dict[Precision, Path], tmp_path: Path, build_log: list[str]
) -> None:
    graph = graphs[precision]
    key = EngineKey(
        graph=hashlib.sha256(graph.read_bytes()).hexdigest(),
        models="ensemble",
        precision=precision,
        library="tensorrt-rtx",
        version=trt.__version__,
        platform=platform_name(),
        targets=TARGETS,
    )
    steps: list[BuildStep] = []
    built = obtain_engine(tmp_path, graph, key, progress=steps.append)
    assert built.built
    assert built.note is None
    # weights are kept as they were written, and once for all kinds of GPU; int8 ones are reordered
    assert 0.95 < len(built.data) / graph.stat().st_size < 2
    assert len({step.phase for step in steps}) > 3
    for capability in ("8.6", "8.9", "12.0"):
        gpu = GpuFacts(name="any", capability=capability, driver="580")
        assert find_engine(tmp_path, key.model_copy(update={"gpu": gpu, "targets": ()})) == built.data
    convolutions = [line for line in build_log if line.startswith("Name: ") and "LayerType: correlation" in line]
    typed = [line for line in convolutions if f"Datatype: {TYPES[precision]}" in line.split("Outputs")[0].split("Constants")[0]]
    assert len(convolutions) > 100
    assert len(typed) == len(convolutions)  # a cast that slipped in would turn some of them into fp32
    graph.unlink()  # 150 MB


@pytest.fixture
def build_log(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    return listen(trt, monkeypatch)
