"""Quantisation to int8: where the Q/DQ pairs go, activation ranges, equalisation."""
