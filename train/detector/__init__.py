"""Training of the white-cell detector: frames with boxes in, a heat map and boxes on a frozen ImageNet trunk out."""
