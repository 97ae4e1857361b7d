"""The runtime inside other programs: acquisition with pymmcore-plus, layers and a widget in napari, many machines with Ray.

`micromanager` listens to an acquisition, converts its camera's frames to RGB, and lays out what a scan looks at;
`smart_acquisition` revisits cells by their score, `simulated_microscope` is a stage and camera without hardware,
`napari_layers` shows a report in napari, `napari_review` takes corrections there, and `napari_widget` is their window;
`ray_cluster` gives images and frames out to a cluster. Each needs the library of its extra, and raises `MissingLibrary`
without it.
"""
