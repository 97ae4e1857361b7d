"""`blastscope inspect`, `verify` and `pack` of a bundle; `sign` and `trust`: signatures, and the keys that check them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table
from rich.text import Text

from blastscope.cli.options import BundleArgument, Json, RequireSignature, bundle_at
from blastscope.cli.terminal import echo, json_text, say, show
from blastscope.runtime.io.printable import for_terminal, printable

if TYPE_CHECKING:
    from blastscope.runtime.bundle import Bundle
    from blastscope.runtime.bundle.entries import DetectorEntry
    from blastscope.runtime.bundle.manifest import CalibrationProvenance, GraphEntry, Manifest
    from blastscope.runtime.bundle.uncertainty import Uncertainty


def inspect(bundle: BundleArgument = None, *, require_signature: RequireSignature = None, as_json: Json = False) -> None:
    """Print what a bundle says of itself, its digests verified."""
    print_bundle(bundle_at(bundle, require_signature), as_json=as_json)


def verify(
    bundle: BundleArgument = None,
    *,
    data: Annotated[Path | None, typer.Option(help="Labelled cells: print the scores of every precision side by side.")] = None,
    csv: Annotated[
        Path | None, typer.Option(help="With --data: CSV file of each cell's call and score, and of those left out, with why.")
    ] = None,
    require_signature: RequireSignature = None,
    as_json: Json = False,
) -> None:
    """Check digests, and the golden sets of networks and detector in every engine here. Exits 1 when one answers otherwise."""
    from blastscope.calibration.compare import CellCall, compare_engines
    from blastscope.runtime.errors import UsageError
    from blastscope.runtime.frames.report.writers import check_places
    from blastscope.runtime.io.printable import write_table

    if csv and not data:
        raise UsageError("--csv goes with --data: without labelled cells there is none to list")
    if csv:
        check_places([csv], [])
    comparison = compare_engines(bundle_at(bundle, require_signature), data)
    if csv:
        write_table(csv, list(CellCall.model_fields), (list(cell.model_dump().values()) for cell in comparison.cells))
        say(f"written: {csv}")
    echo(json_text(comparison) if as_json else comparison.text())
    if not comparison.passed:
        raise typer.Exit(1)


def pack(
    bundle: Annotated[Path, typer.Argument(help="Bundle folder.")],
    out: Annotated[Path, typer.Argument(help="The zip to write.")],
) -> None:
    """Write a bundle as a zip, the same bytes for the same bundle."""
    from blastscope.runtime.bundle import pack as write_zip
    from blastscope.runtime.frames.report.writers import check_places

    check_places([out], [])
    echo(write_zip(bundle_at(bundle), out))


def sign(
    bundle: Annotated[Path, typer.Argument(help="Bundle folder or zip.")],
    *,
    key: Annotated[Path, typer.Option(help="Private key in PEM, without a password: see `blastscope trust new`.")],
    out: Annotated[Path | None, typer.Option(help="The signature to write. Default: beside the bundle, NAME.sig.")] = None,
) -> None:
    """Sign a bundle, and print where the signature lies. It holds for the folder and for the zip that `pack` makes of it."""
    from blastscope.runtime.bundle import sign_bundle, signature_path
    from blastscope.runtime.frames.report.writers import check_places

    out = out or signature_path(bundle)
    check_places([out], [], others=(bundle, key))
    echo(sign_bundle(bundle_at(bundle), key, out))


trust = typer.Typer(no_args_is_help=True, help="Keys of people whose bundles are trusted, and new keys for signing.")


@trust.command()
def add(
    key: Annotated[Path, typer.Argument(help="Public key in PEM.")],
    *,
    name: Annotated[str | None, typer.Option(help="What to call it. Default: the file's name.")] = None,
) -> None:
    """Trust a public key, and print where it is kept. Compare it with its owner's by another way than it came."""
    from blastscope.runtime.bundle.trusted_keys import trust_key

    echo(trust_key(key, name))


@trust.command(name="list")
def list_keys(*, as_json: Json = False) -> None:
    """Print the keys that are trusted, by name, with the SHA-256 of each key's file."""
    from blastscope.runtime.bundle.trusted_keys import trusted_keys
    from blastscope.runtime.io.hashing import file_sha256

    keys = {key: file_sha256(key) for key in trusted_keys()}
    if as_json:
        echo(json.dumps([{"name": key.stem, "path": str(key), "sha256": digest} for key, digest in keys.items()], indent=2))
        return
    for key, digest in keys.items():
        echo(f"{digest}  {printable(key.stem)}")


@trust.command()
def remove(name: Annotated[str, typer.Argument(help="As `list` prints it.")]) -> None:
    """Trust a key no longer, and print which."""
    from blastscope.runtime.bundle.trusted_keys import distrust_key

    echo(distrust_key(name))


@trust.command()
def new(
    path: Annotated[Path, typer.Argument(help="The private key to write, lab.pem; lab.pub lies beside it.")],
) -> None:
    """Make a key for signing, and print the path of its public half, which others trust. Keep the private one offline."""
    from blastscope.runtime.bundle.trusted_keys import make_key

    private, public = make_key(path)
    say(f"written: {private}, for you alone")
    echo(public)


def print_bundle(bundle: Bundle, *, as_json: bool) -> None:
    """What a bundle says of itself."""
    manifest = bundle.manifest
    if as_json:
        typer.echo(json_text(manifest))
        return
    show(Text(for_terminal(f"{manifest.name}: {bundle.path}"), style="bold"), _facts(bundle), _graphs(manifest))
    if manifest.scores:
        show(_scores(manifest))


def _facts(bundle: Bundle) -> Table:
    manifest, facts = bundle.manifest, Table.grid(padding=(0, 2))
    crop, training, point = manifest.crop, manifest.training, manifest.operating_point
    window = f", window {crop.window_px} px" if crop.window_px else ""
    rows = {
        "digest": bundle.digest,
        "format": f"{manifest.format}, made {manifest.created}",
        "backbone": f"{manifest.backbone}, crops {crop.side_px} x {crop.side_px}, scale {crop.scale}{window}",
        "vote": f"{manifest.vote.rule}" + (f", ALL from a score of {point.threshold:.4f}" if point else ""),
        "training": f"{len(training.patients.training)} patients, split by {training.split}, seed {training.seed}",
        "validation": f"{len(training.patients.validation)} patients, {len(training.patients.calibration)} set int8 ranges",
        "golden set": f"{manifest.golden.count} crops, {manifest.golden.source}",
        "gate": manifest.gate,
    }
    if manifest.uncertainty:
        rows |= _held_out(manifest.uncertainty)
    if manifest.calibration and manifest.calibration.int8_share is not None:
        rows["int8"] = _int8(manifest.calibration)
    if manifest.detector:
        rows["detector"] = _detector(manifest.detector)
    if manifest.neighbours:
        rows["neighbours"] = f"{manifest.neighbours.cells} cells of {manifest.neighbours.people} people, without pictures"
    if one := manifest.cascade:
        rows["cascade"] = (
            f"{one.first} alone from {one.threshold:.4f} on, {one.precision}: {100 * one.skipped:.0f} % of the work skipped, "
            f"{100 * one.flip_rate.value:.2f} % of calls changed (below {100 * one.flip_rate_upper:.2f} %)"
        )
    for name, value in rows.items():
        facts.add_row(name, Text(value))
    return facts


def _held_out(found: Uncertainty) -> dict[str, str]:
    """What people who were held out by ensembles of the same recipe showed."""
    figures = (("weighted F1", found.weighted_f1), ("AUROC", found.auroc), ("sensitivity", found.sensitivity))
    scores = [f"{name} {one.value:.3f}" for name, one in (*figures, ("specificity", found.specificity))]
    rows = {"held out": f"{found.hem_people} HEM and {found.all_people} ALL people: {', '.join(scores)}"}
    if found.novelty:
        rows["novelty"] = f"above {found.novelty.limit:.2f} unlike-training: {found.novelty.refused:.1%} of held-out cells"
    if found.smear:
        rows["persons"] = f"{found.smear.right} of {found.smear.people} called right, from {found.smear.least_cells} cells on"
    return rows


def _detector(found: DetectorEntry) -> str:
    """What finds white cells in frames, and how its int8 graph compared."""
    sources = ", ".join(found.sources)
    said = f"white cells from a score of {found.least_score:.3g}, at {found.pixel_um:.4g} µm a pixel, trained on {sources}"
    if found.int8 is None:
        return said
    gate = found.int8.gate
    return f"{said}; int8: {gate.agreement.value:.1%} of {gate.cells} cells found by both graphs"


def _int8(told: CalibrationProvenance) -> str:
    extras = [word for word, is_so in (("corrected", told.corrected), ("equalised", told.equalised)) if is_so]
    floats = f", {', '.join(told.floats)} in fp32" if told.floats else ""
    return f"{', '.join([told.method, *extras])}; {100 * (told.int8_share or 0):.1f} % of the layers' work{floats}"


def _graphs(manifest: Manifest) -> Table:
    table = Table("graph", "models", "precision", "passes", "MB", "tolerance", "flips", "weighted F1 loss", box=None)
    for entry in manifest.graphs:
        size = f"{entry.size / 1e6:.1f}"
        limits = ", ".join(f"{execution} {limit:.2g}" for execution, limit in entry.tolerances.items())
        table.add_row(entry.file, entry.models, entry.precision, str(entry.passes), size, limits, *_gate(entry))
    return table


def _gate(entry: GraphEntry) -> tuple[str, str]:
    if entry.gate is None:
        return "", ""
    return f"{100 * entry.gate.flip_rate.value:.2f} %", f"{entry.gate.f1_drop_points.value:.2f} points"


def _scores(manifest: Manifest) -> Table:
    table = Table("vote on", "weighted F1", "AUROC", "sensitivity", "specificity", box=None)
    for row in manifest.scores:
        figures = (row.weighted_f1, row.auroc, row.sensitivity, row.specificity)
        cells = f"{row.precision}, {row.cells} cells of {row.patients} patients"
        table.add_row(cells, *(f"{figure:.3f}" for figure in figures))
    return table


VERBS = (inspect, verify, pack, sign)
GROUPS = {"trust": trust}
