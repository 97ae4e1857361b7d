"""TensorRT and TensorRT-RTX: builds engines from ONNX graphs and runs them."""
