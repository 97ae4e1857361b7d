"""Options that several verbs share, and options whose old names are still accepted."""

from __future__ import annotations

import logging
import math
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from functools import wraps
from inspect import Parameter, Signature, signature
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer
from typer.core import TyperCommand

from blastscope.cli.terminal import say
from blastscope.runtime.errors import UsageError

if TYPE_CHECKING:
    from blastscope.runtime.bundle import Bundle
    from blastscope.runtime.session import Scope

BundlePath = Annotated[Path | None, typer.Option("--bundle", help="Bundle folder or zip. Default: the one that is shipped.")]
BundleArgument = Annotated[Path | None, typer.Argument(help="Bundle folder or zip. Default: the one that is shipped.")]
DeviceName = Annotated[str, typer.Option("--device", help="auto, cpu, cuda[:n] or openvino:NAME.")]
PrecisionName = Annotated[str, typer.Option("--precision", help="auto, fp32, fp16 or int8.")]
BackendName = Annotated[
    str, typer.Option("--backend", help="auto, openvino, onnxruntime; on a GPU tensorrt, tensorrt-rtx, onnxruntime.")
]
LayoutName = Annotated[
    str, typer.Option("--layout", help="How a network lies on a CPU's cores: auto, fused, paired or staged.")
]
UnlikeTraining = Annotated[
    str,
    typer.Option(
        "--unlike-training", help="Cells that are not like those of the training: refuse them, or call them all the same."
    ),
]
RequireSignature = Annotated[
    list[str] | None,
    typer.Option(
        "--require-signature",
        help="Public key that must have signed the bundle, or 'trusted' for those of `blastscope trust`. May be given again.",
    ),
]
OnBlack = Annotated[
    bool,
    typer.Option("--on-black", help="The images show a cell with its background: cut out the one in the middle first."),
]
Threads = Annotated[int | None, typer.Option("--threads", min=1, help="Default: every core that this process may use.")]


def _checked_scale(pixel_um: float | None) -> float | None:
    if pixel_um is not None:
        from blastscope.runtime.io.slides.metadata import check_pixel_um

        check_pixel_um(pixel_um)
    return pixel_um


PixelUm = Annotated[
    float | None,
    typer.Option(
        "--pixel-um",
        callback=_checked_scale,
        help="Micrometres per pixel. Default: what the file says, else by the red cells.",
    ),
]
SpecPath = Annotated[Path | None, typer.Option("--config", help="TOML file of what is assumed of frames and cells.")]
ValidationPath = Annotated[Path | None, typer.Option("--validation", help="The record that `validate` left at this site.")]
ResumeFile = Annotated[
    Path | None,
    typer.Option("--resume", help="File that keeps what is done: after a kill the same command goes on from there."),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")]
ConfigPath = Annotated[
    Path | None, typer.Option("--config", help="TOML file. Default: the paper's values, the house's elsewhere.")
]
LabelledCells = Annotated[Path, typer.Argument(help="Folder with C-NMC cells, in the archive's layout or as all/ and hem/.")]
Archive = Annotated[
    Path | None,
    typer.Option(
        "--archive",
        help="Labelled cells to show beside an explained one: a folder of C-NMC cells, or with all and hem; or a CSV file: "
        "path,label and patient if known, or labels of frames. Default: the training's, by the bundle's index, no pictures.",
    ),
]
NearestCount = Annotated[
    int, typer.Option("--nearest", min=0, max=50, help="How many labelled cells like an explained one are told; 0 for none.")
]
CropCache = Annotated[Path | None, typer.Option("--cache", help="Where crops are kept. Default: the user's cache.")]


@dataclass(frozen=True, kw_only=True)
class SessionArguments:
    """What every verb that opens bundles lets its user choose, by the names of `open_bundle`.

    A verb takes them as one parameter `engine`, under `with_session_arguments`.

    Attributes
    ----------
    device, precision, backend : str
        Where and how the networks are computed; "auto" leaves it to the runtime.
    threads : int, optional
        Cores at most. None: all that this process may use.
    unlike_training : str
        "refuse" or "call": what happens to cells that are unlike the training's.
    require_signature : list of str, optional
        Files of public keys, or "trusted"; one of them must have signed the bundle.
    """

    device: DeviceName = "auto"
    precision: PrecisionName = "auto"
    backend: BackendName = "auto"
    threads: Threads = None
    unlike_training: UnlikeTraining = "refuse"
    require_signature: RequireSignature = None

    def words(self, **more: object) -> dict[str, Any]:
        """These and `more` as keyword arguments of `open_bundle`."""
        return {**vars(self), **more}


def with_session_arguments(verb: Callable[..., None]) -> Callable[..., None]:
    """The verb with an option for each field of `SessionArguments`, in the place of its keyword `engine`.

    Typer reads options off a signature; this writes them there once for all verbs.
    """
    hints = get_type_hints(SessionArguments, include_extras=True)
    shared = {
        one.name: Parameter(one.name, Parameter.KEYWORD_ONLY, default=one.default, annotation=hints[one.name])
        for one in fields(SessionArguments)
    }
    parameters: list[Parameter] = []
    for own in signature(verb, eval_str=True).parameters.values():
        parameters += shared.values() if own.name == "engine" else [own]

    @wraps(verb)
    def verb_of_words(**given: Any) -> None:
        chosen = SessionArguments(**{name: given.pop(name) for name in shared})
        verb(**given, engine=chosen)

    verb_of_words.__signature__ = Signature(parameters)  # type: ignore[attr-defined]
    verb_of_words.__annotations__ = {one.name: one.annotation for one in parameters}
    return verb_of_words


# old and present name by verb; the old ones are accepted in this version
RENAMED_OPTIONS: dict[str, dict[str, str]] = {
    "bench": {
        "--against": "--baseline",
        "--peers": "--framework",
        "--patience": "--idle-timeout",
        "--outside": "--benchmark-app",
        "--cold": "--cold-start",
        "--no-cold": "--no-cold-start",
        "--own": "--runtime",
        "--no-own": "--no-runtime",
        "--measured": "--result",
        "--keep": "--output",
    },
}
# option, old value and present value by verb, in the same way
RENAMED_VALUES: dict[str, tuple[str, str, str]] = {"build": ("--models", "fused", "ensemble")}


# parameters that name what is written; of an input or a setting that is given twice the last counts, as scripts expect
OUTPUTS = {
    *("audit_log", "coco", "csv", "dicom", "geojson", "ome", "out", "output", "overlay", "ovms"),
    *("record", "report", "results", "sheet", "triton", "yolo"),
}


class VerbCommand(TyperCommand):
    """A verb whose numbers are finite and whose outputs are named once: the first of two would get nothing, without a word.

    It also takes the old names of its options, and says on stderr which are deprecated.
    """

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """The arguments that are left after the options, as click gives them."""
        renamed = RENAMED_OPTIONS.get(self.name or "", {})
        present: list[str] = []
        for arg in args:
            option, equals, value = arg.partition("=")
            if option in renamed:
                _deprecate(option, renamed[option])
            present.append(f"{renamed.get(option, option)}{equals}{value}")
        present = self._with_present_values(present)
        rest = super().parse_args(ctx, list(present))
        parsed: tuple[Any, ...] = self.make_parser(ctx).parse_args(list(present))
        written, _, given = parsed
        every: list[Any] = self.params
        for param in every:
            raw, taken = (words.get(param.name or "") for words in (written, ctx.params))
            if "" in _several(raw) and any(isinstance(one, Path) for one in _several(taken)):
                raise typer.BadParameter("it is empty: name a file or a folder, '.' for this one", ctx=ctx, param=param)
        for twice, count in Counter(given).items():
            if count > 1 and twice.name in OUTPUTS:
                raise typer.BadParameter("it is given twice, and takes one path", ctx=ctx, param=twice)
        for param in every:
            value = ctx.params.get(param.name or "")
            if isinstance(value, float) and not math.isfinite(value):
                raise typer.BadParameter(f"{value} is no finite number", ctx=ctx, param_hint=f"'{param.opts[0]}'")
        return rest

    def _with_present_values(self, args: list[str]) -> list[str]:
        option, old, new = RENAMED_VALUES.get(self.name or "", ("", "", ""))
        present = list(args)
        for place, arg in enumerate(args):
            if option and (arg == f"{option}={old}" or (arg == old and args[place - 1 : place] == [option])):
                _deprecate(f"{option} {old}", f"{option} {new}")
                present[place] = arg.removesuffix(old) + new
        return present


def _several(value: Any) -> Sequence[Any]:
    return value if isinstance(value, list | tuple) else [value]


def _deprecate(old: str, new: str) -> None:
    typer.echo(f"{old} is deprecated and will be removed in the next version: use {new}", err=True)


def bundle_at(path: Path | None, require_signature: Sequence[str] | None = None) -> Bundle:
    """The bundle at `path`, verified, its signature too where one is required; without a path the shipped bundle."""
    from blastscope import SHIPPED_BUNDLE
    from blastscope.runtime.bundle import read_bundle, read_signed_bundle

    path = path or SHIPPED_BUNDLE
    return read_signed_bundle(path, require_signature) if require_signature else read_bundle(path)


@contextmanager
def opened(bundle: Path | None, **words: Any) -> Iterator[Scope]:
    """The handle on `bundle`, with the words of `open_bundle`."""
    from blastscope.runtime.session import open_bundle

    for reader in ("tifffile", "liffile"):  # what they say of a damaged file stands in the refusal
        logging.getLogger(reader).addHandler(logging.NullHandler())
    with open_bundle(bundle, **words) as scope:
        yield scope


def named_images(named: list[Path]) -> list[Path]:
    """The images that files and folders name, in their order; stderr tells what else lies in the folders."""
    from blastscope.runtime.io.paths import find_images

    return _named(find_images, named)


def named_frames(named: list[Path]) -> list[Path]:
    """The frames and scans that files and folders name, in the same way."""
    from blastscope.runtime.io.slides.slide import find_frames

    return _named(find_frames, named)


def _named(find: Callable[..., list[Path]], named: list[Path]) -> list[Path]:
    from blastscope.runtime.io.paths import SkippedFiles, left_out

    passed = SkippedFiles()
    found = find(named, passed=passed)
    for told in left_out(passed):
        say(told)
    return found


def check_scale(pixel_um: float | None, *, on_black: bool) -> None:
    """Raises `UsageError` for a scale of cells on black, which have C-NMC's."""
    if pixel_um is not None and not on_black:
        raise UsageError("--pixel-um goes with --on-black: cells on black are taken at C-NMC's scale")


VARIABLE = "BLASTSCOPE_DATA"
DEFAULT = Path("..", "shared", "data")  # from the repository's root


def find_data(named: Path | None = None) -> Path | None:
    """The folder of C-NMC cells: `named`, or below the one that BLASTSCOPE_DATA names, or below ../shared/data."""
    if named is not None:
        return named
    folder = Path(os.environ.get(VARIABLE) or DEFAULT) / "cnmc"
    return folder if folder.is_dir() else None
