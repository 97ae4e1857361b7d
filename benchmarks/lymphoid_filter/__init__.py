"""Benchmark of the lymphoid filter on labelled cells, synthetic composites and perturbed frames."""
