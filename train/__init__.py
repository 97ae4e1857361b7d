"""C-NMC folders in; three networks, their checkpoints and a report out: the two-stage bagging ensemble of Liu and Long.

`run.train_ensemble` does it all, `config.TrainConfig` says how, `checkpoint.load_ensemble` reads the result, and
`untrained.random_ensemble` makes networks that have learnt nothing, for benchmarks.
"""
