"""An empty study with its fields."""

from __future__ import annotations

from ml_collections import ConfigDict


def study(name: str) -> ConfigDict:
    """Datasets, pretraining, starts, tasks, protocols and blocks are for the config to fill in.

    radnet_jax/study/spec.py says which fields each of them has.
    """
    config = ConfigDict()
    config.run = "study"
    config.name = name
    config.seeds = (0, 1, 2, 3)
    config.pretraining_seeds = False  # True: each seed has a pretraining of its own
    config.data_root = ""  # folder that the sources of datasets, and built datasets, are below
    config.weights_root = ""  # folder that imported weights are below
    config.datasets = ConfigDict()
    config.pretraining = ConfigDict()
    config.starts = ConfigDict()
    config.tasks = ConfigDict()
    config.protocols = ConfigDict()
    config.blocks = ConfigDict()  # parts of the matrix; without any, all starts x tasks x protocols x seeds
    config.compare = ConfigDict(
        dict(
            alpha=0.05,
            margin=0.02,  # differences within it count as none: the margin of "equivalent"
            n_resamples=10_000,
            seed=0,
        )
    )
    config.notes = ()  # sentences for the report: what the study can't show
    config.report = ConfigDict(dict(images=True))
    # How it is run; says nothing about results.
    config.list = False  # print the jobs and what they will take, and run nothing
    config.job = -1  # run this one, after what it needs; -1: all that are left
    config.at_once = 1  # so many at once on this machine, each on a GPU of its own
    config.retry = False  # try once more what has failed
    config.claims = ConfigDict(dict(heartbeat=15.0, missed=8))  # seconds; so many without one: a job is taken over
    config.cost = ConfigDict(dict(tflops=50.0))  # sustained on one machine, for costs of what has not been run yet
    return config
