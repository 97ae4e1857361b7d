"""Inference backends: `protocol` says what each provides, and opens a fused graph by a backend's name.

A backend's library is imported when the backend is asked for by name, in the package written for it.
"""
