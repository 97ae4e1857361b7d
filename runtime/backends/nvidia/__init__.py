"""What every NVIDIA backend shares: crop kernels and network captured in one CUDA graph, from pixels to probabilities."""
