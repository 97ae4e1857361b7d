"""Whole fields of view: the white cells of a stained bright-field frame, segmented, put on black and called.

`pipeline` examines a frame or slide: `estimation` measures pixel size and stain, `segmentation` outlines the white cells,
`cell_crop` shows each as the networks were trained to see it, `report` writes pages, overlays and tables. `types` holds
`FrameReport`, which `Scope.examine` returns.
"""
