"""Servers for the tests: of a tiny bundle, which opens in milliseconds."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("uvicorn", reason="the extra 'serve' is not installed")

import tritonclient.grpc as triton_grpc
import tritonclient.http as triton_http
from served import Served, png

from blastscope.serve.options import Limits, ServeOptions
from blastscope.serve.server import BackgroundServer


@pytest.fixture
def serve(tiny_bundle: Any, tmp_path: Path) -> Iterator[Callable[..., Served]]:
    """Starts a server of a tiny bundle; the words are those of `ServeOptions` and `Limits`."""
    with ExitStack() as running:

        def start(**words: Any) -> Served:
            limits = {name: words.pop(name) for name in list(words) if name in Limits.__dataclass_fields__}
            bundle = words.pop("bundle", None) or tiny_bundle.make()
            options = ServeOptions(
                **{"bundles": {"tiny": bundle}, "port": 0, "grpc_port": 0, **words},
                limits=Limits(**limits),
            )
            server = Served(running.enter_context(BackgroundServer(options)), bundle)
            running.callback(server.close)
            return server

        yield start


@pytest.fixture
def cells(tiny_bundle: Any) -> list[bytes]:
    """Eight encoded cells, which a tiny bundle calls."""
    return [png(tiny_bundle.cell(seed)) for seed in range(8)]


@pytest.fixture
def triton(serve: Callable[..., Served]) -> Iterator[tuple[Served, list[tuple[Any, Any]]]]:
    """A server, and NVIDIA's clients of it: module and client, over HTTP and gRPC."""
    server = serve()
    http = triton_http.InferenceServerClient(server.url.removeprefix("http://"), concurrency=8)
    rpc = triton_grpc.InferenceServerClient(server.grpc_address)
    yield server, [(triton_http, http), (triton_grpc, rpc)]
    http.close()
    rpc.close()
