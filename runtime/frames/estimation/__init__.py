"""What is measured of a frame before cells are searched: background, stain and pixel size."""
