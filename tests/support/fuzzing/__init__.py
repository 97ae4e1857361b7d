"""Feeds mutated files and requests to every reader. `python -m fuzzing` runs it; `make fuzz` says how."""
