"""Asks a real Triton Inference Server for the model of `export --triton`, beside `blastscope serve`: `make triton-check`.

The server is that of the PyPI package nvidia-pytriton, in an environment of its own. It has no backend for ONNX, so Triton's
Python backend runs the exported graph with ONNX Runtime, below the exported config, without the warm-up. Prints a line of JSON
for each question, and fails where the two servers differ in another way than export/README.md says.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import sysconfig
import time
import venv
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import tritonclient.grpc as client
from tritonclient.utils import InferenceServerException

from blastscope import SHIPPED_BUNDLE
from blastscope.export.model_repositories import write_triton_repository
from blastscope.runtime.bundle import read_bundle
from blastscope.serve.options import ServeOptions
from blastscope.serve.server import BackgroundServer

PACKAGES = ("nvidia-pytriton==0.7.0", "onnxruntime>=1.22,<2")
START_S = 300
STAND_IN = """
import json
from pathlib import Path

import onnxruntime
import triton_python_backend_utils as triton


class TritonPythonModel:
    def initialize(self, args):
        self.names = [output["name"] for output in json.loads(args["model_config"])["output"]]
        graph = Path(args["model_repository"], args["model_version"], "model.onnx")
        self.session = onnxruntime.InferenceSession(str(graph), providers=["CPUExecutionProvider"])

    def execute(self, requests):
        responses = []
        for request in requests:
            crops = triton.get_input_tensor_by_name(request, "crops").as_numpy()
            answers = self.session.run(self.names, {"crops": crops})
            responses.append(triton.InferenceResponse([triton.Tensor(*pair) for pair in zip(self.names, answers)]))
        return responses
"""


def main() -> None:
    """Installs the server, unless the folder of its environment is named, and compares."""
    with TemporaryDirectory() as place:
        folder = Path(place)
        environment = Path(sys.argv[1]) if len(sys.argv) > 1 else installed(folder / "triton")
        bundle = read_bundle(SHIPPED_BUNDLE)
        repository = folder / "repository"
        crops = write_triton_repository(bundle, repository, precision="fp32")
        (crops / "1" / "model.py").write_text(STAND_IN, encoding="utf-8")
        config = (crops / "config.pbtxt").read_text(encoding="utf-8").replace('backend: "onnxruntime"', 'backend: "python"')
        (crops / "config.pbtxt").write_text(re.sub(r"model_warmup \[.*?\n\]\n", "", config, flags=re.DOTALL), encoding="utf-8")
        with (
            triton(environment, repository, folder) as theirs,
            BackgroundServer(ServeOptions({"x": None}, port=0, grpc_port=0)) as ours,
        ):
            failures = compare(theirs, ours.grpc_address, bundle.manifest.crop.side_px)
    sys.exit(f"{failures} differences" if failures else 0)


def installed(folder: Path) -> Path:
    """An environment with the server."""
    venv.create(folder, with_pip=True)
    subprocess.run([folder / "bin" / "pip", "install", "-q", *PACKAGES], check=True)
    return folder


@contextmanager
def triton(environment: Path, repository: Path, folder: Path) -> Iterator[str]:
    """A running server, by its address."""
    (package,) = environment.glob("lib/python3*/site-packages")
    server = package / "pytriton" / "tritonserver"
    version = f"{sys.version_info[0]}.{sys.version_info[1]}"
    backends = folder / "backends"
    shutil.copytree(server / "backends", backends)
    shutil.copy(server / "python_backend_stubs" / version / "triton_python_backend_stub", backends / "python")
    libraries = [package / "nvidia_pytriton.libs", sysconfig.get_config_var("LIBDIR")]
    words = {  # the backend's Python is the first on the path; with NumPy 2 it answers with no bytes
        **os.environ,
        "LD_LIBRARY_PATH": ":".join(map(str, libraries)),
        "PATH": f"{environment / 'bin'}{os.pathsep}{os.environ['PATH']}",
        "OMP_NUM_THREADS": "1",
    }
    ports = [free_port() for _ in range(3)]
    options = [f"--{name}-port={port}" for name, port in zip(("http", "grpc", "metrics"), ports, strict=True)]
    command = [server / "bin" / "tritonserver", f"--model-repository={repository}", f"--backend-directory={backends}", *options]
    with (folder / "log").open("w") as log, subprocess.Popen(command, env=words, stdout=log, stderr=log) as process:
        try:
            wait_until_ready(process, f"127.0.0.1:{ports[1]}", folder / "log")
            yield f"127.0.0.1:{ports[1]}"
        finally:
            process.terminate()


def wait_until_ready(process: subprocess.Popen[bytes], address: str, log: Path) -> None:
    end = time.monotonic() + START_S
    while time.monotonic() < end and process.poll() is None:
        try:
            if client.InferenceServerClient(address).is_server_ready():
                return
        except InferenceServerException:
            pass
        with suppress(subprocess.TimeoutExpired):
            process.wait(1)
    process.terminate()
    told = [line for line in log.read_text().splitlines() if not line.startswith(("I", "+")) and "|" not in line[:1]]
    sys.exit("\n".join(["Triton didn't start:", *told[-40:]]))


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def compare(theirs: str, ours: str, side: int) -> int:
    """How many answers differ in another way than the page says."""
    crops = np.random.default_rng(0).integers(0, 255, (3, side, side, 3)).astype(np.uint8)
    questions = {
        "crops": [crops, crops[:1], crops[:0]],
    }
    failures = 0
    for model, asked in questions.items():
        for tensor in asked:
            told = [answer(address, model, tensor) for address in (theirs, ours)]
            same = alike(model, *told)
            failures += not same
            shapes = [one if isinstance(one, str) else {name: list(value.shape) for name, value in one.items()} for one in told]
            row = {"model": model, "shape": list(tensor.shape), "triton": shapes[0], "serve": shapes[1], "alike": same}
            print(json.dumps(row))
    return failures


def answer(address: str, model: str, tensor: np.ndarray[Any, Any]) -> dict[str, np.ndarray[Any, Any]] | str:
    """The outputs by name, or the error."""
    one = client.InferenceServerClient(address)
    given = client.InferInput("crops", list(tensor.shape), "UINT8")
    given.set_data_from_numpy(tensor)
    try:
        told = one.infer(model, [given])
    except InferenceServerException as error:
        return str(error)
    return {output.name: told.as_numpy(output.name) for output in told.get_response().outputs}


def alike(model: str, theirs: dict[str, np.ndarray[Any, Any]] | str, ours: dict[str, np.ndarray[Any, Any]] | str) -> bool:
    if isinstance(ours, str):
        return False
    if isinstance(theirs, str):
        return model == "crops" and "input byte size mismatch" in theirs and not len(ours["label"])
    theirs = {name: value for name, value in theirs.items() if name != "answers"}  # it repeats the others
    if set(theirs) != set(ours):
        return False
    for name, value in ours.items():
        other = theirs[name]
        if model == "crops" and value.ndim == 1 and other.shape != (len(value), 1):
            return False
        other = other.reshape(value.shape)
        exact = value.dtype.kind in "Oi"
        if not (np.array_equal(value, other) if exact else np.allclose(value, other, 1e-3, 1e-3, equal_nan=True)):
            return False
    return True


if __name__ == "__main__":
    main()
