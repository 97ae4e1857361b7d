"""Engines that run a fused graph: `engines.open_engine` opens one by its backend's name, `protocol` says what each can do.

A backend's library is imported when the backend is asked for by name, in the one module written for it.
"""
