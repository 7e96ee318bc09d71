"""What the quickstart shows: pretraining on CT phantoms gives features that a random network has not."""

import json
import os
import subprocess
import sys

import pytest

from radnet_jax.evaluation import ledger
from tests.tiny import ROOT

# The quickstart's own data and pretraining, cut to less than half of its steps; then neighbours of the features.
SCRIPT = """
import sys
from pathlib import Path

from ml_collections import ConfigDict

from radnet_jax import probe, train
from radnet_jax.main import load_config
from radnet_jax.study import expand, spec

config, workdir = load_config(Path("configs/quickstart.py")), Path(sys.argv[1])
study = spec.read(config)
for job in expand.dataset_jobs(study, workdir, print):
    if job.dataset == "ct":
        job.run(job.place)
job = next(job for job in expand.pretraining_jobs(study, workdir) if job.name == "pretrain ct")
short = job.config.to_dict() | {"total_steps": 60}
train.run(ConfigDict(short).lock(), job.place)

template = load_config(Path("configs/evaluate/knn.py"), "smoke").to_dict()
template["data"]["dir"] = short["data"]["dir"]
for name, changes, batch_stats in (
    ("pretrained", dict(init_from=str(job.place)), "start"),
    ("initial", dict(input=config.tasks.body_region.input), "initial"),
    ("reestimated", dict(input=config.tasks.body_region.input), "reestimated"),
):
    tags = template["tags"] | dict(task="body_region", start=name)
    settings = template["probe"] | dict(batch_stats=batch_stats)
    probe.run(ConfigDict(template | changes | dict(tags=tags, probe=settings, name=name)).lock(), workdir / name)
"""
MARGIN = 0.15


def environment():
    """One device and full optimisation: what a user has, not what the other tests have."""
    dropped = ("JAX_NUM_CPU_DEVICES", "JAX_DISABLE_MOST_OPTIMIZATIONS")
    return {k: v for k, v in os.environ.items() if k not in dropped}


def test_neighbours_of_pretrained_features_beat_those_of_random_ones(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path)], cwd=ROOT, env=environment(), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    accuracy = {
        name: ledger.read_run(tmp_path / name).metrics["test"]["accuracy"]["value"]
        for name in ("pretrained", "initial", "reestimated")
    }
    assert accuracy["pretrained"] > max(accuracy["initial"], accuracy["reestimated"]) + MARGIN, accuracy


@pytest.mark.slow
def test_the_quickstart_finds_the_ct_start_better_than_scratch(tmp_path):
    command = ["--config=configs/quickstart.py", f"--workdir={tmp_path}/quickstart"]
    done = subprocess.run(
        [sys.executable, "-m", "radnet_jax.main", *command], cwd=ROOT, env=environment(), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    comparisons = json.loads((tmp_path / "quickstart" / "report" / "comparisons.json").read_text())
    verdicts = {(r["protocol"], r["a"], r["b"]): r["verdict"] for r in comparisons["rows"]}
    assert verdicts["linear_probe", "ct", "scratch"] == "ct is better than scratch"
