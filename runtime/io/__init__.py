"""Files in and out: images, slides, data sets, atomic writes, hashes and locks. Knows nothing of networks."""
