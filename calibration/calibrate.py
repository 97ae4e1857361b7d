"""`calibrate`: a bundle and a folder of cells in; int8 graphs, if the gate lets them, and a report out.

A bundle that is to be changed: opened, and found changeable before an hour of work goes into the change.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from blastscope.calibration.acceptance.drift_metric import Yardstick
from blastscope.calibration.acceptance.mixed_precision_search import Search, SearchReport
from blastscope.calibration.acceptance.trial import Court, Trial
from blastscope.calibration.config import CalibrationConfig
from blastscope.calibration.progress import Tell
from blastscope.calibration.quantisation.calibration_data import (
    CroppedCells,
    choose_cells,
    crop_cells,
    joined,
    named_cells,
    note_other_cells,
    validation_cells,
    without,
)
from blastscope.calibration.quantisation.quantizer import (
    MethodRow,
    Recipe,
    Workshop,
    choose_method,
    make_int8,
    same_layers,
    write,
)
from blastscope.calibration.report import CalibrationReport
from blastscope.calibration.result import Outcome, int8_entry
from blastscope.runtime.bundle import Bundle, read_bundle
from blastscope.runtime.bundle.weights import bad_weight, check_weights
from blastscope.runtime.errors import BundleError, DataError, DeviceError, EngineError, MissingLibrary, UsageError
from blastscope.runtime.io.atomic import check_place
from blastscope.runtime.io.cnmc import DatasetEntry, scan_dataset
from blastscope.runtime.io.cpu_info import int8_sums_overflow
from blastscope.runtime.io.temporary_file import sibling

try:
    import onnx
except ImportError as error:
    raise MissingLibrary("onnx", "export") from error

SEARCHED = 4  # at most one of so many cells that set no range is kept from the gate


def calibrate(
    bundle: Path | str, data: Path | str, config: CalibrationConfig | None = None, *, tell: Tell | None = None
) -> CalibrationReport:
    """Makes int8 graphs for the bundle in the folder `bundle` from cells below `data`, and admits them if the gate holds.

    Some validation cells set the ranges, others choose the method, and the rest judge. Where they refuse the graph, the layers
    that cost most stay fp32, and they judge once more. The bundle is changed in one step; a refused int8 leaves its graphs as
    they were. Raises `DataError` where `data` lacks what is needed or `config` names cells that can't calibrate, `UsageError`
    where `config` leaves no cell to judge, `BundleError` for a bundle without an fp32 fused graph, `DeviceError` where this CPU
    can't compute the weights that `config` wants.
    """
    config, say = config or CalibrationConfig(), tell or (lambda _: None)
    if config.weight_bits == 8 and int8_sums_overflow():
        raise DeviceError(
            "weights of 8 bits can't be judged on this CPU, which has no VNNI and would compute them wrongly: "
            "take weight_bits = 7, or calibrate on a machine with VNNI"
        )
    opened = open_to_change(bundle)
    fused = opened.graph("fp32")
    if fused is None:
        raise BundleError(bundle, "no fp32 fused graph to make int8 from: export with fp32")
    for entry in opened.manifest.graphs:
        check_weights(opened, entry)
    say(f"looking for validation cells below '{data}'")
    parts = _parts(opened, data, config, say)
    say(f"measuring ranges on {len(parts.sample.cells)} cells")
    model = onnx.load_model_from_string(opened.read(fused))
    workshop = Workshop(model, parts.sample.crops, config, histograms=config.method != "minmax", tell=say)
    with TemporaryDirectory(prefix="blastscope-") as place:
        made = _make(opened, workshop, parts, config, _Bench(Path(place), say))
        entries = [int8_entry(fused, made.child, made.trial)]
        for entry in opened.manifest.graphs if not made.trial.failures else ():
            if entry.precision == "fp32" and entry.models != "fused":
                say(f"quantising '{entry.models}'")
                single = Path(place) / f"{entry.models}.onnx"
                floats = same_layers(workshop.model, made.recipe.floats, onnx.load_model_from_string(opened.read(entry)))
                recipe = made.recipe.model_copy(update={"floats": floats})
                make_int8(opened.file(entry), single, parts.sample.crops, config, recipe=recipe)
                require_numbers(single)
                entries.append(int8_entry(entry, single, made.trial))
        outcome = Outcome(
            bundle=opened,
            sample=without(parts.sample, workshop.refused),
            trial=made.trial,
            first=made.first,
            entries=tuple(entries),
            config=config,
            recipe=made.recipe,
            methods=made.methods,
            search=made.search,
        )
        return outcome.report(outcome.settle())


def require_numbers(graph: Path) -> None:
    """Raises `EngineError` where a weight of the graph file is NaN or infinite."""
    if (name := bad_weight(graph.read_bytes())) is not None:
        raise EngineError(f"the int8 graph's '{name}' holds what is not a number")


@dataclass(frozen=True)
class _Parts:
    """Validation cells by what they do; no cell does two of these."""

    sample: CroppedCells  # set the ranges
    search: CroppedCells  # choose the method
    judges: tuple[DatasetEntry, ...]


@dataclass(frozen=True)
class _Bench:
    """Where files lie meanwhile, and who hears of the work."""

    place: Path
    say: Tell


@dataclass(frozen=True)
class _Made:
    """An int8 fused graph that was judged, and how it came to be."""

    child: Path
    recipe: Recipe
    trial: Trial
    first: Trial | None  # before the search
    methods: tuple[MethodRow, ...]
    search: SearchReport | None


def _parts(bundle: Bundle, data: Path | str, config: CalibrationConfig, tell: Tell) -> _Parts:
    folder, training, spec = scan_dataset(data), bundle.manifest.training, bundle.manifest.crop
    note_other_cells(folder, training.data_sha256, tell)
    known = validation_cells(folder, training)
    chosen = (
        named_cells(known, config.files, folder, training) if config.files else choose_cells(known, config.cells, config.seed)
    )
    sample = crop_cells(chosen, spec)
    if not sample.cells:
        raise DataError(data, f"the crop refuses every calibration cell, the first as {sample.refused[0][1]}")
    rest = sorted(set(known) - set(chosen), key=lambda cell: cell.sha256)
    if not rest:
        raise UsageError(f"no validation cells are left to judge int8: calibrate on fewer than {len(known)}")
    wanted = min(config.search_cells, len(rest) // SEARCHED) if config.method == "auto" else 0
    search = choose_cells(rest, wanted, config.seed)
    return _Parts(sample, crop_cells(search, spec), tuple(cell for cell in rest if cell not in set(search)))


def _make(bundle: Bundle, workshop: Workshop, parts: _Parts, config: CalibrationConfig, bench: _Bench) -> _Made:
    """Chooses the method, tries the graph, and searches where it fails."""
    recipe, methods = _method(workshop, parts, config, bench.say)
    child, court = bench.place / "fused.onnx", Court(bundle, parts.judges, config, bench.say)

    def judged(recipe: Recipe) -> Trial:
        write(workshop.build(recipe), child)
        require_numbers(child)
        bench.say(f"judging int8 on {len(parts.judges)} other cells in every engine at hand")
        return court.try_out(child)

    trial = judged(recipe)
    if not (trial.failures and config.search):
        return _Made(child, recipe, trial, None, methods, None)
    cells = joined(without(parts.sample, workshop.refused), parts.search)
    bench.say(f"int8 fails the gate: searching for the layers that cost most, on {len(cells.cells)} cells that don't judge it")
    yardstick = Yardstick(workshop.model, cells.cells, cells.crops)
    mended, search = Search(workshop, yardstick, config, bench.say, aim=trial.aim).run(recipe)
    if not mended.floats:
        return _Made(child, recipe, trial, None, methods, search)
    return _Made(child, mended, judged(mended), trial, methods, search)


def _method(workshop: Workshop, parts: _Parts, config: CalibrationConfig, say: Tell) -> tuple[Recipe, tuple[MethodRow, ...]]:
    cells = parts.search if parts.search.cells else parts.sample  # where there are too few to keep any apart
    return choose_method(workshop, Yardstick(workshop.model, cells.cells, cells.crops), config, say)


def open_to_change(path: Path | str) -> Bundle:
    """The bundle in the folder `path`. Raises `BundleError`, and `DataError` where nothing can be written beside it."""
    if not Path(path).is_dir():
        raise BundleError(path, "not a folder: a zip can't be changed, unpack it and pack it again afterwards")
    opened = read_bundle(path)
    check_beside(Path(path))
    return opened


def check_beside(folder: Path) -> None:
    """Raises `DataError` where the bundle `folder` can't be written: a changed bundle grows beside it, and takes its place."""
    try:
        check_place(sibling(folder.resolve(), "trial"))
    except DataError as error:
        raise DataError(folder, error.problem) from error  # nobody knows the trial
