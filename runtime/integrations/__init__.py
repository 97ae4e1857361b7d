"""The runtime inside other programs: acquisition with pymmcore-plus, layers and a widget in napari, many machines with Ray.

`camera_format` converts camera frames to RGB, `micromanager` listens to an acquisition, `smart_acquisition` revisits cells by
their score, after a scan that `scan_plan` lays out, `simulated_microscope` is a stage and camera without hardware,
`napari_layers` and `napari_widget` show a report in napari, `ray_cluster` gives images and frames
out to a cluster. Each needs the library of its extra, and raises `MissingLibrary` without it.
"""
