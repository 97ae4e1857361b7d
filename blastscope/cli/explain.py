"""`blastscope explain`: which parts of a cell its call rests on."""

from __future__ import annotations

import json
from io import BytesIO
from pathlib import Path
from typing import Annotated

import typer

from blastscope.cli.options import BackendName, BundlePath, DeviceName, Json, PrecisionName, Threads, UnlikeTraining
from blastscope.cli.session import opened
from blastscope.cli.terminal import echo, say
from blastscope.runtime.io.printable import printable


def explain(
    paths: Annotated[list[Path], typer.Argument(help="Images of single cells on black, and folders of them.")],
    *,
    out: Annotated[Path | None, typer.Option(help="Folder for a picture of each cell, NAME.explained.png.")] = None,
    bundle: BundlePath = None,
    device: DeviceName = "auto",
    precision: PrecisionName = "auto",
    backend: BackendName = "auto",
    threads: Threads = None,
    unlike_training: UnlikeTraining = "refuse",
    as_json: Json = False,
) -> None:
    """Cover each part of a cell in turn, and show how much its call changes. Exits 1 when an image was refused."""
    from blastscope.runtime.frames.report.explanation_image import draw_explanation
    from blastscope.runtime.frames.report.theme import names_of
    from blastscope.runtime.io.atomic import write_content
    from blastscope.runtime.io.image import read_image
    from blastscope.runtime.io.paths import PassedOver, find_images, left_out
    from blastscope.runtime.types import Refusal

    passed = PassedOver()
    images = find_images(paths, passed=passed)
    for told in left_out(passed):
        say(told)
    names, refused = names_of(images), 0
    if out:
        out.mkdir(parents=True, exist_ok=True)
    engine = {"device": device, "precision": precision, "backend": backend, "threads": threads}
    with opened(bundle, **engine, unlike_training=unlike_training, workload="throughput") as scope:
        for path in images:
            image = read_image(path)
            refusal = image if isinstance(image, Refusal) else scope.classify(image).refusal
            if refusal or isinstance(image, Refusal):
                refused += 1
                _print(path, None, f"{refusal.code}: {refusal.detail}" if refusal else "", as_json=as_json)
                continue
            explanation = scope.explain(image)
            picture = out / f"{names[path].replace('/', '-')}.explained.png" if out else None
            if picture:
                content = BytesIO()
                draw_explanation(explanation, names[path]).save(content, "PNG")
                write_content(picture, content.getvalue())
            row = {"path": str(path), "picture": str(picture) if picture else None, **explanation.row()}
            _print(path, row, _sentence(explanation.support, explanation.boxes, picture), as_json=as_json)
    if refused:
        echo(f"{refused} of {len(images)} images refused", err=True)
        raise typer.Exit(1)


def _sentence(support: tuple[float, ...], boxes: tuple[tuple[int, int, int, int], ...], picture: Path | None) -> str:
    strongest = max(range(len(support)), key=support.__getitem__)
    x0, y0, x1, y1 = boxes[strongest]
    told = f"the square at {x0},{y0} to {x1},{y1} of the crop supports the call most, by {support[strongest]:.2f} of log odds"
    return told + (f"; written: {picture}" if picture else "")


def _print(path: Path, row: dict[str, object] | None, text: str, *, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(row or {"path": str(path), "refusal": text}))
    else:
        echo(f"{printable(path)}  {printable(text)}")


VERBS = (explain,)
