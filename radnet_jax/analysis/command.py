"""The `analyze` run: of two networks, or of all starts and tasks of a study."""

from __future__ import annotations

from pathlib import Path

from ml_collections import ConfigDict

from radnet_jax.analysis import of_study
from radnet_jax.analysis import run as one


def run(config: ConfigDict, workdir: str | Path) -> Path:
    """Runs `of_study.run` where the config names a study, else `analysis.run.run`; returns the folder."""
    return of_study.run(config, workdir) if config.study else one.run(config, workdir)
