"""The house rules that a machine can check: which room may know which, what is loaded when, names and sizes."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
from importlib import import_module
from pathlib import Path

import pytest

import blastscope

ROOT = Path(__file__).resolve().parents[2]
ROOMS = ("runtime", "train", "calibration", "export", "benchmarks")
MAY_KNOW = {
    "runtime": {"runtime"},
    "train": {"train", "runtime"},
    "calibration": {"calibration", "runtime"},
    "export": {"export", "train", "calibration", "runtime"},
    "benchmarks": {*ROOMS, "front"},
    "front": {*ROOMS, "front"},  # blastscope/ itself: the facade, the command line and the server
}
RUNTIME_ORDER = (  # each may import those to its right; integrations are on top because they embed the session
    *("integrations", "session", "streaming", "evaluation", "frames", "inference", "backends", "cuda", "bundle"),
    *("crop", "io", "types", "errors"),
)
HEAVY = ("torch", "torchvision", "timm", "sklearn", "scipy", "matplotlib", "onnx", "onnxscript", "tensorrt", "nncf")
REPORT_THEIR_USE = {  # to their makers, where they aren't told not to
    "onnxruntime": "runtime/backends/onnxruntime/cpu.py",
    "openvino": "runtime/backends/openvino/infer_request.py",
    "openvino.tools.ovc": "runtime/backends/openvino/infer_request.py",
}
OBJECT_FILES = {"pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}  # reading one runs what it holds


def _sources() -> Iterator[Path]:
    for room in ROOMS:
        yield from (ROOT / room).rglob("*.py")
    yield from (path for path in (ROOT / "blastscope").glob("*.py"))
    yield from (ROOT / "blastscope" / "cli").rglob("*.py")
    yield from (ROOT / "blastscope" / "serve").rglob("*.py")


SOURCES = sorted(path.relative_to(ROOT).as_posix() for path in _sources())


@cache
def tree(file: str) -> ast.Module:
    return ast.parse((ROOT / file).read_text(encoding="utf-8"))


def room_of(name: str) -> str:
    first = name.split(".")[0]
    return first if first in ROOMS else "front"


def imports(file: str) -> Iterator[tuple[str, int]]:
    """Every module that `file` imports anywhere in it, or names in full in a text, with the line."""
    for node in ast.walk(tree(file)):
        if isinstance(node, ast.Import):
            yield from ((name.name, node.lineno) for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield "." * node.level + (node.module or ""), node.lineno
            if node.module == "blastscope":
                yield from (
                    (f"blastscope.{name.name}", node.lineno) for name in node.names if name.name not in blastscope.__all__
                )
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and re.fullmatch(r"blastscope(\.\w+)+", node.value):
            yield node.value, node.lineno


def functions(file: str) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    yield from (node for node in ast.walk(tree(file)) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


def calls(file: str) -> Iterator[ast.Call]:
    yield from (node for node in ast.walk(tree(file)) if isinstance(node, ast.Call))


def test_the_walk_finds_the_rooms() -> None:
    assert {file.split("/")[0] for file in SOURCES} == {*ROOMS, "blastscope"}
    assert "blastscope.runtime.errors" in {name for name, _ in imports("runtime/io/strict_model.py")}


def test_arrows_point_one_way() -> None:
    assert [
        f"{file}:{line} knows {name}"
        for file in SOURCES
        for name, line in imports(file)
        if name.startswith("blastscope.")
        and room_of(name.removeprefix("blastscope.")) not in MAY_KNOW[room_of(file.replace("/", "."))]
    ] == []


def module_of(file: str) -> tuple[str, ...]:
    """Of 'runtime/bundle/reader.py': ("runtime", "bundle", "reader")."""
    return tuple(file.removeprefix("blastscope/").removesuffix(".py").removesuffix("/__init__").split("/"))


MODULES = {module_of(file) for file in SOURCES if file != "blastscope/__init__.py"}
PACKAGES = sorted({module[:-1] for module in MODULES} - {()})


@cache
def imported_modules(file: str) -> set[tuple[str, ...]]:
    """Our modules that `file` imports, inside functions too, as `module_of` names them."""
    found: set[tuple[str, ...]] = set()
    for node in ast.walk(tree(file)):
        names = [name.name for name in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{name.name}" for name in node.names]  # a name may be a module
        for name in names:
            parts = tuple(name.split(".")[1:]) if name.startswith("blastscope.") else ()
            while parts and parts not in MODULES:
                parts = parts[:-1]
            if parts:
                found.add(parts)
    return found


RUNTIME_FILES = [file for file in SOURCES if file.startswith("runtime/") and file != "runtime/__init__.py"]


def test_the_runtime_holds_these_modules_and_packages_alone() -> None:
    assert {module_of(file)[1] for file in RUNTIME_FILES} == set(RUNTIME_ORDER)


def test_packages_of_the_runtime_import_downwards_only() -> None:
    level = {name: number for number, name in enumerate(RUNTIME_ORDER)}
    assert ("runtime", "cuda", "driver") in imported_modules("runtime/backends/tensorrt/key.py")
    assert [
        f"{file} imports {'.'.join(target)}"
        for file in RUNTIME_FILES
        for target in imported_modules(file)
        if target[:1] != ("runtime",) or level[target[1]] < level[module_of(file)[1]]
    ] == []


@pytest.mark.parametrize("package", PACKAGES, ids=".".join)
def test_no_package_holds_a_cycle_of_modules_or_packages(package: tuple[str, ...]) -> None:
    depth = len(package)
    imported: dict[str, set[str]] = {}
    for file in SOURCES:
        module = module_of(file)
        if module[:depth] == package and len(module) > depth:
            targets = {target[depth] for target in imported_modules(file) if target[:depth] == package and len(target) > depth}
            imported.setdefault(module[depth], set()).update(targets - {module[depth]})
    assert imported
    try:
        TopologicalSorter(imported).prepare()
    except CycleError as error:
        pytest.fail(" imports ".join(reversed(error.args[1])))


def test_nobody_imports_a_bare_room_or_a_relative_module() -> None:
    assert [
        f"{file}:{line} imports {name}"
        for file in SOURCES
        for name, line in imports(file)
        if name.split(".")[0] in ROOMS or name.startswith(".")
    ] == []


def test_no_file_is_named_after_nothing() -> None:
    nameless = {"utils", "util", "helpers", "common", "misc", "base"}
    assert [file for file in SOURCES if nameless & set(file.removesuffix(".py").split("/"))] == []


def test_files_and_functions_stay_small_enough_to_read() -> None:
    lengths = {file: len((ROOT / file).read_text(encoding="utf-8").splitlines()) for file in SOURCES}
    assert {file: length for file, length in lengths.items() if length > 400} == {}
    spans = {f"{file}:{node.name}": (node.end_lineno or 0) - node.lineno + 1 for file in SOURCES for node in functions(file)}
    assert {name: length for name, length in spans.items() if length > 80} == {}


def test_a_function_takes_at_most_five_things_by_position() -> None:
    counts = {
        f"{file}:{node.lineno} {node.name}": len(
            [arg for arg in [*node.args.posonlyargs, *node.args.args] if arg.arg not in ("self", "cls")]
        )
        for file in SOURCES
        for node in functions(file)
    }
    assert {name: count for name, count in counts.items() if count > 5} == {}


def test_nothing_is_read_that_could_run_on_reading() -> None:
    assert [(file, name) for file in SOURCES for name, _ in imports(file) if name.split(".")[0] in OBJECT_FILES] == []
    for file in SOURCES:
        for call in calls(file):
            words = {word.arg: ast.unparse(word.value) for word in call.keywords}
            name = ast.unparse(call.func)
            assert words.get("allow_pickle", "False") == "False", f"{file}:{call.lineno}"
            assert name not in ("eval", "exec"), f"{file}:{call.lineno}"
            # the ImageNet weights come as torch files; with weights_only nothing in them is run
            assert name != "torch.load" or words.get("weights_only") == "True", f"{file}:{call.lineno}"


def test_links_are_followed_by_what_a_loop_of_them_cannot_stop() -> None:
    assert [
        f"{file}:{call.lineno}"
        for file in SOURCES
        if not file.startswith("benchmarks/")  # its paths are the machine's own
        for call in calls(file)
        if ast.unparse(call.func).endswith(".resolve")
    ] == []


def test_no_environment_variable_is_read_below_the_command_line() -> None:
    assert [
        f"{file}:{node.lineno}"
        for file in SOURCES
        if file != REPORT_THEIR_USE["onnxruntime"]  # it sets one, by which the library reports nothing
        if not file.startswith("blastscope/")
        for node in ast.walk(tree(file))
        if isinstance(node, ast.Attribute) and ast.unparse(node) in ("os.environ", "os.getenv", "os.environb")
    ] == []


def test_every_file_opens_by_saying_what_it_gives() -> None:
    assert [file for file in SOURCES if not ast.get_docstring(tree(file))] == []


def test_no_path_of_one_machine_stands_in_the_code() -> None:
    place = re.compile(r"[\"'](?:/work|/root|/home|/Users|/tmp)/")
    assert [file for file in SOURCES if place.search((ROOT / file).read_text(encoding="utf-8"))] == []


# ---- what is loaded when


def loaded_by(code: str) -> set[str]:
    """The top-level modules that a fresh interpreter holds after `code`."""
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\nimport sys\nprint(*sorted({{name.split('.')[0] for name in sys.modules}}))"],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT.parent,  # the installed package, not the folders that happen to be here
    )
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


def modules(room: str) -> list[str]:
    names = [file.removesuffix(".py").removesuffix("/__init__") for file in SOURCES if file.startswith(f"{room}/")]
    return ["blastscope." + name.replace("/", ".") for name in names if not name.endswith("__main__")]


@pytest.mark.parametrize("module", ["blastscope", "blastscope.runtime.session"])
def test_importing_the_library_loads_nothing_heavy(module: str) -> None:
    assert loaded_by(f"import {module}") & {*HEAVY, "onnxruntime"} == set()


def test_the_facade_alone_loads_no_dependency_at_all() -> None:
    assert loaded_by("import blastscope") & {"numpy", "cv2", "pydantic", "openvino", "rich", "typer"} == set()


def test_no_module_of_the_runtime_loads_torch_or_the_tools_of_training() -> None:
    assert loaded_by("\n".join(f"import {module}" for module in modules("runtime"))) & set(HEAVY) == set()


def test_no_room_is_loaded_under_its_bare_name() -> None:
    assert loaded_by("\n".join(f"import {module}" for module in modules("runtime"))) & set(ROOMS) == set()


def test_a_library_that_reports_its_use_is_imported_where_that_is_off() -> None:
    found = {(name, file) for file in SOURCES for name, _ in imports(file) if name in REPORT_THEIR_USE}
    assert found == set(REPORT_THEIR_USE.items())


# ---- names


def test_the_public_names_are_pinned() -> None:
    assert blastscope.__all__ == [
        *("CLASSES", "SHIPPED_BUNDLE", "VOTERS", "BlastscopeError", "Bundle", "FrameReport", "Prediction", "Scope"),
        *("SmearCall", "__version__", "open_bundle", "synthetic_cell"),
    ]
    assert [name for name in blastscope.__all__ if not hasattr(blastscope, name)] == []
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = blastscope.nothing


@pytest.mark.parametrize("package", [name for name in modules("runtime") if (ROOT / name[11:].replace(".", "/")).is_dir()])
def test_every_name_that_a_package_promises_is_there(package: str) -> None:
    module = import_module(package)
    promised = getattr(module, "__all__", [])
    assert [name for name in promised if not hasattr(module, name)] == []
    assert len(set(promised)) == len(promised)


def test_the_links_of_the_import_name_point_at_the_rooms() -> None:
    links = [ROOT / "blastscope" / room for room in ROOMS]
    if not all(link.is_symlink() for link in links):
        pytest.skip("no links here: a zip download, or Windows without them")
    assert [link.resolve() for link in links] == [ROOT / room for room in ROOMS]


def test_names_of_tests_have_at_most_70_characters() -> None:
    names = [name for path in (ROOT / "tests").rglob("*.py") for name in re.findall(r"def (test_\w+)", path.read_text("utf-8"))]
    assert len(names) > 1000
    assert [name for name in names if len(name) > 70] == []
