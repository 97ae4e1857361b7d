"""What Triton's Python backend runs as `cells` or `frames`; `write_triton_models` copies this file into the repository.

Triton's own Python must have blastscope installed.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as triton

from blastscope.runtime.session import open_bundle
from blastscope.serve.models import Cells, Frames, Model
from blastscope.serve.status import RequestError
from blastscope.serve.tensors import Tensor


class TritonPythonModel:
    """One instance of a model, as the backend wants it. Each has the bundle open, with one thread for the network."""

    def initialize(self, args: dict[str, str]) -> None:
        """Opens the bundle that lies beside this file."""
        folder = Path(args["model_repository"], args["model_version"])
        kind = json.loads(args["model_config"])["parameters"]["blastscope.model"]["string_value"]
        self._model: Model = Cells() if kind == "cells" else Frames()
        self._scope = open_bundle(folder / "bundle.zip", device="cpu", workload="throughput", threads=1)

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """A response for each request."""
        return [self._answer(request) for request in requests]

    def finalize(self) -> None:
        """Closes the bundle."""
        self._scope.close()

    def _answer(self, request: Any) -> Any:
        spec = self._model.inputs[0]
        given = triton.get_input_tensor_by_name(request, spec.name).as_numpy()
        tensor = Tensor(spec.name, spec.datatype, given.shape, [bytes(value) for value in given.ravel()])
        try:
            items = self._model.items({spec.name: tensor}, json.loads(request.parameters() or "{}"))
        except RequestError as error:
            return triton.InferenceResponse([], triton.TritonError(error.detail, triton.TritonError.INVALID_ARG))
        answers = self._model.run(self._scope, items) if items else []
        wanted = set(request.requested_output_names())
        tensors = [tensor for tensor in self._model.tensors(answers) if tensor.name in wanted]
        return triton.InferenceResponse([triton.Tensor(tensor.name, _array(tensor)) for tensor in tensors])


def _array(tensor: Tensor) -> np.ndarray[Any, Any]:
    if isinstance(tensor.values, list):
        array = np.empty(tensor.shape, np.object_)
        array[:] = tensor.values
        return array
    return tensor.values
