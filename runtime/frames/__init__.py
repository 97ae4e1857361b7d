"""Whole fields of view: the white cells of a stained bright-field frame found, outlined, put on black and called.

`survey_frame` measures what holds for a whole frame or slide (scale, stain), `find_cells` finds its white cells, `cut_cell`
shows one as the networks were trained to see it. `FrameReport` is what `Scope.examine` gives.
"""
