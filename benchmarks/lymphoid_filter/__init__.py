"""Benchmark of the lymphoid filter on labelled cells: frames as they are, perturbed frames, and synthetic composites."""
