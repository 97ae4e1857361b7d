"""Bundles that can't be used, each for one reason: what libblastscope and Python must both refuse."""

from __future__ import annotations

import json
import shutil
import zipfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from blastscope.runtime.bundle import read_bundle
from blastscope.runtime.bundle.archive import pack
from blastscope.runtime.io.hashing import file_sha256

NEWER = (10, 11)  # of the texts: those of a later format
TEXTS: list[Callable[[str], str | bytes]] = [
    lambda text: text[:-20],
    lambda text: text.replace('"name"', '"name": "twice", "name"', 1),
    lambda text: text.replace('"seed": 0', '"seed": NaN'),
    lambda text: text.replace('"seed": 0', '"seed": 1e999'),
    lambda text: "\ufeff" + text,
    lambda text: text.encode()[:50] + b"\xff" + text.encode()[50:],
    lambda text: f"[{text}]",
    lambda text: "[" * 5000,
    lambda text: "",
    lambda text: text + " " * 2**23,
    lambda text: text.replace('"format": "1.5"', '"format": "1.6"'),
    lambda text: text.replace('"format": "1.5"', '"format": "2.0"'),
    lambda text: text.replace('"format": "1.5"', '"format": "0.9"'),
    lambda text: text.replace('"format": "1.5"', '"format": "01.5"'),
    lambda text: text.replace('"format": "1.5"', '"format": "1.2"'),
    lambda text: text.replace('"config": {}', f'"config": {{"a": {[0] * 100_001}}}'),
    lambda text: text.replace('"config": {}', f'"config": {"[" * 150}{"]" * 150}'),
    lambda text: text.replace("2026-11-23T01:00:00Z", "2026-11-23"),
    lambda text: text.replace("fp32/ensemble.onnx", "../ensemble.onnx"),
]
DAMAGES = ["a flipped bit", "a longer file", "a missing file", "another file", "a link", "no manifest"]
UNFIT = [
    *("a subgraph", "another domain", "an unknown operator", "a fixed batch", "another input", "an output too many"),
    *("weights elsewhere", "a weight that is no number", "much memory", "an old version"),
    *("a window behind the picture", "a window behind a border that counts", "slopes in a row", "a group normalization"),
    *("a norm over no axes", "a filter of smaller pictures", "weights of what lies outside"),
]


def write_text(bundle: Path, number: int) -> None:
    """Gives the bundle another manifest.json, the one of `TEXTS` with that number."""
    text = (bundle / "manifest.json").read_text(encoding="utf-8")
    content = TEXTS[number](text)
    assert content != text
    (bundle / "manifest.json").write_bytes(content if isinstance(content, bytes) else content.encode())


def damage(bundle: Path, kind: str) -> None:
    """Damages the folder; `kind` is one of `DAMAGES`."""
    golden, graph = bundle / "golden.safetensors", bundle / "fp32" / "ensemble.onnx"
    data = bytearray(graph.read_bytes())
    match kind:
        case "a flipped bit":
            data[len(data) // 2] ^= 1
            graph.write_bytes(data)
        case "a longer file":
            graph.write_bytes(data + b"x")
        case "a missing file":
            golden.unlink()
        case "another file":
            (bundle / ".hidden").write_bytes(b"")
        case "a link":
            elsewhere = bundle.parent / f"{bundle.name}-elsewhere"
            shutil.move(golden, elsewhere)
            golden.symlink_to(elsewhere)
        case "no manifest":
            (bundle / "manifest.json").unlink()


def write_bad_zips(good: Path, folder: Path) -> None:
    """Writes zips into `folder` that can't be opened, each made from the zip `good`."""
    content = good.read_bytes()
    names = zipfile.ZipFile(good).namelist()
    bad: dict[str, bytes] = {
        "cut off": content[:-30],
        "damaged": content[: len(content) // 2] + b"\0\1\2\3" + content[len(content) // 2 + 4 :],
        "no zip": b"PK\3\4 and so on",
        "empty": b"",
    }
    for name, data in bad.items():
        (folder / f"{name}.zip").write_bytes(data)
    for name, (renamed, compression) in {
        "climbs": ("../golden.safetensors", zipfile.ZIP_STORED),
        "absolute": ("/golden.safetensors", zipfile.ZIP_STORED),
        "backslash": ("a\\golden.safetensors", zipfile.ZIP_STORED),
        "other compression": ("golden.safetensors", zipfile.ZIP_LZMA),
        "more than listed": ("extra", zipfile.ZIP_STORED),
    }.items():
        with zipfile.ZipFile(good) as source, zipfile.ZipFile(folder / f"{name}.zip", "w", compression) as sink:
            for member in names:
                if member != "golden.safetensors" or name == "more than listed":
                    sink.writestr(member, source.read(member))
            sink.writestr(renamed, source.read("golden.safetensors"))
    for name, letter in {"begins with zero": b"\0", "a line feed": b"\n"}.items():
        extra = (folder / "more than listed.zip").read_bytes()
        (folder / f"{name}.zip").write_bytes(extra.replace(b"extra", letter + b"xtra"))
    with zipfile.ZipFile(folder / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as sink:
        sink.writestr("manifest.json", b" " * 10**7)


def replace_graph(bundle: Path, kind: str) -> None:
    """Replaces the graph by one that is refused, and lists it as it is; `kind` is one of `UNFIT`."""
    path = bundle / "fp32" / "ensemble.onnx"
    model = onnx.load(path)
    _spoil(model, kind)
    path.write_bytes(model.SerializeToString())
    manifest = json.loads((bundle / "manifest.json").read_text(encoding="utf-8"))
    manifest["graphs"][0] |= {"sha256": file_sha256(path), "size": path.stat().st_size}
    (bundle / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")


def _spoil(model: onnx.ModelProto, kind: str) -> None:
    graph = model.graph
    match kind:
        case "a subgraph":
            graph.node.append(helper.make_node("If", ["crops"], ["x"], then_branch=graph, else_branch=graph))
        case "another domain":
            graph.node[0].domain = "com.example"
        case "an unknown operator":
            graph.node.append(helper.make_node("Loop", [], ["x"]))
        case "a fixed batch":
            graph.input[0].type.tensor_type.shape.dim[0].dim_value = 2
        case "another input":
            graph.input[0].name = "images"
        case "an output too many":
            graph.output.append(helper.make_tensor_value_info("more", TensorProto.FLOAT, ["N"]))
        case "weights elsewhere":
            graph.initializer[0].data_location = TensorProto.EXTERNAL
        case "a weight that is no number":
            bad = numpy_helper.to_array(graph.initializer[0]).astype(np.float32).copy()
            bad.reshape(-1)[:1] = np.nan
            graph.initializer.append(numpy_helper.from_array(bad, "bad"))
            graph.initializer.append(numpy_helper.from_array(np.array([1, np.nan], np.float32), "worse"))
        case "much memory":
            graph.initializer.append(numpy_helper.from_array(np.array([2**20, 2**10], np.int64), "sides"))
            graph.node.insert(0, helper.make_node("ConstantOfShape", ["sides"], ["huge"]))
        case "an old version":
            model.opset_import[0].version = 9
        case "a window behind the picture":
            window = {"kernel_shape": [2, 2], "strides": [2, 2], "pads": [1] * 4, "ceil_mode": 1}
            graph.initializer.append(numpy_helper.from_array(np.zeros((1, 1, 7, 7), np.float32), "map"))
            graph.node.append(helper.make_node("MaxPool", ["map"], ["pooled"], **window))
        case "a window behind a border that counts":
            window = {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1] * 4, "ceil_mode": 1, "count_include_pad": 1}
            graph.initializer.append(numpy_helper.from_array(np.zeros((1, 1, 6, 6), np.float32), "map"))
            graph.node.append(helper.make_node("AveragePool", ["map"], ["pooled"], **window))
        case "slopes in a row":
            graph.initializer.append(numpy_helper.from_array(np.zeros((1, 7, 7, 7), np.float32), "maps"))
            graph.initializer.append(numpy_helper.from_array(np.ones(7, np.float32), "slopes"))
            graph.node.append(helper.make_node("PRelu", ["maps", "slopes"], ["bent"]))
        case "a norm over no axes":
            graph.initializer.append(numpy_helper.from_array(np.zeros((1, 7), np.float32), "row"))
            graph.node.append(helper.make_node("ReduceL2", ["row"], ["lengths"], noop_with_empty_axes=1))
        case "a filter of smaller pictures" | "weights of what lies outside":
            name, mode = ("antialias", "linear") if kind.startswith("a filter") else ("exclude_outside", "cubic")
            graph.initializer.append(numpy_helper.from_array(np.zeros((1, 1, 8, 8), np.float32), "map"))
            graph.initializer.append(numpy_helper.from_array(np.array([1, 1, 0.5, 0.5], np.float32), "halves"))
            graph.node.append(helper.make_node("Resize", ["map", "", "halves"], ["smaller"], mode=mode, **{name: 1}))
        case "a group normalization":
            graph.initializer.append(numpy_helper.from_array(np.zeros((1, 7, 7, 7), np.float32), "maps"))
            graph.initializer.append(numpy_helper.from_array(np.ones(7, np.float32), "ones"))
            graph.node.append(helper.make_node("GroupNormalization", ["maps", "ones", "ones"], ["normal"], num_groups=7))


def write_damaged_bundles(good: Path, folder: Path) -> int:
    """Writes one bundle of each kind into `folder`, made from the folder `good`; the number of them."""
    folder.mkdir()
    for place, change in enumerate(_changes()):
        copied = folder / f"{place:03}"
        shutil.copytree(good, copied)
        change(copied)
    packed = pack(read_bundle(good), folder.parent / "good.zip")
    write_bad_zips(packed, folder)
    return sum(1 for _ in folder.iterdir())


def _changes() -> Iterator[Callable[[Path], Any]]:
    for number in range(len(TEXTS)):
        yield partial(write_text, number=number)
    for kind in DAMAGES:
        yield partial(damage, kind=kind)
    for kind in UNFIT:
        yield partial(replace_graph, kind=kind)
