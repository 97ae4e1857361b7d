"""Slide and frame readers behind one protocol: `open_slide` opens a file and reads it piece by piece."""
