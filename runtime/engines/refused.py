"""Which nodes of a graph a library's parser can't take."""

from __future__ import annotations

from typing import Any

SHOWN = 5


def refused_nodes(trt: Any, content: bytes, parser: Any, logger: Any) -> str:
    """The refused nodes with the parser's reasons, for a message.

    A parser stops at its first error; `supports_model_v2`, where the library has it, looks at the whole graph.
    """
    found = _errors(parser)
    if hasattr(parser, "supports_model_v2"):
        # with a network of its own: the one that broke off holds half the graph
        empty = trt.Builder(logger).create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
        second = trt.OnnxParser(empty, logger)
        second.supports_model_v2(content)
        found = dict.fromkeys([*found, *_errors(second)])
    reasons = list(found)
    more = f" and {len(reasons) - SHOWN} more" if len(reasons) > SHOWN else ""
    return "; ".join(reasons[:SHOWN]) + more if reasons else "the parser gives no reason"


def _errors(parser: Any) -> dict[str, None]:
    return dict.fromkeys(_text(parser.get_error(place)) for place in range(parser.num_errors))


def _text(error: Any) -> str:
    operator = str(error.node_operator()) if hasattr(error, "node_operator") else ""
    name = str(error.node_name()) if hasattr(error, "node_name") else f"number {error.node()}"
    where = f"{operator} '{name}'".strip() if name or operator else "the graph"
    return f"{where} ({' '.join(str(error.desc()).split())})"
