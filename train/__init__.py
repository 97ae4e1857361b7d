"""C-NMC folders in; three networks, their checkpoints and a report out: the two-stage bagging ensemble of Liu and Long."""
