"""Opens napari with the frame FRAME, presses the widget's button, and writes a screenshot: napari_window.py FRAME PICTURE."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import napari
import numpy as np
from qtpy.QtWidgets import QApplication

from blastscope.runtime.image import read_image


def main(frame: Path, picture: Path) -> None:
    """Ends with exit code 1 where the examination failed."""
    viewer = napari.Viewer(show=True)
    viewer.window.resize(1240, 860)
    image = read_image(frame)
    assert isinstance(image, np.ndarray)
    viewer.add_image(image, name=frame.stem)
    _, widget = viewer.window.add_plugin_dock_widget("blastscope", "Examine a blood smear")
    worker = widget.examine()
    assert worker is not None, widget.told.value
    assert not widget.button.enabled
    ends = time.monotonic() + 240
    while not widget.button.enabled and time.monotonic() < ends:
        QApplication.processEvents()
        time.sleep(0.01)
    print(widget.told.value)
    assert any(layer.name.endswith(": cells") for layer in viewer.layers), widget.told.value
    viewer.reset_view()
    for _ in range(50):
        QApplication.processEvents()
        time.sleep(0.01)
    viewer.screenshot(str(picture), canvas_only=False, flash=False)
    viewer.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
