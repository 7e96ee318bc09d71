"""Runs whose truth is known: each start has a skill, seeds and patients have a stated spread."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import softmax

from radnet_jax.evaluation import ledger
from radnet_jax.evaluation.comparisons import Group
from radnet_jax.evaluation.ledger import Predictions
from radnet_jax.evaluation.metrics import METRICS

CLASSES = ("head", "neck", "chest", "abdomen", "pelvis", "leg")


def record(name: str, **changes: Any) -> dict[str, Any]:
    """What run.json holds, for a run of no importance."""
    return {
        "run_id": f"id-{name}",
        "name": name,
        "kind": "linear_probe",
        "task": "regions",
        "protocol": "linear_probe",
        "start": "ct",
        "variant": "",
        "seed": 0,
        "seed_varies": True,
        "checkpoint": None,
        "primary_metric": "accuracy",
        "metrics": {},
        "label_names": list(CLASSES),
        "task_kind": "single_label",
        "config": {"batch_size": 64},
        "dataset": {"name": "phantom", "fingerprint": "f" * 64},
        "code": {"version": "0.1.0", "source": "0" * 16, "commit": None, "dirty": None},
        "versions": {"python": "3.11", "jax": "0.10"},
        "topology": {"platform": "cpu", "device_kind": "cpu", "devices": 1, "processes": 1},
        "timings": {"total_s": 12.5, "train_s": 11.0},
        "adapter": {"channels": "repeat"},
    } | changes


class Cases:
    """Patients with some cases each; how hard a case is is shared by all runs, so that pairing them pays."""

    def __init__(self, *, n_patients: int = 100, per_patient: int = 4, seed: int = 0, classes: Sequence[str] = CLASSES):
        rng = np.random.default_rng(seed)
        n = n_patients * per_patient
        self.classes = classes
        self.n_patients = n_patients
        patient = np.repeat(np.arange(n_patients), per_patient)
        self.split = np.where(patient % 2 == 0, "test", "val")
        self.patient = np.array([f"p{i:05d}" for i in patient])
        self.case_id = np.array([f"c{i:06d}" for i in rng.permutation(n)])
        self.truth = rng.integers(0, len(classes), n)
        self.hard = rng.normal(0, 0.5, n_patients)[patient] + rng.normal(0, 1.0, n)
        self.noise = rng.normal(0, 1.0, (n, len(classes)))

    def predictions(self, skill: float, *, seed: int, spread: float = 0.3) -> Predictions:
        """A run of a start with this skill; `spread` is that of the seeds."""
        rng = np.random.default_rng([seed, 7])
        n, k = self.noise.shape
        one_hot = np.eye(k)[self.truth]
        logits = self.noise + spread * rng.normal(0, 1, (n, k)) + 2 * one_hot * (skill - self.hard)[:, None]
        return Predictions(
            split=self.split,
            case_id=self.case_id,
            patient=self.patient,
            scores=softmax(logits, axis=1),
            labels=one_hot,
            label_mask=np.ones((n, k)),
            facts={"sex": ["F" if i % 3 else None for i in range(n)]},
        )


def study(
    root: Path,
    cases: Cases,
    skills: Mapping[str, float],
    *,
    seeds: int = 4,
    protocol: str = "fine_tune",
    spread: float = 0.3,
    curves: Sequence[Mapping[str, float]] | None = None,
    **changes: Any,
) -> None:
    """Writes runs of each start, "start" or "start/variant"; seeds of different starts are independent."""
    for number, (name, skill) in enumerate(skills.items()):
        start, _, variant = name.partition("/")
        for seed in range(seeds):
            predictions = cases.predictions(skill, seed=1000 * number + seed, spread=spread)
            metrics = {}
            for split in ("val", "test"):
                p = predictions.of(split)
                metrics[split] = {m: METRICS.get(m)(p.scores, p.labels, p.label_mask) for m in METRICS.names()}
            title = f"{changes.get('task', 'regions')}-{protocol}-{start}{variant and '-' + variant}-seed-{seed}"
            own = record(
                title,
                kind="finetune" if protocol == "fine_tune" else "linear_probe",
                protocol=protocol,
                start=start,
                variant=variant,
                seed=seed,
                checkpoint=None if start == "scratch" else f"pretrained-{start}",
                metrics=metrics,
                label_names=list(cases.classes),
            )
            ledger.write_run(root / title, own | changes, predictions=predictions, curves=curves)


def group(
    start: str,
    values: Sequence[float],
    *,
    task: str = "t",
    protocol: str = "p",
    seeds: Sequence[int] | None = None,
    **changes: Any,
) -> Group:
    """A group of runs of no importance, with these values."""
    made = Group(
        task, protocol, start, "", "accuracy", True, len(values), tuple(range(len(values))), True, tuple(values),
        sum(values) / len(values), 0.0, 0.0, 1.0, "", 0.5, 10, 10, 1, (), "", tuple(map(str, values)),
    )  # fmt: skip
    changes |= {} if seeds is None else {"seeds": seeds}
    return dataclasses.replace(made, **changes)
