"""The models `cells` and `frames` for a repository of Triton Inference Server, as `blastscope serve` has them."""

from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path

from blastscope.runtime.bundle import Bundle, pack
from blastscope.runtime.io.atomic import write_folder
from blastscope.serve.models import Cells, Frames, Model
from blastscope.serve.tensors import TensorSpec

KINDS = {"BYTES": "TYPE_STRING", "FP32": "TYPE_FP32", "INT32": "TYPE_INT32"}
INSTANCES = 2  # processes, each of which keeps one core at work


def write_triton_models(bundle: Bundle, out: Path) -> list[Path]:
    """Writes the folders of both models into the repository `out`, each in one step, and returns them.

    They are run by Triton's Python backend. They take no part in Triton's own batching, which knows no output of shape [N].

    Raises
    ------
    WriteError
        A folder can't be written.
    """
    return [_write(bundle, out / model.kind, model) for model in (Cells(), Frames())]


def _write(bundle: Bundle, place: Path, model: Model) -> Path:
    code = (files(__package__) / "triton_model.py").read_text(encoding="utf-8")

    def fill(fresh: Path) -> None:
        (fresh / "1").mkdir()
        (fresh / "config.pbtxt").write_text(config_text(model), encoding="utf-8")
        (fresh / "1" / "model.py").write_text(code, encoding="utf-8")
        pack(bundle, fresh / "1" / "bundle.zip")

    write_folder(place, fill)
    return place


def config_text(model: Model) -> str:
    """The model's config.pbtxt."""
    lines = [
        f'name: "{model.kind}"',
        'backend: "python"',
        "max_batch_size: 0",
        f"input [ {', '.join(map(_tensor, model.inputs))} ]",
        "output [",
        ",\n".join(f"  {_tensor(spec)}" for spec in model.outputs),
        "]",
        f"instance_group [ {{ count: {INSTANCES} kind: KIND_CPU }} ]",
        f'parameters {{ key: "blastscope.model" value {{ string_value: {json.dumps(model.kind)} }} }}',
    ]
    return "\n".join(lines) + "\n"


def _tensor(spec: TensorSpec) -> str:
    return f'{{ name: "{spec.name}" data_type: {KINDS[spec.datatype]} dims: {list(spec.shape)} }}'
