"""The white cells of a frame whose scale and stain are known: where nuclei may be, which belong together, where cells end.

`find_cells` gives each with its outline, and those that get no call with the reason why.
"""
