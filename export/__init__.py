"""Trained networks in; ONNX graphs, checked against PyTorch and packed as a bundle, out."""
