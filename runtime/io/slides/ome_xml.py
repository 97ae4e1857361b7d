"""What an OME-XML says of one of its images: its `Pixels` element, and the colours of its channels."""

from __future__ import annotations

from collections.abc import Iterator
from xml.etree import ElementTree

NAMES = {"red": 0, "r": 0, "green": 1, "g": 1, "blue": 2, "b": 2}
COLOURS = {0xFF000000: 0, 0x00FF0000: 1, 0x0000FF00: 2}  # RGBA, without the alpha


def parse_xml(text: str) -> ElementTree.Element | None:
    """The root of an XML; None of what is none, or declares entities, which may unfold without end."""
    if "<!ENTITY" in text or "<!DOCTYPE" in text:  # neither OME-XML nor a scanner's has them
        return None
    try:
        return ElementTree.fromstring(text)
    except (ElementTree.ParseError, ValueError):
        return None


def _named(root: ElementTree.Element, name: str) -> Iterator[ElementTree.Element]:
    """The elements of this name in whatever namespace."""
    return (item for item in root.iter() if item.tag.rpartition("}")[2] == name)


def pixels_element(xml: str, number: int, size: tuple[int, int]) -> ElementTree.Element | None:
    """The `Pixels` of the image that is `number` in its file and of this width and height, or of the only one."""
    root = parse_xml(xml)
    found = [] if root is None else list(_named(root, "Pixels"))
    if len(found) == 1:
        return found[0]
    # some of the images may stand in other files
    fitting = [
        one for one in found[number : number + 1] + found if (one.get("SizeX"), one.get("SizeY")) == tuple(map(str, size))
    ]
    return fitting[0] if fitting else None


def colour_order(pixels: ElementTree.Element | None) -> tuple[int, int, int] | None:
    """Which of an image's three channels is red, which green and which blue, by their names or else by their colours."""
    channels = [] if pixels is None else list(_named(pixels, "Channel"))
    named = [NAMES.get(channel.get("Name", "").strip().lower()) for channel in channels]
    coloured = [_colour(channel.get("Color", "")) for channel in channels]
    for found in (named, coloured):
        if len(found) == 3 and set(found) == {0, 1, 2}:
            return found.index(0), found.index(1), found.index(2)
    return None


def _colour(text: str) -> int | None:
    try:
        return COLOURS.get(int(text) & 0xFFFFFF00)
    except ValueError:
        return None
