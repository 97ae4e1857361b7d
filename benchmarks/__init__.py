"""Latency and throughput as users feel them, against peers, in turn in one process run."""
