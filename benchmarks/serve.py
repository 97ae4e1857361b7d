"""Calls through `blastscope serve` beside `Scope.classify_many`, in turn in one run: `make serve-bench`.

Clients are processes of their own, over gRPC and REST. They share the cores with the server, as they would on a workstation, so
the ratio tells what server and clients cost together. Prints a line of JSON for each protocol.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

CLIENTS = 8


def main() -> None:
    """What `python -m blastscope.benchmarks.serve DATA` runs."""
    parser = argparse.ArgumentParser(description="Throughput through the server beside classify_many.")
    parser.add_argument("data", type=Path, help="folder with images of cells")
    parser.add_argument("--cells", type=int, default=400)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--images", type=int, default=1, help="of a request")
    words = parser.parse_args()
    suffixes = {".bmp", ".png", ".webp"}
    paths = sorted(path for path in words.data.rglob("*") if path.suffix in suffixes)[: words.cells]
    measure(paths, words.rounds, words.images)


def measure(paths: Sequence[Path], rounds: int, images: int) -> None:
    """Measures both ways in turn, and prints medians."""
    from blastscope.runtime.session import open_bundle
    from blastscope.serve.options import ServeOptions
    from blastscope.serve.server import BackgroundServer

    contents = [path.read_bytes() for path in paths]
    spawn = multiprocessing.get_context("spawn")
    server = BackgroundServer(ServeOptions({"shipped": None}, port=0, grpc_port=0))
    with server, open_bundle(workload="throughput") as scope, spawn.Pool(CLIENTS) as clients:
        addresses = {"grpc": server.grpc_address, "http": server.url.removeprefix("http://")}
        shares = [contents[number::CLIENTS] for number in range(CLIENTS)]
        direct: list[float] = []
        served: dict[str, list[float]] = {name: [] for name in addresses}
        waits: dict[str, list[float]] = {name: [] for name in addresses}
        for turn in range(rounds + 1):  # the first one warms up
            begun = time.perf_counter()
            scope.classify_many(contents)
            seconds = time.perf_counter() - begun
            if turn:
                direct.append(len(contents) / seconds)
            for name, address in addresses.items():
                begun = time.perf_counter()
                found = clients.starmap(ask, [(name, address, share, images) for share in shares], chunksize=1)
                seconds = time.perf_counter() - begun
                if turn:
                    served[name].append(len(contents) / seconds)
                    waits[name] += [wait for one in found for wait in one]
    for name in addresses:
        row = {
            "protocol": name,
            "clients": CLIENTS,
            "images_per_request": images,
            "classify_many_per_s": round(statistics.median(direct), 2),
            "served_per_s": round(statistics.median(served[name]), 2),
            "ratio": round(statistics.median(mine / theirs for mine, theirs in zip(served[name], direct, strict=True)), 3),
            "p50_ms": round(float(np.percentile(waits[name], 50)) * 1000, 1),
            "p99_ms": round(float(np.percentile(waits[name], 99)) * 1000, 1),
        }
        print(json.dumps(row))


def ask(protocol: str, address: str, contents: Sequence[bytes], images: int) -> list[float]:
    """One client's share, request after request: the seconds of each."""
    module: Any = __import__(f"tritonclient.{protocol}", fromlist=["InferInput"])
    client = module.InferenceServerClient(address)
    seconds = []
    for start in range(0, len(contents), images):
        files = np.array([*contents[start : start + images], None], dtype=np.object_)[:-1]
        given = module.InferInput("image", [len(files)], "BYTES")
        given.set_data_from_numpy(files)
        begun = time.perf_counter()
        client.infer("cells", [given], outputs=[module.InferRequestedOutput(name) for name in ("label", "score", "refusal")])
        seconds.append(time.perf_counter() - begun)
    client.close()
    return seconds


if __name__ == "__main__":
    main()
