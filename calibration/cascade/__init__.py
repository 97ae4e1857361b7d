"""When a first voter may decide alone: threshold and voter are chosen on validation patients, and judged on those left out.

`calibrate_cascade` (run.py) takes a bundle and cells, asks the networks, chooses (choice.py), and puts the result into the
manifest with a `CascadeReport` (report.py, picture.py).
"""
