"""CUDA without an inference library: driver, device memory, graphs and the crop kernels."""
