"""The caches of compiled engines: CPU blobs by digest, TensorRT engines by key, and their compatibility with a machine."""
