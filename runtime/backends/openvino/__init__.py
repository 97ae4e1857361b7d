"""OpenVINO: compiles a bundle's graph for CPU cores and runs it."""
