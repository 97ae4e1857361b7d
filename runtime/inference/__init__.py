"""Opening a bundle and answering with it: device selection, loading, autotuning, voting."""
