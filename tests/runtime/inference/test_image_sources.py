"""What a cell may be handed over as: an array, a path, the bytes of a file, a PIL image."""

from __future__ import annotations

import copy
import io
import os
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from blastscope.runtime.errors import DataError, ImageError, UsageError
from blastscope.runtime.io.paths import find_images
from blastscope.runtime.session import Scope, open_bundle
from blastscope.runtime.types import Prediction

Ask = Callable[[Any], Prediction]


@pytest.fixture
def scope(tiny_bundle: Any, tmp_path: Path) -> Iterator[Scope]:
    with open_bundle(tiny_bundle.make(), cache_dir=tmp_path / "cache") as opened:
        yield opened


@pytest.fixture(params=["classify", "submit", "classify_many"])
def ask(request: pytest.FixtureRequest, scope: Scope) -> Ask:
    return {
        "classify": scope.classify,
        "submit": lambda image: scope.submit(image).result(),
        "classify_many": lambda image: scope.classify_many([image])[0],
    }[request.param]


def encoded(pixels: NDArray[np.uint8], kind: str = "PNG", **words: Any) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind, **words)
    return file.getvalue()


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "WEBP"])
def test_a_cell_gets_one_call_whatever_it_is_handed_over_as(ask: Ask, tiny_bundle: Any, tmp_path: Path, kind: str) -> None:
    pixels = tiny_bundle.cell(3)
    content = encoded(pixels, kind, **({"lossless": True} if kind == "WEBP" else {}))
    path = tmp_path / "cell.any"
    path.write_bytes(content)
    wanted = ask(pixels)
    assert wanted.label
    with Image.open(path) as image:
        for source in (path, str(path), content, bytearray(content), memoryview(content), image, Image.fromarray(pixels)):
            assert ask(source) == wanted


def test_files_and_bytes_are_read_strictly(ask: Ask, tiny_bundle: Any, tmp_path: Path) -> None:
    whole = encoded(tiny_bundle.cell(3))
    gray = encoded(np.zeros((9, 9), np.uint8))
    for content, code in ((whole[: len(whole) // 2], "undecodable"), (gray, "not-8-bit-rgb"), (b"", "undecodable")):
        path = tmp_path / "cell.png"
        path.write_bytes(content)
        for source in (content, path):
            refusal = ask(source).refusal
            assert refusal
            assert refusal.code == code
    missing = ask(tmp_path / "gone.png").refusal
    assert missing
    assert "can't be read: No such file" in missing.detail


def test_a_pil_image_is_seen_as_its_file_is(scope: Scope, tiny_bundle: Any) -> None:
    """Upright by EXIF, and without an alpha that hides nothing."""
    pixels = np.zeros((120, 90, 3), np.uint8)
    pixels[20:100, 4:84] = tiny_bundle.cell(3)
    pixels[30:40, 30:60] //= 2  # so that it looks otherwise when it is turned
    turned = Image.Exif()
    turned[0x0112] = 6  # to the right
    for content in (encoded(pixels, exif=turned), encoded(np.dstack([pixels, np.full((120, 90), 255, np.uint8)]))):
        wanted = scope.classify(content)
        assert wanted.box
        with Image.open(io.BytesIO(content)) as image:
            assert scope.classify(image) == wanted
    assert scope.classify(encoded(pixels, exif=turned)).box != scope.classify(pixels).box


def pillow_images(tmp_path: Path) -> Iterator[tuple[Image.Image, str]]:
    pixels = np.zeros((9, 9, 3), np.uint8)
    yield Image.fromarray(pixels).convert("L"), "8-bit RGB, not 'L'"
    glass = Image.fromarray(pixels).convert("RGBA")
    glass.putpixel((4, 4), (0, 0, 0, 254))
    yield glass, "alpha isn't opaque everywhere"
    clear = Image.fromarray(pixels)
    clear.info["transparency"] = (0, 0, 0)
    yield clear, "transparent colour"
    stack = tmp_path / "stack.tif"
    Image.fromarray(pixels).save(stack, save_all=True, append_images=[Image.fromarray(pixels)])
    yield Image.open(stack), r"2 frames: hand over the one that you mean"
    short = tmp_path / "short.png"
    short.write_bytes(encoded(np.random.default_rng(0).integers(0, 255, (40, 40, 3)).astype(np.uint8))[:900])
    yield Image.open(short), "can't be decoded: "


def test_a_pil_image_is_not_converted_silently(scope: Scope, tmp_path: Path) -> None:
    for image, problem in pillow_images(tmp_path):
        with image:
            for call in (scope.classify, scope.submit):
                with pytest.raises(ImageError, match=problem):
                    call(image)
            refusal = scope.classify_many([image])[0].refusal
            assert refusal
            assert refusal.code == "not-8-bit-rgb"


def test_one_image_is_not_taken_for_many(scope: Scope, tiny_bundle: Any) -> None:
    image = tiny_bundle.cell()
    for single in (image, "cell.png", Path("cell.png"), b"bytes", image[0]):
        with pytest.raises(UsageError, match="one image is given where several are asked for: put it into a list"):
            scope.classify_many(single)
    with pytest.raises(UsageError, match="images must be iterable, not 'Image'"):
        scope.classify_many(Image.fromarray(image))  # type: ignore[arg-type]
    assert len(scope.classify_many(np.stack([image, image]))) == 2  # (N, H, W, 3) is many
    assert scope.classify_many([]) == []


def test_a_folder_is_the_images_below_it(scope: Scope, tiny_bundle: Any, tmp_path: Path) -> None:
    folder = tmp_path / "cells"
    (folder / "deep").mkdir(parents=True)
    (folder / "empty").mkdir()
    paths = [folder / "b.png", folder / "deep" / "a.png"]
    for path in paths:
        path.write_bytes(encoded(tiny_bundle.cell(1)))
    (folder / "notes.txt").write_text("no image")
    for given in (folder, str(folder), [folder], iter([folder / "b.png", folder / "deep"])):
        assert [path for path, prediction in scope.classify_files(given) if prediction.label] == paths
    assert find_images(folder) == find_images([folder]) == paths
    ((path, prediction),) = scope.classify_files([folder / "empty"])
    assert path == folder / "empty"
    assert prediction.refusal
    assert "without an image" in prediction.refusal.detail
    with pytest.raises(DataError, match="holds no image"):
        find_images(folder / "empty")
    with pytest.raises(UsageError, match="is one path where several are asked for"):
        scope.classify_files(folder / "b.png")


def test_pixels_that_are_masked_have_no_call(scope: Scope, tiny_bundle: Any) -> None:
    pixels = tiny_bundle.cell(3)
    assert scope.classify(np.ma.masked_array(pixels)) == scope.classify(pixels)
    with pytest.raises(ImageError, match=r"not some of them masked: fill them, with image\.filled\(0\)"):
        scope.classify(np.ma.masked_array(pixels, mask=pixels > 200))


def test_a_path_like_object_of_bytes_is_a_path(scope: Scope, tiny_bundle: Any, tmp_path: Path) -> None:
    (tmp_path / "cells").mkdir()
    (tmp_path / "cells" / "cell.png").write_bytes(encoded(tiny_bundle.cell(3)))
    with os.scandir(os.fsencode(tmp_path / "cells")) as entries:
        assert [scope.classify(entry).label for entry in entries] == [scope.classify(tiny_bundle.cell(3)).label]  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["pixel_um", "stated_um"])
@pytest.mark.parametrize("scale", [float("nan"), float("inf"), -0.1, 1e9, True, "0.1"])
def test_a_scale_that_cannot_be_is_refused_from_whichever_argument(scope: Scope, name: str, scale: Any) -> None:
    frame = np.full((64, 64, 3), 230, np.uint8)
    with pytest.raises(UsageError, match=f"^{name} is .*micrometres per pixel"):
        scope.examine(frame, **{name: scale})
    assert scope.examine(frame, stated_um=0).counts["cells"] == 0  # Micro-Manager's word for none


def test_what_is_no_path_is_told_by_the_arguments_name(scope: Scope, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="place is 5: it must be a path"):
        scope.open_archive(5)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="resume is 5: it must be a path"):
        scope.examine_files([], resume=5)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="cache_dir is '': it must be a path"):
        open_bundle(cache_dir="")
    with pytest.raises(UsageError, match="require_signature is 5: it must name public keys"):
        open_bundle(cache_dir=tmp_path, require_signature=5)  # type: ignore[arg-type]


@pytest.mark.parametrize("send", [pickle.dumps, copy.copy, copy.deepcopy])
def test_a_handle_is_not_copied_nor_sent_to_another_process(scope: Scope, send: Callable[[Any], Any]) -> None:
    with pytest.raises(UsageError, match="a handle can't be copied or sent to another process: open the bundle there"):
        send(scope)


def test_a_program_may_leave_the_folder_that_its_paths_count_from(
    tiny_bundle: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle, elsewhere = tiny_bundle.make(), tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(bundle.parent)
    with open_bundle(bundle.name, cache_dir="cache") as opened:
        monkeypatch.chdir(elsewhere)
        assert opened.classify(tiny_bundle.cell(3)).label
        opened.reopen()
        assert opened.classify(tiny_bundle.cell(3)).label
    assert list(elsewhere.iterdir()) == []
    assert list((bundle.parent / "cache" / "engines").iterdir())
