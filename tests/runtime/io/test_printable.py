"""Names and words from files are shown without what a terminal would obey."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blastscope.runtime.io.printable import for_terminal, printable


@given(st.text())
def test_nothing_that_a_terminal_obeys_is_left_and_all_else_is_as_it_was(text: str) -> None:
    shown = printable(text)
    assert not any(unicodedata.category(letter) in ("Cc", "Zl", "Zp") for letter in shown)
    plain = "".join(letter for letter in text if unicodedata.category(letter) not in ("Cc", "Cf", "Cs", "Zl", "Zp"))
    assert printable(plain) == plain


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\x1b[31mb\x07", "a\\x1b[31mb\\x07"),
        ("one\ntwo\tthree\r", "one\\x0atwo\\x09three\\x0d"),
        ("\x9b2J \u202egnp.exe", "\\u009b2J \\u202egnp.exe"),
        ("bytes \udcff", "bytes \\udcff"),
        ("Zelle \u00e4\u00b5 \u6f22", "Zelle \u00e4\u00b5 \u6f22"),
    ],
)
def test_what_is_left_out_is_shown_by_its_number(text: str, shown: str) -> None:
    assert printable(text) == shown


def test_several_lines_stay_several_lines() -> None:
    assert for_terminal("one\n\ttwo\x1b[2K\r\n") == "one\n\ttwo\\x1b[2K\\x0d\n"
