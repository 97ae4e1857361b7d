"""Which cells set the int8 ranges, and whether the int8 graph may ship.

`calibrate` (calibrate.py) makes int8 graphs for a bundle as `CalibrationConfig` (config.py) says and lets them in through the
gate (gate.py), with a `CalibrationReport`; `compare` (compare.py) puts every engine and precision side by side.
"""
