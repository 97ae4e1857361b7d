"""The cascade: from which probability on a first voter decides alone, chosen and judged on different validation patients.

`calibrate_cascade` (run.py) takes a bundle and cells, evaluates the networks, selects voter and threshold
(threshold_selection.py), and puts the result into the manifest with a `CascadeReport` (report.py).
"""
