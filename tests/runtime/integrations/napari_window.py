"""Opens napari with FRAME, presses the widget's button, takes two pictures: napari_window.py FRAME BUNDLE WINDOW CANVAS."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import napari
import numpy as np
from qtpy.QtCore import QEventLoop, QTimer
from qtpy.QtWidgets import QApplication

from blastscope.runtime.io.image import read_image


def main(frame: Path, bundle: Path, window: Path, canvas: Path) -> None:
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
    print(json.dumps({"told": widget.told.value, "report": viewer.layers[f"{frame.stem}: cells"].metadata["report"]}))
    viewer.reset_view()
    for _ in range(10):  # the window is laid out anew in several steps
        QApplication.processEvents(QEventLoop.ProcessEventsFlag.WaitForMoreEvents)
    viewer.screenshot(str(window), canvas_only=False, flash=False)
    viewer.screenshot(str(canvas), canvas_only=True, flash=False)
    viewer.close()


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
