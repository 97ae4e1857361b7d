"""The C# and Java classes over libblastscope: Python's calls and refusals, typed exceptions, threads, closing; their pages."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from native_bindings import Binding, assert_same_row, write_lines, write_picture
from native_library import SOURCES

from blastscope import SHIPPED_BUNDLE, open_bundle
from blastscope.runtime.bundle import read_bundle, sign_bundle, signature_path
from blastscope.runtime.bundle.trusted_keys import make_key
from blastscope.runtime.crop import Crop, crop_cell
from blastscope.runtime.io.cnmc import scan_dataset
from blastscope.runtime.io.image import read_image
from blastscope.runtime.io.synthetic import synthetic_cell
from blastscope.runtime.session import Scope

CHECKS_HELD = {"csharp": 8, "java": 8}


@pytest.fixture(scope="module", params=["csharp", "java"])
def binding(request: pytest.FixtureRequest, build_binding: Callable[[str], Binding]) -> Binding:
    """The class in one of the languages."""
    return build_binding(request.param)


def expected_row(scope: Scope, image: np.ndarray[Any, np.dtype[np.uint8]]) -> dict[str, Any]:
    """Python's row, with the crop's digest in the place of the audit."""
    cut = crop_cell(image, scope.bundle.manifest.crop)
    crop = hashlib.sha256(cut.pixels.tobytes()).hexdigest() if isinstance(cut, Crop) else None
    row = {**scope.classify(image).row(), "crop": crop}
    del row["audit"]
    return row


class RealCells:
    """Two hundred cells as BMP files, a smear frame among them, and what Python says of each."""

    def __init__(self, cnmc: Path, frame: Path, folder: Path) -> None:
        paths = [cell.path for cell in scan_dataset(cnmc).cells]
        chosen = [*paths[:: len(paths) // 200][:200], frame]
        exact: dict[str, Any] = {"precision": "fp32", "execution": "f32", "cache_dir": folder}
        with open_bundle(device="cpu", backend="openvino", **exact) as python:
            self.pictures, self.rows = [], []
            for number, path in enumerate(chosen):
                image = read_image(path)
                assert isinstance(image, np.ndarray)
                self.pictures.append(write_picture(folder / f"{number}.bmp", image))
                self.rows.append(expected_row(python, image))


@pytest.fixture(scope="module")
def real_cells(cnmc: Path, shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> RealCells:
    """Asked once, for both languages."""
    frame = min((shared_data / "bccd" / "JPEGImages").iterdir())
    return RealCells(cnmc, frame, tmp_path_factory.mktemp("cells"))


def test_real_cells_get_pythons_calls_and_crops(binding: Binding, real_cells: RealCells, tmp_path: Path) -> None:
    listed = write_lines(tmp_path / "list", real_cells.pictures)
    said = binding.run("Checks", "rows", SHIPPED_BUNDLE, tmp_path / "cache", listed)
    rows = [json.loads(line) for line in said.splitlines()]
    assert len(rows) == len(real_cells.rows) == 201
    for ours, theirs in zip(rows, real_cells.rows, strict=True):
        assert_same_row(ours, theirs)
    found = Counter(row["label"] or row["refusal"] for row in rows)
    assert found["all"] > found["hem"] > 20
    assert found["not-on-black"] == 1


def test_what_cant_be_opened_raises_pythons_exceptions(binding: Binding, tiny_bundle: Any, tmp_path: Path) -> None:
    good, damaged, newer = tiny_bundle.make(), tiny_bundle.make(), tiny_bundle.make()
    graph = next(damaged.rglob("*.onnx"))
    graph.write_bytes(graph.read_bytes()[:-1] + b"?")
    manifest = newer / "manifest.json"
    manifest.write_text(re.sub(r'"format": "[\d.]+"', '"format": "9.0"', manifest.read_text("utf-8")), encoding="utf-8")
    waived, wrong = tiny_bundle.make(gate="waived"), tiny_bundle.make(wrong={"fp32": 0.01})
    cases = [
        (good, "opened"), (waived, "UngatedBundle"), (f"{waived}\tallow_ungated=1", "opened"), (wrong, "GoldenMismatch"),
        (damaged, "DigestMismatch"), (newer, "FormatTooNew"), (tmp_path / "nothing", "BundleError"),
        (f"{good}\tdevice=cuda", "DeviceError"), (f"{good}\tdevice=openvino:TPU", "DeviceError"),
        *((f"{good}\t{word}", "UsageError") for word in ("precision=fp64", "execution=f64", "layout=round", "workload=fast")),
        *((f"{good}\t{word}", "UsageError") for word in ("threads=-1", "threads=1025", "queue=-1")),
        (f"{good}\tprecision=fp32\texecution=f32\tlayout=fused\tworkload=latency\tthreads=1\tqueue=9", "opened"),
    ]  # fmt: skip
    listed = write_lines(tmp_path / "list", (line for line, _ in cases))
    said = binding.run("Checks", "open", tmp_path / "cache", listed).splitlines()
    wanted = [name if name == "opened" else binding.exception(name) for _, name in cases]
    assert [re.split(r"[\t ]", line)[0] for line in said] == wanted
    statuses = {name: status for name, status, message in (line.split("\t") for line in said if "\t" in line) if message}
    names = ("UngatedBundle", "GoldenMismatch", "DigestMismatch", "FormatTooNew", "BundleError", "DeviceError", "UsageError")
    assert statuses == dict(zip(map(binding.exception, names), ("34", "33", "31", "32", "30", "42", "20"), strict=True))


def test_signatures_are_required_as_in_python(binding: Binding, tiny_bundle: Any, tmp_path: Path) -> None:
    pytest.importorskip("model_signing", reason="model-signing is not installed")
    bundle, (key, public), (_, stranger) = tiny_bundle.make(), make_key(tmp_path / "lab.pem"), make_key(tmp_path / "other.pem")
    sign_bundle(read_bundle(bundle), key, signature_path(bundle))
    unsigned = tiny_bundle.make()
    cases = [
        (f"{bundle}\trequire_signature={public}", "opened"), (f"{bundle}\trequire_signature={stranger},{public}", "opened"),
        (f"{bundle}\trequire_signature={stranger}", "SignatureError"),
        (f"{unsigned}\trequire_signature={public}", "SignatureError"),
        (f"{bundle}\trequire_signature={tmp_path / 'missing.pub'}", "DataError"),
        (f"{bundle}\trequire_signature=", "UsageError"),
    ]  # fmt: skip
    said = binding.run(
        "Checks", "open", tmp_path / "cache", write_lines(tmp_path / "list", (line for line, _ in cases))
    ).splitlines()
    wanted = [name if name == "opened" else binding.exception(name) for _, name in cases]
    assert [re.split(r"[\t ]", line)[0] for line in said] == wanted
    assert [line.split("\t")[1] for line in said if "\t" in line] == ["35", "35", "22", "20"]


def test_images_threads_and_closing_hold(binding: Binding, tiny_bundle: Any, tmp_path: Path) -> None:
    cell = write_picture(tmp_path / "cell.bmp", synthetic_cell(3, size_px=90))
    said = binding.run("Checks", "hold", tiny_bundle.make(), tmp_path / "cache", cell).splitlines()
    assert [line for line in said if not line.startswith("ok\t")] == []
    assert len(said) == CHECKS_HELD[binding.language]


def test_the_example_prints_label_and_probability(binding: Binding, tiny_bundle: Any, tmp_path: Path) -> None:
    bundle, image = tiny_bundle.make(), synthetic_cell(5)
    formats = ("bmp", "ppm") if binding.language == "csharp" else ("bmp", "png")
    cells = [write_picture(tmp_path / f"cell.{one}", image) for one in formats]
    empty = write_picture(tmp_path / "empty.bmp", np.zeros((40, 40, 3), np.uint8))
    said = binding.run("Classify", bundle, *cells, empty)
    with open_bundle(bundle, device="cpu", backend="openvino", cache_dir=tmp_path) as scope:
        prediction, refused = scope.classify(image), scope.classify(np.zeros((40, 40, 3), np.uint8)).refusal
    assert refused is not None
    called = f"{prediction.label} {prediction.probability:.4f}"
    assert said.splitlines() == [*(f"{cell}\t{called}" for cell in cells), f"{empty}\trefused as empty: {refused.detail}"]
    assert "nothing" in binding.run("Classify", tmp_path / "nothing", cells[0], status=3)
    assert binding.run("Classify", status=2).startswith("usage")


def test_a_missing_library_is_named_with_the_remedy(binding: Binding, tmp_path: Path) -> None:
    nowhere = binding._replace(library=tmp_path / "libblastscope.so")
    said = nowhere.run("Classify", SHIPPED_BUNDLE, tmp_path / "cell.bmp", status=4)
    assert "libblastscope isn't found" in said
    assert ("LD_LIBRARY_PATH" if binding.language == "csharp" else "-Dblastscope.library=") in said


def test_the_program_of_the_page_runs(binding: Binding, tmp_path: Path) -> None:
    page = (SOURCES / binding.language / "README.md").read_text(encoding="utf-8")
    (block,) = re.findall(rf"```{binding.language}\n(.*?)```", page, re.DOTALL)
    source = tmp_path / ("Page.cs" if binding.language == "csharp" else "Page.java")
    source.write_text(block, encoding="utf-8")
    binding.compile(source)
    said = binding.run("Page", SHIPPED_BUNDLE)
    assert re.fullmatch(r"(refused as unlike-training: .*|(hem|all) [\d.]+)\n(\w+ by [\d.E-]+\n){2}", said), said
