"""What reading a frame may cost is counted, over all its levels and threads, and told in the refusal."""

from __future__ import annotations

import pytest

from blastscope.runtime.io.slides import budget as limits
from blastscope.runtime.io.slides.budget import ReadBudget
from blastscope.runtime.io.slides.tiff_codec import ReadError


def test_a_usual_slide_stays_within_its_budget() -> None:
    budget = ReadBudget(100_000, 100_000)
    for side, channels in ((240, 1), (256, 3), (512, 3), (1024, 1)):
        budget.check_layout(channels * (-(-100_000 // side)) ** 2, side, side, 3 * side**2)
    ReadBudget(10_000, 10_000).check_layout(1, 10_000, 10_000, 300_000_000)
    ReadBudget(1, 1).check_layout(3, 1, 1, 1)


@pytest.mark.parametrize(
    ("size", "layout", "words"),
    [
        ((1000, 1000), (1_000_000, 1, 1, 3), "1000000 pieces of 1 x 1 pixels, more than the 8002 for its size"),
        ((24_000, 24_000), (2_250_000, 16, 16, 768), "more than the 2000000 for its size: save it in larger tiles"),
        ((100, 100), (1, 30_000, 30_000, 2_700_000_000), "2700000000 bytes, more than 300000000: save it in smaller tiles"),
    ],
)
def test_a_layout_beyond_the_budget_says_the_figure_and_its_limit(
    size: tuple[int, int], layout: tuple[int, int, int, int], words: str
) -> None:
    with pytest.raises(ReadError, match=words) as raised:
        ReadBudget(*size).check_layout(*layout)
    assert raised.value.refusal.code == "bomb"


def test_more_pixels_than_a_slide_has_and_none_are_refused() -> None:
    with pytest.raises(ReadError, match="1000000000 x 1000000000 pixels, more than 40000000000"):
        ReadBudget(10**9, 10**9)
    with pytest.raises(ReadError, match="the header says 0 x 7 pixels"):
        ReadBudget(0, 7)


def test_the_same_pieces_are_not_decoded_again_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "DECODED_BYTES", 1000)
    budget = ReadBudget(10, 10)  # and 200 times its 300 bytes
    for _ in range(61):
        with budget.decoding(1000):
            pass
    with (
        pytest.raises(ReadError, match="more than 61000 bytes had to be decoded for a frame of 100 pixels"),
        budget.decoding(1),
    ):
        pass


def test_time_is_counted_while_something_is_decoded_and_only_then() -> None:
    now = [0.0]
    budget = ReadBudget(1000, 1000, clock=lambda: now[0])
    for _ in range(7):
        now[0] += 1000.0  # nothing is read meanwhile
        with budget.decoding(1):
            now[0] += 10.0
    with budget.decoding(1):
        now[0] += 1.0
    told = "reading took more than 70 seconds for a frame of 1000000 pixels"
    with pytest.raises(ReadError, match=told), budget.decoding(1):
        pass


def test_what_failed_gives_its_memory_back(monkeypatch: pytest.MonkeyPatch) -> None:
    budget = ReadBudget(10, 10)
    for _ in range(3):
        with pytest.raises(KeyError), budget.decoding(limits.MEMORY_BYTES):
            raise KeyError


def test_pixels_that_few_bytes_stand_for_are_refused() -> None:
    budget = ReadBudget(100_000, 100_000)
    budget.check_stored(3 * 10**10, 10**8)
    budget.check_stored(10**9, 100)  # little work, however it is stored
    with pytest.raises(ReadError, match="30000000000 bytes of pixels in 700 bytes of the file, more than 10000 times"):
        budget.check_stored(3 * 10**10, 700)
