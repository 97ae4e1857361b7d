"""`nested_cross_validate`: which of several recipes is best, and a score in which that choice had no part.

For each fold the recipe is chosen by the people of the other folds: two folds are held out at a time, so that an ensemble that
judges one of them for the choice saw no cell of the other. The recipe so chosen is then scored on the fold.

OUT/RECIPE/              the cross validation of each recipe (train/cross_validation.py)
OUT/RECIPE/pairs/1-2     runs that hold out two folds
OUT/choices.json         `RecipeChoices`
OUT/report/              the page and its figures, over all patients, each scored by what the others chose
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from blastscope.runtime.errors import DataError, UsageError
from blastscope.runtime.io.strict_model import StrictModel
from blastscope.train.config import TrainConfig
from blastscope.train.cross_validation import cross_validate, fold_run, pool_folds
from blastscope.train.pipeline import train_ensemble

if TYPE_CHECKING:
    from rich.console import Console

    from blastscope.train.pipeline import Rehearsal
    from blastscope.train.report import RecipeComparison, ReportInput

FILE = "choices.json"
FEWEST_FOLDS = 3  # one is scored, one is judged for the choice, and one trains


class FoldChoice(StrictModel):
    """What was chosen for one fold.

    Attributes
    ----------
    fold : int
        Counted from 1.
    patients : tuple of str
        Who is held out.
    scores : dict of str to float
        Weighted F1 of each recipe on the people of the other folds, as `RecipeChoices.criterion` has it.
    chosen : str
        The recipe with the highest.
    """

    fold: int
    patients: tuple[str, ...]
    scores: dict[str, float]
    chosen: str


class RecipeChoices(StrictModel):
    """OUT/choices.json: which recipe was chosen for which fold, and which is best by all of them.

    Attributes
    ----------
    criterion : str
        By what was chosen.
    best : str
        The recipe with the highest score by its own cross validation: the one to train on everybody.
    scores : dict of str to float
        That score of each recipe. It flatters the best, which was chosen by it.
    folds : tuple of FoldChoice
        One for each fold.
    """

    criterion: str
    best: str
    scores: dict[str, float]
    folds: tuple[FoldChoice, ...]


class _Judged(NamedTuple):
    """Calls on M held-out cells: labels, calls by the vote, whose they are, and their sizes in pixels where measured."""

    labels: NDArray[np.int64]
    calls: NDArray[np.int64]
    people: tuple[str, ...]
    sizes: NDArray[np.float64] | None


def nested_cross_validate(
    data: Path,
    recipes: Mapping[str, TrainConfig],
    out: Path,
    *,
    resume: bool = False,
    cache: Path | None = None,
    console: Console | None = None,
    rehearse: Rehearsal | None = None,
) -> RecipeChoices:
    """Cross-validates recipes, chooses one for each fold by the other folds' people, and reports the scores of what was chosen.

    A recipe is chosen by the vote's weighted F1: at 65 % ALL and as if sizes told nothing where all runs measure sizes (recipes
    with a section `trunk` do), else on the cells as they are. With K folds each recipe is trained K (K + 1) / 2 times.

    Parameters
    ----------
    data : Path
        Folder of C-NMC cells.
    recipes : mapping of str to TrainConfig
        Two or more, by name. Their section `data` is the same.
    out : Path
        Gets a folder for each recipe, the choices and the report.
    resume : bool
        Whether to go on where it was interrupted.
    cache : Path, optional
        Where crops are kept; by default the user's cache.
    console : rich.console.Console, optional
        Gets the progress.
    rehearse : callable, optional
        As in `train_ensemble`; asked once for each recipe.

    Returns
    -------
    RecipeChoices

    Raises
    ------
    UsageError
        Fewer than two recipes or three folds, recipes that split the data differently, or a name that can't be a folder's.
    DataError, ConfigError
        As `train_ensemble`.
    """
    from blastscope.train.ensemble_checkpoint import write_record

    folds = _check_recipes(recipes)
    out = Path(out)
    if out.is_dir() and any(out.iterdir()) and not (resume and any((out / name).is_dir() for name in recipes)):
        raise DataError(out, "is not empty: go on with --resume, or name another folder")
    for name, config in recipes.items():
        own = out / name
        cross_validate(data, config, own, resume=own.is_dir(), cache=cache, console=console, rehearse=rehearse)
        for pair in combinations(range(folds), 2):
            run = _pair_run(own, pair)
            one = config.model_copy(update={"data": config.data.model_copy(update={"fold": pair})})
            train_ensemble(data, one, run, resume=run.is_dir(), cache=cache, report=False, console=console)
    choices = choose_recipes(out, tuple(recipes), folds)
    write_record(out / FILE, choices)
    _write_report(out, choices)
    return choices


def _check_recipes(recipes: Mapping[str, TrainConfig]) -> int:
    """The number of folds of all recipes."""
    if len(recipes) < 2:
        raise UsageError("a choice needs two recipes")
    for name in recipes:
        if name in ("", ".", "..", "report", FILE) or Path(name).name != name:
            raise UsageError(f"{name!r} can't be the name of a recipe: its runs lie in a folder of that name")
    parts = {config.data for config in recipes.values()}
    if len(parts) > 1:
        raise UsageError("recipes are compared on the same folds: their sections [data] must be the same")
    folds = parts.pop().folds
    if folds < FEWEST_FOLDS:
        raise UsageError(f"a nested choice needs folds = {FEWEST_FOLDS} or more: one is scored, one judges, and one trains")
    return folds


def _pair_run(recipe: Path, pair: tuple[int, int]) -> Path:
    """The run of a recipe that holds out two folds, counted from 0."""
    return recipe / "pairs" / "-".join(str(fold + 1) for fold in pair)


def choose_recipes(out: Path, names: Sequence[str], folds: int) -> RecipeChoices:
    """The choices that finished runs lead to.

    Parameters
    ----------
    out : Path
        Folder of `nested_cross_validate`.
    names : sequence of str
        The recipes. Of equal scores the first wins.
    folds : int
        How many there are.

    Returns
    -------
    RecipeChoices

    Raises
    ------
    DataError
        A run isn't finished, or its files are damaged.
    """
    from blastscope.train.report.writer import read_run

    held_out = [set(read_run(fold_run(out / names[0], fold)).patients) for fold in range(folds)]
    whole = {name: [_judged(read_run(fold_run(out / name, fold)), held_out[fold]) for fold in range(folds)] for name in names}
    same_size = all(part.sizes is not None for parts in whole.values() for part in parts)
    others: dict[str, dict[tuple[int, int], _Judged]] = {name: {} for name in names}
    for name in names:
        for first, second in combinations(range(folds), 2):
            run = read_run(_pair_run(out / name, (first, second)))
            others[name][first, second] = _judged(run, held_out[second])  # fold `second`, by who never saw `first` either
            others[name][second, first] = _judged(run, held_out[first])
    chosen = []
    for fold in range(folds):
        rest = [other for other in range(folds) if other != fold]
        scores = {name: _score([others[name][fold, other] for other in rest], same_size=same_size) for name in names}
        patients = tuple(sorted(held_out[fold]))
        chosen.append(FoldChoice(fold=fold + 1, patients=patients, scores=scores, chosen=max(names, key=scores.__getitem__)))
    scores = {name: _score(parts, same_size=same_size) for name, parts in whole.items()}
    criterion = "weighted F1 at 65 % ALL, as if sizes told nothing" if same_size else "weighted F1"
    return RecipeChoices(criterion=criterion, best=max(names, key=scores.__getitem__), scores=scores, folds=tuple(chosen))


def _judged(run: ReportInput, patients: set[str]) -> _Judged:
    """What a run says of the cells of some of its held-out patients."""
    from blastscope.runtime.inference.voting import vote

    rows = np.flatnonzero([name in patients for name in run.patients])
    calls = vote(run.probabilities[rows]).label.astype(np.int64)
    sizes = None if run.sizes is None else run.sizes[rows]
    return _Judged(run.labels[rows], calls, tuple(run.people[row] for row in rows), sizes)


def _score(parts: Sequence[_Judged], *, same_size: bool) -> float:
    from sklearn.metrics import f1_score

    from blastscope.train.report.group_scores import same_size_score

    labels = np.concatenate([part.labels for part in parts])
    calls = np.concatenate([part.calls for part in parts])
    if not same_size:
        return float(f1_score(labels, calls, average="weighted", zero_division=0))
    sizes = np.concatenate([part.sizes for part in parts if part.sizes is not None])
    return same_size_score(labels, calls, [name for part in parts for name in part.people], sizes).weighted_f1.value


def _write_report(out: Path, choices: RecipeChoices) -> None:
    """OUT/report: the scores of what was chosen, and each recipe's own beside them."""
    from blastscope.train.report import write_folder
    from blastscope.train.report.writer import read_run

    runs = [read_run(fold_run(out / choice.chosen, choice.fold - 1)) for choice in choices.folds]
    pooled = pool_folds(runs)
    picked = "; ".join(f"fold {choice.fold}: {choice.chosen}" for choice in choices.folds)
    notes = (
        f"for each fold one of {len(choices.scores)} recipes was chosen by the other folds' people ({choices.criterion}): "
        "the choice among them had no part in these scores, the list of recipes may have had",
        f"chosen: {picked}",
        *pooled.notes,
    )
    title = f"Nested cross validation of {len(choices.scores)} recipes over {len(runs)} folds of patients"
    write_folder(replace(pooled, title=title, notes=notes, comparison=_comparison(out, choices)), out / "report")


def _comparison(out: Path, choices: RecipeChoices) -> RecipeComparison:
    """A row for each recipe, by its own cross validation."""
    from blastscope.train.report import ComparisonRow, RecipeComparison, Report

    rows = []
    for name, score in choices.scores.items():
        own = out / name / "report" / "report.json"
        found = Report.model_validate_json(own.read_text(encoding="utf-8")).scores["vote"]
        times = sum(choice.chosen == name for choice in choices.folds)
        note = f"{choices.criterion}: {score:.3f}; chosen for {times} of {len(choices.folds)} folds"
        figures = {key: getattr(found, key) for key in ("weighted_f1", "auroc", "sensitivity", "specificity")}
        rows.append(ComparisonRow(name=name, note=note, **figures))
    return RecipeComparison(
        title="Each recipe by its own cross validation",
        note=f"The best of these, {choices.best}, was chosen by them: its score here flatters it.",
        rows=tuple(rows),
    )
