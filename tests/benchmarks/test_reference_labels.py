"""Reference predictions: computed once, and the clearest cells."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from blastscope.benchmarks.contenders import ReferencePredictions, clearest_cells, decision_margins, predict_graphs
from blastscope.runtime.bundle import read_bundle


def test_predictions_are_computed_once_and_the_clearest_cells_chosen(
    tiny_bundle: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tiny_bundle.make("fp32")
    spec = read_bundle(path).manifest.crop
    first = predict_graphs(path, ReferencePredictions(spec, 6, tmp_path))["fp32"]
    monkeypatch.setattr("blastscope.benchmarks.contenders.open_engine", lambda *_, **__: pytest.fail("computed again"))
    again = predict_graphs(path, ReferencePredictions(spec, 6, tmp_path))["fp32"]
    np.testing.assert_allclose(again, first)
    chosen = clearest_cells([first], 2)
    margins = decision_margins(first)
    assert min(margins[chosen]) >= max(margins[[cell for cell in range(6) if cell not in chosen]])
