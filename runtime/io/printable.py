"""Text of others, such as the names of files, as it can be shown: without what a terminal would obey."""

from __future__ import annotations

import re

# What a terminal obeys instead of showing it, and what turns the direction of writing round.
CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069]")
CONTROL_BUT_LINES = re.compile(f"(?![\\n\\t]){CONTROL.pattern}")


def printable(text: object) -> str:
    """`text` in one line that can be shown anywhere: a file's name may hold escape sequences, and bytes that are no text."""
    return CONTROL.sub(_escaped, without_surrogates(text))


def for_terminal(text: object) -> str:
    """The same of several lines."""
    return CONTROL_BUT_LINES.sub(_escaped, without_surrogates(text))


def without_surrogates(text: object) -> str:
    """`text` as it can be written in UTF-8: bytes that are no text, in a file's name, are told as escapes."""
    return str(text).encode("utf-8", "backslashreplace").decode("utf-8")


def _escaped(found: re.Match[str]) -> str:
    code = ord(found[0])
    return f"\\x{code:02x}" if code < 0x20 else f"\\u{code:04x}"  # the latter may stand in JSON, where the former never are
