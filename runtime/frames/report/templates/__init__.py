"""HTML pages from Jinja2 templates: one layout, one stylesheet and one set of macros for every report.

Public names: `render_template`. A page needs no other file and loads nothing. Its Content-Security-Policy lets the browser
apply this stylesheet and run these scripts alone, by their hashes, so that nothing in the name of a file or a note can act.
"""

from __future__ import annotations

import hashlib
from base64 import b64encode
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jinja2 import Environment
    from markupsafe import Markup

__all__ = ["render_template"]


def render_template(name: str, /, **values: object) -> str:
    """HTML from one of the templates of this folder.

    Parameters
    ----------
    name : str
        The template's file, such as 'slide.html'.
    **values
        What the template shows. All text is escaped.

    Returns
    -------
    str
        Can be encoded in UTF-8: bytes of a file's name that are no text become question marks.

    Raises
    ------
    jinja2.UndefinedError
        The template shows a value that isn't given.
    """
    return _environment().get_template(name).render(values).encode("utf-8", "replace").decode("utf-8")


@cache
def _environment() -> Environment:
    """Jinja2 is imported, and a template compiled, at its first use: it takes a tenth of a second."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader(__name__, ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    environment.globals["source"] = _source
    environment.filters |= {"data_uri": _data_uri, "formatted": format, "sentence": _sentence, "sha256": _sha256}
    return environment


def _source(name: str) -> Markup:
    """A stylesheet or script of this folder, for the page itself; lines end as browsers see them."""
    from markupsafe import Markup

    return Markup(files(__name__).joinpath(name).read_text(encoding="utf-8"))


def _sha256(text: str) -> str:
    """The hash by which a Content-Security-Policy names a stylesheet or script."""
    return b64encode(hashlib.sha256(text.encode("utf-8")).digest()).decode("ascii")


def _data_uri(content: bytes, kind: str) -> Markup:
    """A picture for the page itself; `kind` is its media type."""
    from markupsafe import Markup

    return Markup(f"data:{kind};base64,{b64encode(content).decode('ascii')}")


def _sentence(note: str) -> str:
    return note[:1].upper() + note[1:] + ("" if note.endswith(".") else ".")
