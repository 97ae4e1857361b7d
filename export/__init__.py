"""Trained networks in; ONNX graphs, checked against PyTorch and packed as a bundle, out.

`export_run` (bundle_maker.py) makes a bundle of a run as `ExportConfig` (config.py) says; `waived_bundle` (waived.py) makes one
of random weights for benchmarks. graph.py holds what is exported, trace.py makes the ONNX graph, halve.py its fp16 form.
"""
