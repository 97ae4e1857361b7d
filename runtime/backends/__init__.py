"""Inference backends: `registry.open_engine` opens a fused graph by a backend's name, `protocol` says what each provides.

A backend's library is imported when the backend is asked for by name, in the package written for it.
"""
