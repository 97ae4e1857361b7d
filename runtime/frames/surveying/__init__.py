"""What holds for the whole of a frame or slide: `survey_frame` measures its scale, the colour of its glass, and its stain."""
