"""What only POSIX systems have is asked for before it is used. No proof that blastscope runs on Windows: no test does so."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import mypy

ROOT = Path(__file__).resolve().parents[2]
STUBS = Path(mypy.__file__).parent / "typeshed" / "stdlib"
MODULES = ("os", "signal", "socket", "time", "select", "threading", "multiprocessing", "mmap", "shutil", "subprocess", "sys")
FOLDERS = ("runtime", "train", "calibration", "export", "benchmarks", "blastscope/cli", "requirements")
SOURCES = sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))
GUARDS = ("hasattr(", "getattr(", "sys.platform", "os.name", "except ImportError", "AttributeError", "fcntl is None")


@cache
def only_posix(module: str) -> frozenset[str]:
    """The names of a module that Windows lacks, by the stubs that type checkers read; '*' where it lacks the module."""
    path = STUBS / f"{module}.pyi"
    path = path if path.exists() else STUBS / module / "__init__.pyi"
    if not path.exists():
        return frozenset()
    body = ast.parse(path.read_text(encoding="utf-8")).body
    names: set[str] = set()
    real = [node for node in body if not isinstance(node, ast.Import | ast.ImportFrom | ast.Expr)]
    for node in body:
        if isinstance(node, ast.If) and ast.unparse(node.test) in ("sys.platform != 'win32'", "sys.platform == 'linux'"):
            names |= {"*"} if real == [node] else {name for one in node.body for name in _named(one)}
        elif isinstance(node, ast.If) and ast.unparse(node.test) == "sys.platform == 'win32'":
            names |= {name for one in node.orelse for name in _named(one)}
    there = {name for node in body if not isinstance(node, ast.If) for name in _named(node)}
    return frozenset(names - there)


def _named(node: ast.AST) -> Iterator[str]:
    for one in ast.walk(node):
        if isinstance(one, ast.FunctionDef | ast.ClassDef):
            yield one.name
        elif isinstance(one, ast.AnnAssign) and isinstance(one.target, ast.Name):
            yield one.target.id


def uses(tree: ast.Module) -> Iterator[tuple[str, int]]:
    """What a file takes that Windows lacks, with the line."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in MODULES:
            if node.attr in only_posix(node.value.id):
                yield f"{node.value.id}.{node.attr}", node.lineno
        elif isinstance(node, ast.Import):
            yield from ((name.name, node.lineno) for name in node.names if "*" in only_posix(name.name))
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            lacking = only_posix(node.module)
            yield from ((f"{node.module}.{name.name}", node.lineno) for name in node.names if {"*", name.name} & lacking)


def around(tree: ast.Module, line: int) -> str:
    """The source of the innermost function that holds a line; of the statement, where none does."""
    holding = [node for node in ast.walk(tree) if isinstance(node, ast.stmt) and node.lineno <= line <= (node.end_lineno or 0)]
    inside = [node for node in holding if isinstance(node, ast.FunctionDef)]
    return ast.unparse(inside[-1] if inside else holding[0])


def test_the_stubs_know_what_windows_lacks() -> None:
    assert {"fork", "geteuid", "posix_fadvise", "sched_getaffinity"} <= only_posix("os")
    assert not {"open", "replace", "cpu_count"} & only_posix("os")
    assert "SIGKILL" in only_posix("signal")
    assert only_posix("fcntl") == only_posix("resource") == {"*"}


def test_what_windows_lacks_is_asked_for_first() -> None:
    found, bare = 0, []
    for path in SOURCES:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for name, line in uses(tree):
            found += 1
            if not any(guard in around(tree, line) for guard in GUARDS):
                bare.append(f"{path.relative_to(ROOT)}:{line} takes {name}")
    assert bare == []
    assert found > 10
