"""One look for every plot: colours, matplotlib's settings, and figures as PNG and SVG.

matplotlib comes with the extra `train`, and is imported at the first plot.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from io import BytesIO
from typing import TYPE_CHECKING, Any

from blastscope.runtime.errors import MissingLibrary

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Okabe and Ito's colours: told apart with any kind of colour vision, and in gray
ORANGE, BLUE, GRAY = "#d55e00", "#0072b2", "#9aa4ae"
INK, MUTED, FAINT = "#1f2328", "#6e7781", "#d8dee4"  # text and axes; labels of less weight; grids
STYLE: dict[str, Any] = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],  # comes with matplotlib: the same picture on every machine
    "font.size": 9.5,
    "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "text.color": INK,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "grid.color": FAINT,
    "grid.linewidth": 0.7,
    "legend.frameon": False,
    "svg.hashsalt": "blastscope",  # the same figures give the same bytes
}


@contextmanager
def plot_style(changes: Mapping[str, Any] | None = None) -> Iterator[None]:
    """What is drawn inside looks like all other plots.

    Parameters
    ----------
    changes
        Settings of matplotlib, by the names of its `rcParams`, that differ for these plots.

    Raises
    ------
    MissingLibrary
        matplotlib isn't installed.
    """
    try:
        from matplotlib import rc_context
    except ImportError as error:
        raise MissingLibrary("matplotlib", "train") from error
    settings: dict[Any, Any] = STYLE | dict(changes or {})
    with rc_context(settings):
        yield


def new_figure(width: float, height: float) -> Figure:
    """An empty figure of `width` x `height` inches with constrained layout. It belongs to no window."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def png_bytes(figure: Figure, dpi: int = 150) -> bytes:
    """The figure as a PNG that doesn't name the program: the same figure gives the same bytes with every version of it."""
    content = BytesIO()
    figure.savefig(content, format="png", dpi=dpi, metadata={"Software": None})
    return content.getvalue()


def svg_bytes(figure: Figure) -> bytes:
    """The figure as an SVG without date and program."""
    content = BytesIO()
    figure.savefig(content, format="svg", metadata={"Date": None, "Creator": None})
    return content.getvalue()
