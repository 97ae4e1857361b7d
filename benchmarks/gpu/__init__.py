"""The GPU check: which engines a machine's GPU can run, whether they are right, and how fast they are against PyTorch."""
