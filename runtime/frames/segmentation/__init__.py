"""Segmentation of white cells: candidates, nuclei, cytoplasm, quality control."""
