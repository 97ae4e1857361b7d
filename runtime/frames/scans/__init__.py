"""Frames and scans from files of any kind, given piece by piece.

`open_scan` opens one, or says why it can't; `read_part` and `overview` give its pixels; `Unreadable` carries a refusal out.
"""
