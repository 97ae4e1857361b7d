"""Bundles: networks with everything needed to trust them, read, checked and packed."""
