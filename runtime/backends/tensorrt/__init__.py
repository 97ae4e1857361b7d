"""TensorRT and TensorRT-RTX: builds engines from ONNX graphs, keeps them in the user's cache by key, and runs them."""
