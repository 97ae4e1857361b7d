"""Programs that people already use: acquisition with pymmcore-plus, pictures in napari.

`camera_frame` turns what a camera gives into RGB, `micromanager` listens to an acquisition, `smart` lets the networks say where
the stage goes next, `slide` is a microscope without a microscope, `napari_layers` and `napari_widget` show a report in napari.
Each needs the library of its extra, and says so where that is missing.
"""
