"""Latency and throughput benchmarks: the runtime and other implementations, timed alternately in one process.

`run_benchmark` (bench.py) is what `blastscope bench` runs, and results.py reads and writes its results. suite/ times single
stages with pytest-benchmark, gpu/ checks and times an NVIDIA GPU, and lymphoid_filter/ counts which labelled cells it rejects.
"""
