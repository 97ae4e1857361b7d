"""Whole fields of view: the white cells of a stained bright-field frame found, outlined, put on black and called.

`scans` gives pixels, `surveying` what holds for a whole frame or slide (scale, stain), `finding` its white cells; `cut_cell`
shows one as the networks were trained to see it; `pages` show it all to people. `FrameReport` is what `Scope.examine` gives.
"""
