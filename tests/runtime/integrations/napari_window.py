"""Opens napari with a frame, presses the buttons, takes two pictures: napari_window.py FRAME BUNDLE WINDOW CANVAS REVIEW."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import napari
import numpy as np
from qtpy.QtCore import QEventLoop, QTimer
from qtpy.QtWidgets import QApplication

from blastscope.runtime.integrations.napari_review import answer_cells
from blastscope.runtime.io.image import read_image


def main(frame: Path, bundle: Path, window: Path, canvas: Path, review: Path) -> None:
    """Prints what the widget tells, and the report as JSON. Fails where the examination failed."""
    viewer = napari.Viewer(show=True)
    viewer.window.resize(1240, 860)
    image = read_image(frame)
    assert isinstance(image, np.ndarray)
    viewer.add_image(image, name=frame.stem)
    _, widget = viewer.window.add_plugin_dock_widget("blastscope", "Examine a blood smear")
    widget.bundle.value = bundle
    widget.button.native.click()
    assert not widget.button.enabled, widget.told.value
    ticks = QTimer()  # wakes the loop, whether anything else happens or not
    ticks.start(10)
    ends = time.monotonic() + 240
    while not widget.button.enabled and time.monotonic() < ends:
        QApplication.processEvents(QEventLoop.ProcessEventsFlag.WaitForMoreEvents)
    shapes = viewer.layers[f"{frame.stem}: cells"]
    told = {"told": widget.told.value, "report": shapes.metadata["report"], **reviewed(widget, shapes, review)}
    print(json.dumps(told))
    viewer.reset_view()
    for _ in range(10):  # the window is laid out anew in several steps
        QApplication.processEvents(QEventLoop.ProcessEventsFlag.WaitForMoreEvents)
    viewer.screenshot(str(window), canvas_only=False, flash=False)
    viewer.screenshot(str(canvas), canvas_only=True, flash=False)
    viewer.close()


def reviewed(widget: Any, shapes: Any, review: Path) -> dict[str, str]:
    """What the widget tells while all calls are accepted, saved and taken up again."""
    before = widget.told.value
    widget.file.value = review
    shapes.selected_data = set(range(len(shapes.data)))
    told = {}
    widget.accept.native.click()
    told["accepted"] = widget.told.value
    widget.save.native.click()
    told["nobody"] = widget.told.value
    widget.who.value = "me"
    widget.save.native.click()
    widget.load.native.click()
    told["loaded"] = widget.told.value
    shapes.selected_data = set()
    answer_cells(shapes, range(len(shapes.data)), "")  # the picture shows the calls
    widget.told.value = before
    return told


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
