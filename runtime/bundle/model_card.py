"""The model card of a bundle: what it is for, who trained it, how it did on people it never saw, and where it fails."""

from __future__ import annotations

from collections.abc import Iterator

from blastscope.runtime.bundle.manifest import Manifest, Patients
from blastscope.runtime.bundle.uncertainty import Uncertainty

CARD_FILE = "model_card.md"


def model_card(manifest: Manifest) -> str:
    """The model card of a bundle as Markdown: purpose, patients, scores and limits.

    Parameters
    ----------
    manifest : Manifest
        All that the card says comes from it.

    Returns
    -------
    str
    """
    return "\n".join(line for part in (_purpose, _training, _scores, _limits) for line in part(manifest)) + "\n"


def _purpose(manifest: Manifest) -> Iterator[str]:
    crop = manifest.crop
    yield f"# {manifest.name}"
    yield ""
    yield "Three voters call a white blood cell, cut out and on black, normal (HEM) or a malignant lymphoblast (ALL), as in"
    yield 'Liu and Long, "Acute lymphoblastic leukemia cells image analysis with deep bagging ensemble learning", ISBI 2019'
    yield "C-NMC challenge."
    yield ""
    yield "**For research use, not a medical device.** No call of it may decide on anybody's treatment."
    yield ""
    yield f"- Backbone: {manifest.backbone}. Crops of {crop.side_px} x {crop.side_px} pixels, scale '{crop.scale}'."
    yield f"- Made {manifest.created}, format {manifest.format}."
    precisions = ", ".join(entry.precision for entry in manifest.graphs if entry.models == "ensemble")
    yield f"- Precisions: {precisions}."
    yield ""


def _training(manifest: Manifest) -> Iterator[str]:
    training = manifest.training
    yield "## Who was in"
    yield ""
    if training.data_sha256 is None:
        yield "Nobody: its weights are random, and its calls mean nothing."
    else:
        yield f"- Cells with the digest `{training.data_sha256}`, split by {training.split}."
        yield f"- Trained on {_people(training.patients)}."
        if training.patients.validation:
            yield f"- Held out: {', '.join(training.patients.validation)}."
        else:
            yield "- Nobody was held out: figures of held-out people are of ensembles that the same recipe trained on others."
    yield ""


def _people(patients: Patients) -> str:
    return f"{len(patients.training)} patients: {', '.join(patients.training)}"


def _scores(manifest: Manifest) -> Iterator[str]:
    yield "## How it did on people it never saw"
    yield ""
    found = manifest.uncertainty
    if found:
        yield from _uncertainty(found)
    for row in manifest.scores:
        figures = f"weighted F1 {row.weighted_f1:.3f}, AUROC {row.auroc:.3f}"
        yield f"- {row.precision}, {row.cells} cells of {row.patients} patients: {figures}."
    if not found and not manifest.scores:
        yield "Not known: it was measured on nobody who was held out."
    yield ""


def _uncertainty(found: Uncertainty) -> Iterator[str]:
    yield f"{found.cells} cells of {found.hem_people} normal people and {found.all_people} with ALL, with 95 % intervals:"
    yield ""
    for name, figure in (
        ("Weighted F1", found.weighted_f1),
        ("AUROC", found.auroc),
        ("Sensitivity (ALL)", found.sensitivity),
        ("Specificity (HEM)", found.specificity),
    ):
        yield f"- {name}: {figure:.3f}"
    yield f"- Expected calibration error, people alike: {found.calibration_error:.3f}"
    sets = found.sets
    yield (
        f"- Sets at {sets.level:.0%} held the right class for {sets.hem_coverage:.1%} of HEM and "
        f"{sets.all_coverage:.1%} of ALL cells; {sets.both:.0%} held both classes"
    )
    if found.novelty:
        yield f"- Refused as unlike the training's cells: {found.novelty.refused:.1%} of their cells"
    if found.smear:
        yield f"- People called right from all of their cells: {found.smear.right} of {found.smear.people}"


def _limits(manifest: Manifest) -> Iterator[str]:
    yield "## Where it fails"
    yield ""
    yield "- On lymphoid cells only: it knows no other kinds. Calls on whole frames are outside what was validated."
    if manifest.uncertainty and manifest.uncertainty.novelty:
        yield "- Cells of other stains, scales and scanners than the training's are refused as unlike-training: nobody knows"
        yield "  what a call on one is worth."
    else:
        yield "- It doesn't notice cells of other stains, scales and scanners than the training's: it calls them like any."
    yield "- Recipes are chosen by the scores of the people at hand: expect less on new ones."
    yield "- Intervals are of the people who were held out. A site's own may lie outside: `blastscope validate` measures them."
    yield ""
