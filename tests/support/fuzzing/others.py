"""Readers of everything but pictures: bundles and their parts, settings, tables, and requests to the live page."""

from __future__ import annotations

import io
import json
import shutil
import socket
import zipfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import Any

import cv2

from blastscope import SHIPPED_BUNDLE, synthetic_cell
from blastscope.runtime.bundle import read_bundle, read_golden
from blastscope.runtime.bundle.graphs import RefusedGraph, read_graph
from blastscope.runtime.bundle.manifest_io import MANIFEST, parse_manifest
from blastscope.runtime.evaluation.labels import read_labels
from blastscope.runtime.streaming.dashboard import LivePage
from blastscope.train.config import TrainConfig

ANSWER_S = 5.0
LABELS = (
    b"path,x0,y0,x1,y1,label,patient\nframe.png,10,10,60,60,all,1\nframe.png,70,70,120,120,hem,1\n",
    b"path,x0,y0,x1,y1,label\r\nframe.png,10,10,60,60,ALL\r\nframe.png,,,,,\r\n",
)
REQUESTS = (
    b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"GET /next?after=0 HTTP/1.1\r\nHost: 127.0.0.1:80\r\nConnection: close\r\n\r\n",
    b"GET /frame/1.png HTTP/1.0\r\nHost: localhost\r\nAccept: */*\r\nContent-Length: 3\r\n\r\nabc",
    b"POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
)


def manifest_seeds(folder: Path) -> list[bytes]:
    """The shipped bundle's manifest."""
    return [(SHIPPED_BUNDLE / MANIFEST).read_bytes()]


def manifest(folder: Path) -> Callable[[bytes], None]:
    """Parses manifests."""

    def read(data: bytes) -> None:
        parse_manifest(data, folder)

    return read


def archive_seeds(folder: Path) -> list[bytes]:
    """The shipped bundle in a zip, with graphs of a few bytes, plain and deflated."""
    row = json.loads((SHIPPED_BUNDLE / MANIFEST).read_bytes())
    contents: dict[str, bytes] = {}
    for entry in _entries(row):
        file = SHIPPED_BUNDLE / entry["file"]
        content = b"a graph" if file.suffix == ".onnx" else file.read_bytes()
        entry.update(size=len(content), sha256=sha256(content).hexdigest())
        contents[entry["file"]] = content
    row["neighbours"]["graph"] = sha256(b"a graph").hexdigest()
    found = []
    for compression in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        packed = io.BytesIO()
        with zipfile.ZipFile(packed, "w", compression) as archive:
            for name, content in {MANIFEST: json.dumps(row).encode(), **contents}.items():
                archive.writestr(zipfile.ZipInfo(name), content, compression)  # dated 1980, not now
        found.append(packed.getvalue())
    return found


def _entries(row: Any) -> Iterator[dict[str, Any]]:
    if isinstance(row, dict):
        if {"file", "sha256", "size"} <= row.keys():
            yield row
        row = list(row.values())
    if isinstance(row, list):
        for value in row:
            yield from _entries(value)


def archive(folder: Path) -> Callable[[bytes], None]:
    """Unpacks bundles and reads their golden sets."""
    path, cache = folder / "bundle.zip", folder / "cache"

    def read(data: bytes) -> None:
        path.write_bytes(data)
        try:
            read_golden(read_bundle(path, cache_dir=cache))
        finally:
            shutil.rmtree(cache, ignore_errors=True)

    return read


def graph_seeds(folder: Path) -> list[bytes]:
    """Small fused graphs in fp32, fp16 and int8."""
    from onnx_builders import two_towers

    return [two_towers(), two_towers(mirrored=True, half=True), two_towers(int8=True)]


def graph(folder: Path) -> Callable[[bytes], None]:
    """Checks graphs, as before any library sees them."""
    path = folder / "fused.onnx"

    def read(data: bytes) -> None:
        path.write_bytes(data)
        with suppress(RefusedGraph):  # becomes a `BundleError` once the bundle's path is known
            read_graph(path, sha256(data).hexdigest(), models="fused", side_px=16)

    return read


def settings_seeds(folder: Path) -> list[bytes]:
    """The two recipes of training."""
    from blastscope import train

    return [(Path(train.__path__[0]) / name).read_bytes() for name in ("paper.toml", "shipped.toml")]


def settings(folder: Path) -> Callable[[bytes], None]:
    """Reads recipes of training."""
    path = folder / "train.toml"

    def read(data: bytes) -> None:
        path.write_bytes(data)
        TrainConfig.from_toml(path)

    return read


def labels_seeds(folder: Path) -> list[bytes]:
    """A site's labels, with and without patients."""
    return list(LABELS)


def labels(folder: Path) -> Callable[[bytes], None]:
    """Reads tables of labels."""
    path, frame = folder / "labels.csv", folder / "frame.png"
    cv2.imwrite(str(frame), synthetic_cell(seed=1))

    def read(data: bytes) -> None:
        path.write_bytes(data)
        read_labels(path, [frame])

    return read


def page_seeds(folder: Path) -> list[bytes]:
    """Requests as browsers and others send them."""
    return list(REQUESTS)


def page(folder: Path) -> Callable[[bytes], None]:
    """Sends requests to a live page, which must still answer after each."""
    served = LivePage("fuzzing", patience_s=0.01)
    host, port = "127.0.0.1", int(served.url.rsplit(":", 1)[1].strip("/"))

    def ask(request: bytes) -> bytes:
        with socket.create_connection((host, port), ANSWER_S) as connection, suppress(ConnectionError):
            connection.sendall(request)
            connection.shutdown(socket.SHUT_WR)
            return connection.recv(64)
        return b""

    def read(data: bytes) -> None:
        ask(data)
        if not ask(REQUESTS[0]).startswith(b"HTTP/1.1 200"):
            raise AssertionError("the page answers no more")

    return read
