"""C-NMC folders in; three networks, their checkpoints and a report out: the two-stage bagging ensemble of Liu and Long.

`pipeline.train_ensemble` does it all, `config.TrainConfig` says how, `ensemble_checkpoint.load_ensemble` reads the result,
and `ensemble_checkpoint.random_ensemble` makes untrained networks for benchmarks.
"""
