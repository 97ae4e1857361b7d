"""Which cells set the int8 ranges, whether the int8 graph may ship, and when one voter may decide alone.

`calibrate` (calibrate.py) makes int8 graphs for a bundle as `CalibrationConfig` (config.py) says and lets them in through the
gate (gate.py), with a `CalibrationReport`; `calibrate_cascade` (cascade/) measures what a sure first voter saves and costs;
`compare` (compare.py) puts every engine and precision side by side.
"""
