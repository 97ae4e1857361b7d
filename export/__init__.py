"""Trained networks in; ONNX graphs, checked against PyTorch and packed as a bundle, out.

`export_run` (exporter.py) makes a bundle of a run as `ExportConfig` (onnx_writer.py) says. onnx_export.py traces the networks,
onnx_writer.py writes the graphs and their fp16 form, and `rehearse` (rehearsal.py) says beforehand what a network can have.
"""
