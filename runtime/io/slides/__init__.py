"""Slide and frame readers behind one protocol: `open_scan` opens a file and reads it piece by piece."""
