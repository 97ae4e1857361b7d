"""`blastscope explain`: which parts of a cell its call rests on, and which labelled cells are like it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from io import BytesIO
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Annotated

import typer

from blastscope.cli.options import (
    Archive,
    BundlePath,
    Json,
    NearestCount,
    OnBlack,
    PixelUm,
    SessionArguments,
    check_scale,
    named_images,
    opened,
    with_session_arguments,
)
from blastscope.cli.terminal import echo, logged_to_terminal, say
from blastscope.runtime.io.printable import printable

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from blastscope.runtime.frames.report.thumbnails import Nearest
    from blastscope.runtime.frames.types import FrameReport
    from blastscope.runtime.inference.explanation import Explanation
    from blastscope.runtime.inference.neighbours import Neighbour
    from blastscope.runtime.io.slides.slide import Slide
    from blastscope.runtime.session import Scope
    from blastscope.runtime.types import Box, Refusal


@with_session_arguments
def explain(
    paths: Annotated[list[Path], typer.Argument(help="Images of single cells on black, and folders of them.")],
    *,
    out: Annotated[Path | None, typer.Option(help="Folder for a picture of each cell, NAME.explained.png.")] = None,
    bundle: BundlePath = None,
    engine: SessionArguments,
    on_black: OnBlack = False,
    pixel_um: PixelUm = None,
    archive: Archive = None,
    nearest: NearestCount = 5,
    as_json: Json = False,
) -> None:
    """Cover each part of a cell in turn, and show how much its call changes. Exits 1 when an image was refused."""
    from blastscope.runtime.errors import DataError
    from blastscope.runtime.frames.report.theme import names_of
    from blastscope.runtime.frames.report.writers import check_places, file_names
    from blastscope.runtime.io.image import read_image
    from blastscope.runtime.types import Refusal

    check_scale(pixel_um, on_black=on_black)
    images = named_images(paths)
    titles, refused = names_of(images), 0
    names = file_names(titles)
    if out and out.is_file():
        raise DataError(out, "is a file, where a folder is asked for: name another place")
    if out:
        out.mkdir(parents=True, exist_ok=True)
        check_places([out / f"{names[images[0]]}.explained.png"], images)
    with opened(bundle, **engine.words(), workload="throughput") as scope, nearest_in(scope, archive, nearest) as find_alike:
        for path in images:
            image = cut_middle_cell(scope, path, pixel_um) if on_black else read_image(path)
            refusal = image if isinstance(image, Refusal) else scope.classify(image).refusal
            if refusal or isinstance(image, Refusal):
                assert refusal is not None
                refused += 1
                row = {"path": str(path), "picture": None, "refusal": refusal.code, "detail": refusal.detail}
                _print(path, row, f"{refusal.code}: {refusal.detail}", as_json=as_json)
                continue
            alike = find_alike(image) if find_alike else None
            explanation = scope.explain(image)
            picture = out / f"{names[path]}.explained.png" if out else None
            if picture:
                _draw(picture, explanation, titles[path], alike or ())
            known = {"path": str(path), "picture": str(picture) if picture else None, "refusal": None, "detail": None}
            rows = {} if alike is None else {"nearest": [one.row() for one in alike]}
            told = _sentence(explanation.support, explanation.boxes, alike or (), picture)
            _print(path, {**known, **explanation.row(), **rows}, told, as_json=as_json)
    if refused:
        echo(f"{refused} of {len(images)} images refused", err=True)
        raise typer.Exit(1)


@contextmanager
def nearest_in(scope: Scope, place: Path | None, count: int, *, at_once: bool = False) -> Iterator[Nearest | None]:
    """What gives those labelled cells that are most like a cell: of the folder or table `place`, else of the bundle's index.

    They are opened for the first cell, or `at_once`; what can't be used is told then. None where no cell is asked for, or where
    there is neither a place nor an index.
    """
    from blastscope.runtime.errors import DataError

    if place is not None and not place.exists():
        raise DataError(place, "no such folder or table of labelled cells")
    if not count or (place is None and scope.bundle.manifest.neighbours is None):
        yield None
        return
    with ExitStack() as stack:
        found: list[Nearest] = []

        def nearest(image: NDArray[np.uint8]) -> Sequence[Neighbour]:
            if not found:
                found.append(_open_nearest(stack, scope, place, count))
            return found[0](image)

        if at_once:
            found.append(_open_nearest(stack, scope, place, count))
        yield nearest


def _open_nearest(stack: ExitStack, scope: Scope, place: Path | None, count: int) -> Nearest:
    """Opens labelled cells until `stack` is left. Without a place, what this machine lacks for it is no error."""
    from blastscope.runtime.errors import UnavailableError

    try:
        with logged_to_terminal():
            archive = stack.enter_context(scope.open_archive(place))
    except UnavailableError as error:
        if place is not None:
            raise
        say(f"cells of the training that are alike can't be told: {error}")
        return lambda _: ()
    if archive.left_out:
        path, reason = archive.left_out[0]
        say(f"left out of '{place}': {len(archive.left_out)} cells, the first '{path}': {reason}")
    return partial(archive.nearest, count=count)


def _draw(place: Path, explanation: Explanation, title: str, alike: Sequence[Neighbour]) -> None:
    from blastscope.runtime.frames.report.explanation_image import draw_explanation
    from blastscope.runtime.io.atomic import write_content

    content = BytesIO()
    draw_explanation(explanation, title, alike).save(content, "PNG")
    write_content(place, content.getvalue())


def cut_middle_cell(scope: Scope, path: Path, pixel_um: float | None) -> NDArray[np.uint8] | Refusal:
    """The cell nearest to a picture's middle, on black as the networks see it; or why there is none."""
    from blastscope.runtime.frames.cell_crop import cut_from
    from blastscope.runtime.frames.types import FrameSpecification
    from blastscope.runtime.types import Refusal

    cut: list[NDArray[np.uint8]] = []

    def on_frame(scan: Slide, report: FrameReport) -> None:
        cell = report.middle_cell
        if cell is not None and cell.found.refusal is None and report.parameters is not None:
            cut.append(cut_from(scan, cell.found, report.parameters, FrameSpecification()))

    (report,) = scope.examine_files([path], pixel_um=pixel_um, on_frame=on_frame)
    if cut:
        return cut[0]
    cell = report.middle_cell
    none = Refusal("empty", "no white cell was found in the picture")
    return report.refusal or (cell.refusal if cell else None) or none


def _sentence(support: Sequence[float], boxes: Sequence[Box], alike: Sequence[Neighbour], picture: Path | None) -> str:
    strongest = max(range(len(support)), key=support.__getitem__)
    x0, y0, x1, y1 = boxes[strongest]
    told = (
        f"the square at {x0},{y0} to {x1},{y1} of the crop supports the call most, by {support[strongest]:.2f} of log odds "
        f"(median square {median(support):.2f})"
    )
    if alike:
        from blastscope.runtime.inference.neighbours import in_words

        each = (f"{one.cell.label.upper()} of {one.cell.who} at {one.distance:.2f}" for one in alike)
        told += f"; labelled cells most like it: {in_words(alike)} ({'; '.join(each)})"
    return told + (f"; written: {picture}" if picture else "")


def _print(path: Path, row: Mapping[str, object], text: str, *, as_json: bool) -> None:
    if as_json:
        echo(json.dumps(row))
    else:
        echo(f"{printable(path)}  {printable(text)}")


VERBS = (explain,)
