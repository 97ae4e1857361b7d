"""A running server under test, and what talks to it over HTTP."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import urllib3
from numpy.typing import NDArray

from blastscope.serve.server import BackgroundServer


def png(image: NDArray[np.uint8]) -> bytes:
    """An image as the bytes of a PNG."""
    return bytes(cv2.imencode(".png", image[..., ::-1])[1].tobytes())


@contextmanager
def serving_process(bundle: str, log: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """`blastscope serve` of `bundle` in a process of its own, and the address of its gRPC; waits for its end."""
    words = ["serve", "--bundle", bundle, "--port", "0", "--grpc-port", "0", "--audit-log", str(log)]
    with subprocess.Popen([sys.executable, "-m", "blastscope", *words], stderr=subprocess.PIPE, text=True) as server:
        assert server.stderr
        address = next(line for line in server.stderr if line.startswith("gRPC at ")).split()[-1]
        next(line for line in server.stderr if line.startswith("models: "))
        yield server, address


class Served:
    """A server under test, and what talks to it."""

    def __init__(self, running: BackgroundServer, bundle: Path | None) -> None:
        self.running, self.bundle = running, bundle
        self.url, self.grpc_address = running.url, running.grpc_address
        trusted = running.server.options.certificate
        self._pool = urllib3.PoolManager(retries=False, ca_certs=trusted and str(trusted), maxsize=32)

    def ask(self, path: str, body: object = None, headers: dict[str, str] | None = None, **words: Any) -> Any:
        """A request over HTTP: POST where there is a body, which is JSON where it is no bytes."""
        data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        method = words.pop("method", "GET" if body is None else "POST")
        return self._pool.request(method, f"{self.url}{path}", body=data, headers=headers, **words)

    def infer(self, images: list[bytes], model: str = "cells", headers: dict[str, str] | None = None, **parameters: Any) -> Any:
        """An inference of encoded images over HTTP, in JSON."""
        given = {
            "name": {"cells": "image", "frames": "frame"}[model.rpartition(".")[2]],
            "datatype": "BYTES",
            "shape": [len(images)],
            "parameters": {"content_type": "base64"},
            "data": [base64.b64encode(image).decode() for image in images],
        }
        return self.ask(f"/v2/models/{model}/infer", {"inputs": [given], "parameters": parameters}, headers)

    def close(self) -> None:
        """Closes the connections."""
        self._pool.clear()

    @contextmanager
    def blocked(self, kind: str = "cells") -> Iterator[threading.Event]:
        """Holds every batch of a model back until the event is set, or the block ends."""
        _, lane = self.running.server.repository.find(kind)
        gate = threading.Event()
        run = lane.batcher._run

        def wait(items: Any) -> Any:
            gate.wait()
            return run(items)

        lane.batcher._run = wait
        try:
            yield gate
        finally:
            gate.set()
            lane.batcher._run = run

    @property
    def waiting(self) -> int:
        """Requests that are under way."""
        return self.running.server.service.under_way.now

    def until(self, condition: Callable[[], bool]) -> None:
        """Waits until the condition holds, which another thread brings about."""
        turn = threading.Event()
        for _ in range(3000):
            if condition():
                return
            turn.wait(0.01)
        pytest.fail("it never came about")
