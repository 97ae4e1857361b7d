"""Reads a graph once: the bytes whose digest was taken are the ones that are examined and given to a library."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Literal

from blastscope.runtime.bundle.graphs.interface import check_detector, check_input, check_outputs
from blastscope.runtime.bundle.graphs.limits import check_limits
from blastscope.runtime.bundle.graphs.wire import UnfitGraph, parse_graph
from blastscope.runtime.bundle.manifest import GraphModels
from blastscope.runtime.bundle.reader import FILE_LIMIT
from blastscope.runtime.bundle.weights import weights_problem
from blastscope.runtime.errors import BundleError, DigestMismatch, EngineError
from blastscope.runtime.io.own_files import open_plain


class RefusedGraph(EngineError):
    """A graph that is not the one that was verified, or breaks a rule of runtime/FORMAT.md."""

    def __init__(self, path: Path, problem: str, *, changed: bool = False) -> None:
        self.path = path
        self.problem = problem
        self.changed = changed
        super().__init__(f"'{path}' {problem}")

    def in_bundle(self, bundle: Path, file: str) -> BundleError:
        """The same, of a file of a bundle."""
        return DigestMismatch(bundle, file, self.problem) if self.changed else BundleError(bundle, f"{file} {self.problem}")


def read_graph(
    path: Path, sha256: str, *, models: GraphModels | Literal["detector"] | None = None, side_px: int | None = None
) -> bytes:
    """The bytes of the ONNX file at `path`, whose digest is `sha256`.

    With `models`, also the inputs and outputs that a bundle's graph of these models has, for crops of `side_px`, are checked.
    Raises `RefusedGraph`.
    """
    try:
        stream, found = open_plain(path)
        with stream:
            content = stream.read(min(found.st_size, FILE_LIMIT) + 1)
    except OSError as error:
        raise RefusedGraph(path, f"can't be read any more: {error.strerror or error}", changed=True) from error
    if hashlib.sha256(content).hexdigest() != sha256:
        raise RefusedGraph(path, "was changed since it was verified", changed=True)
    try:
        examine_graph(content, models=models, side_px=side_px)
    except UnfitGraph as error:
        raise RefusedGraph(path, str(error)) from error
    return content


def examine_graph(
    content: bytes, *, models: GraphModels | Literal["detector"] | None = None, side_px: int | None = None
) -> None:
    """Raises `UnfitGraph` where the graph breaks a limit, or isn't one of `models` for crops of `side_px`, or a detector."""
    if len(content) > FILE_LIMIT:
        raise UnfitGraph(f"is larger than {FILE_LIMIT} bytes")
    graph = parse_graph(content)
    if models is not None and models != "detector":
        check_input(graph.inputs, side_px)
    known = check_limits(graph)
    if problem := weights_problem(content):
        raise UnfitGraph(problem)
    if models == "detector":
        check_detector(graph, known)
    elif models is not None:
        check_outputs(graph, known, models)
