"""Engines that run a fused graph behind the three members of `Backend`."""
