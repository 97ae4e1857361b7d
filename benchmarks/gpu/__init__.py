"""The GPU check: what a machine's GPU can run, whether it is right, and how fast, against three PyTorch models, in one run."""
