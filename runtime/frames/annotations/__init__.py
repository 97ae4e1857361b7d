"""Annotations for other programs: the cells of an examination as GeoJSON, COCO, YOLO, OME-TIFF and DICOM files.

Coordinates in all of them count from the corner: x = 0 is the left edge of the frame's first pixel, and pixel i covers i to
i + 1. That is what QuPath, COCO, YOLO, OME's ROIs and DICOM's Total Pixel Matrix mean by a coordinate. (The contours of
`FrameCell` and of the JSON lines count from the centre: they name the outermost pixels, as OpenCV does.)
"""
