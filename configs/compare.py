"""Compares finished runs, or a table of somebody else's results, to a verdict.

    python -m radnet_jax.main --config=configs/compare.py --config.runs=DIR --workdir=OUT
    python -m radnet_jax.main --config=configs/compare.py --config.table=FILE.csv --workdir=OUT

`runs` is a folder of run folders. `table` is a CSV of runs, of means, or of predictions; docs/compare_your_runs.md says
which columns. OUT gets comparisons.csv, comparisons.json, comparisons.tex and report/.
"""

from __future__ import annotations

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    config = ConfigDict()
    config.run = "compare"
    config.name = "Which pretraining is best?"  # title of the report
    config.runs = ""
    config.table = ""
    config.protocol = "default"  # radnet_published, btl_v1: adds what that study did, as published, without a verdict
    config.primary_metric = ()  # of a table; each task has exactly one of these. Run folders name their own
    config.alpha = 0.05
    config.margin = 0.02  # differences within it count as none: the margin of "equivalent"
    config.n_resamples = 10_000
    config.seed = 0
    config.baseline = ""  # of a table of runs or means: compare with this start only, a smaller family
    config.scale = 1.0  # of a table of runs or means: 0.01 where it is in per cent
    config.experiments = ()  # of a table of runs or means: these only; all where empty
    config.std_ddof = 1  # of a table of means: 0 where its SDs divide by n
    config.curve = ""  # of run folders: a metric of metrics.jsonl, for the time to convergence
    return config.lock()
