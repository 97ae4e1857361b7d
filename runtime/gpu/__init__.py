"""The road of NVIDIA GPUs: from an image's pixels to the networks' answers without a stop on the host.

`driver` says what is here without loading anything heavy; `pipeline` is the road itself, over the few verbs of `protocol`,
which `pycuda_gpu` speaks on a real GPU; `arrays` takes other libraries' device arrays as they are.
"""
