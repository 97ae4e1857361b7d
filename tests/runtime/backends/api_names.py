"""Makes api_names.json: which of the TensorRT names that our source uses stand in the binaries of its bindings' wheels.

Run by `make api-names`. Neither TensorRT 10 nor 11 can be imported without libraries that PyPI does not hold, but the wheels of
their bindings can be had there, and a name that Python is to find must stand in their binaries as a string.
"""

from __future__ import annotations

import ast
import hashlib
import json
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

ROOT = Path(__file__).resolve().parents[3]
TABLE = Path(__file__).with_suffix(".json")
WHEELS = ("tensorrt-cu12-bindings==10.3.0", "tensorrt-cu13-bindings==10.16.*", "tensorrt-cu13-bindings==11.4.*")

# file -> the names in it under which objects of the library go
RECEIVERS: dict[str, set[str]] = {
    "runtime/backends/tensorrt/builder.py": {"trt", "builder", "network", "parser", "config", "profile", "second", "error"},
    "runtime/backends/tensorrt/key.py": {"library"},
    "runtime/backends/tensorrt/backend.py": {
        *("self._library", "self._runtime", "self._engine", "self._config", "self._cache", "self._context"),
        *("engine", "context", "config"),
    },
}
CONTROLS = ("EXPLICIT_BATCH", "FP16", "IInt8EntropyCalibrator2", "device_memory_size")  # gone in 11: the look-up must see it


def used_names(file: str) -> Iterator[tuple[str, int]]:
    """The library's names that `file` uses, with the line: attributes of its objects, and what it overrides of its classes."""
    tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            base = node.value
            while isinstance(base, ast.Attribute | ast.Call | ast.Subscript) and ast.unparse(base) not in RECEIVERS[file]:
                base = base.func if isinstance(base, ast.Call) else base.value
            # `self._engine` is an object of the library, and no name of it
            if ast.unparse(base) in RECEIVERS[file] and ast.unparse(node) not in RECEIVERS[file]:
                yield node.attr, node.lineno
        elif isinstance(node, ast.ClassDef) and any(_is_librarys(base, file) for base in node.bases):
            methods = [item for item in node.body if isinstance(item, ast.FunctionDef) and not item.name.startswith("_")]
            yield from ((method.name, method.lineno) for method in methods)


def _is_librarys(base: ast.expr, file: str) -> bool:
    return isinstance(base, ast.Attribute) and ast.unparse(base.value) in RECEIVERS[file]


def guards(file: str) -> set[str]:
    """The names that `file` asks for by `hasattr` or `getattr` before it uses them."""
    tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
    return {
        call.args[1].value
        for call in ast.walk(tree)
        if isinstance(call, ast.Call) and ast.unparse(call.func) in ("hasattr", "getattr") and len(call.args) > 1
        if isinstance(call.args[1], ast.Constant) and isinstance(call.args[1].value, str)
    }


def all_names() -> list[str]:
    """Every name used or asked for, in order."""
    used = {name for file in RECEIVERS for name, _ in used_names(file)}
    return sorted(used | {name for file in RECEIVERS for name in guards(file)} | set(CONTROLS))


def main() -> None:
    """Downloads the wheels and writes the table."""
    rows = []
    with TemporaryDirectory() as folder:
        for wheel in WHEELS:
            place = Path(folder, hashlib.sha256(wheel.encode()).hexdigest()[:8])
            command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(place), wheel]
            subprocess.run(command, check=True)
            (path,) = place.glob("*.whl")
            rows.append(_row(path))
    TABLE.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


def _row(path: Path) -> dict[str, object]:
    with zipfile.ZipFile(path) as archive:
        (binary,) = (archive.read(name) for name in archive.namelist() if name.endswith((".so", ".pyd")))
        (package,) = (
            archive.read(name) for name in archive.namelist() if name.count("/") == 1 and name.endswith("__init__.py")
        )
    # a name may be the end of a longer one: linkers keep such strings once
    has = [name for name in all_names() if name.encode() + b"\0" in binary or f"\n{name} = ".encode() in package]
    return {
        "wheel": path.name,
        "version": path.name.split("-")[1],
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "has": has,
        "lacks": [name for name in all_names() if name not in has],
    }


if __name__ == "__main__":
    main()
