"""Names of the previous version: accepted with a warning, and they do what the present ones do."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from blastscope import open_bundle
from blastscope.runtime.errors import renamed_keywords


def test_old_keywords_of_examine_files_are_taken_with_a_warning(tmp_path: Path) -> None:
    path = tmp_path / "frame.png"
    cv2.imwrite(str(path), np.full((240, 320, 3), 230, np.uint8))
    seen: list[object] = []
    with open_bundle(device="cpu") as scope:
        with pytest.warns(FutureWarning, match=r"examine_files\(look=\.\.\.\) is deprecated .* use on_frame=\.\.\.") as said:
            (report,) = scope.examine_files([path], look=lambda slide, report: seen.append(report))  # type: ignore[call-arg]
        assert Path(said[0].filename).name == Path(__file__).name  # the caller's line
        with pytest.warns(FutureWarning, match="use on_tile="):
            list(scope.examine_files([path], watch=seen.append))  # type: ignore[call-arg]
    assert seen[0] is report
    assert len(seen) == 2
    with pytest.warns(FutureWarning, match=r"FrameReport\.facts is deprecated .* use FrameReport\.parameters") as said:
        assert report.facts is report.parameters
    assert Path(said[0].filename).name == Path(__file__).name


def test_a_present_keyword_wins_over_its_old_name() -> None:
    @renamed_keywords(old="new")
    def given(*, new: int) -> int:
        return new

    assert given(new=1) == 1
    with pytest.warns(FutureWarning, match="old"):
        assert given(old=2, new=1) == 1  # type: ignore[call-arg]
