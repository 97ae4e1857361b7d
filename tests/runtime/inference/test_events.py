"""A session's events: typed, logged when they happen, and the source of its notes."""

from __future__ import annotations

import logging
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from blastscope.runtime.inference.events import EngineNote, EngineSelected, EventLog, Measured
from blastscope.runtime.session import open_bundle


def test_what_was_chosen_is_typed_and_logged_and_noted(
    tiny_bundle: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "blastscope")
    with open_bundle(tiny_bundle.make("fp32"), device="cpu", execution="f32", layout="fused", cache_dir=tmp_path) as scope:
        scope.classify(tiny_bundle.cell())
        events = scope.events
        assert scope.notes[: len(events)] == tuple(map(str, events))
    (selected,) = (event for event in events if isinstance(event, EngineSelected))
    assert (selected.name, selected.reason) == ("fp32", "the only one to choose from")
    assert "took fp32: the only one to choose from" in caplog.messages
    assert all(record.levelno == logging.INFO for record in caplog.records)


def test_measurements_are_for_debugging_and_the_rest_for_information(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "blastscope")
    log = EventLog()
    log.add(EngineNote("second"), Measured("int8", 2.04, "fp32", 7.0))
    log.add_first(EngineNote("first"))
    assert [str(event) for event in log.events()] == ["first", "second", "measured int8: 2.0 ms a crop, fp32 7.0 ms"]
    assert [record.levelname for record in caplog.records] == ["INFO", "DEBUG", "INFO"]


def test_no_event_is_lost_where_many_threads_add_them() -> None:
    log = EventLog()
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: log.add(EngineNote(str(number))), range(400)))
    assert {str(event) for event in log.events()} == set(map(str, range(400)))


def test_tell_is_deprecated_and_still_hears_of_long_builds(tiny_bundle: Any, tmp_path: Path) -> None:
    lines: list[str] = []
    backends = logging.getLogger("blastscope.runtime.backends")
    before, level = list(backends.handlers), backends.level
    try:
        with pytest.warns(FutureWarning, match="tell is deprecated and will be removed in the next version"):
            open_bundle(tiny_bundle.make(), device="cpu", cache_dir=tmp_path, tell=lines.append).close()
        logging.getLogger("blastscope.runtime.backends.tensorrt.backend").info("building the %s engine", "fp16")
        logging.getLogger("blastscope.runtime.inference").info("took fp32")
        assert lines == ["building the fp16 engine"]
    finally:
        backends.handlers[:] = before
        backends.setLevel(level)
