"""Quantisation to int8, the gate that admits it, and the cascade.

`calibrate` (calibrate.py) makes int8 graphs for a bundle as `CalibrationConfig` (config.py) says: calibration_data.py chooses
the cells, quantisation/ makes the graphs, acceptance/ judges them by what evaluation.py computes on the cells. The result is a
`CalibrationReport`. `calibrate_cascade` (cascade/) measures what a sure first voter saves and costs; `compare` (compare.py)
puts every engine and precision side by side.
"""
