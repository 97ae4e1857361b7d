"""ONNX files of a bundle, examined before a library sees them: no more bytes, operators, memory or work than networks need.

`read_graph` gives the verified bytes of a graph, or raises `RefusedGraph`. The rules stand in runtime/FORMAT.md.
"""

from blastscope.runtime.bundle.graphs.reading import RefusedGraph, examine_graph, read_graph

__all__ = ["RefusedGraph", "examine_graph", "read_graph"]
