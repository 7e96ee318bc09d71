"""The parts of benchmarks/statistics.py: bootstrap and DeLong's test against loops over scikit-learn, and coverage."""

from __future__ import annotations

from collections.abc import Callable
import statistics
import time
from typing import Any

from absl import flags
import numpy as np
from peers.sides import tell

_PART = flags.DEFINE_enum("part", "speed", ["speed", "bootstrap", "delong", "device", "coverage"], "What to measure.")
_CASES = flags.DEFINE_integer("cases", 25_596, "Cases, each of a patient of its own.")
_LABELS = flags.DEFINE_integer("labels", 14, "Labels, with 0.5 to 20 % positives.")
_RESAMPLES = flags.DEFINE_integer("resamples", 10_000, "Resamples.")
_LOOP = flags.DEFINE_integer("loop", 5, "Resamples of the loop over scikit-learn.")
_REPEATS = flags.DEFINE_integer("repeats", 20, "Of DeLong's test.")
_TRIALS = flags.DEFINE_integer("trials", 10_000, "Of each simulation of coverage; the dear ones take a part of them.")
_ONLY = flags.DEFINE_list("only", [], "Simulations of coverage to run, such as roc,ece; none: all.")


def main(argv: list[str]) -> None:
    del argv
    parts = {"bootstrap": _bootstrap, "delong": _delong, "device": _device, "coverage": _coverage}
    for part in ("bootstrap", "delong") if _PART.value == "speed" else (_PART.value,):
        parts[part]()


def _problem(*, ties: bool) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    shape = (_CASES.value, _LABELS.value)
    labels = (rng.random(shape) < np.geomspace(0.005, 0.2, _LABELS.value)).astype(int)
    scores = rng.normal(labels)
    return scores.round(2) if ties else scores, labels


def _timed(run: Callable[[], Any]) -> tuple[Any, float, float]:
    """Result, seconds, CPU seconds."""
    wall, cpu = time.perf_counter(), time.process_time()
    result = run()
    return result, time.perf_counter() - wall, time.process_time() - cpu


def _bootstrap() -> None:
    from sklearn.metrics import roc_auc_score

    from radnet_jax.evaluation.statistics.bootstrap import bootstrap_interval, resample
    from radnet_jax.evaluation.statistics.draws import resample_counts

    n, b = _CASES.value, _RESAMPLES.value
    for ties in (False, True):
        scores, labels = _problem(ties=ties)
        r, wall, cpu = _timed(lambda: resample("auroc", [scores], labels, groups=None, n_resamples=b, jackknife=False))  # noqa: B023
        _, bca_wall, bca_cpu = _timed(lambda: bootstrap_interval("auroc", scores, labels, groups=None, n_resamples=b))  # noqa: B023
        counts = next(resample_counts(n, b, 0))[: _LOOP.value]
        drawn = [np.repeat(np.arange(n), row) for row in counts]

        def loop() -> list[float]:
            of_labels = range(_LABELS.value)
            return [np.mean([roc_auc_score(labels[i, j], scores[i, j]) for j in of_labels]) for i in drawn]  # noqa: B023

        values, loop_wall, loop_cpu = _timed(loop)
        times = b / len(drawn)
        tell(
            part="bootstrap",
            ties=ties,
            seconds=wall,
            cpu_seconds=cpu,
            bca_cpu_seconds=bca_cpu,
            bca_seconds=bca_wall,
            loop_seconds=loop_wall * times,
            loop_cpu_seconds=loop_cpu * times,
            times_faster=loop_wall * times / wall,
            times_faster_cpu=loop_cpu * times / cpu,
            largest_difference=float(np.abs(r.values[0, : len(drawn)] - values).max()),
        )


def _delong() -> None:
    from radnet_jax.evaluation.statistics.delong import delong_test

    rng = np.random.default_rng(0)
    for share in (0.03, 0.3):
        labels = rng.random(_CASES.value) < share
        a, b = (rng.normal(labels.astype(float)) for _ in range(2))
        groups = rng.integers(0, _CASES.value // 3, _CASES.value)
        for name, of in (("none", None), ("3 cases a patient", groups)):
            taken = [_timed(lambda: delong_test(a, b, labels, groups=of))[1:] for _ in range(_REPEATS.value)]  # noqa: B023
            wall, cpu = (1000 * statistics.median(column) for column in zip(*taken))
            tell(part="delong", positives=share, groups=name, milliseconds=wall, cpu_milliseconds=cpu)


def _device() -> None:
    import jax

    from radnet_jax.evaluation.statistics.device import auroc_values
    from radnet_jax.evaluation.statistics.draws import resample_counts
    from radnet_jax.evaluation.statistics.weighted import weighted_metric

    scores, labels = _problem(ties=True)
    n = _CASES.value
    counts = np.concatenate(list(resample_counts(n, _RESAMPLES.value, 0))).astype(np.int8)
    blocks = np.array_split(counts, max(1, len(counts) // 500))
    group = np.arange(n)
    auroc_values(scores, labels, blocks[:1], group=group)  # compiles
    values, wall, _ = _timed(lambda: auroc_values(scores, labels, blocks, group=group))
    host = weighted_metric("auroc", scores, labels, None, group, n)(counts[:10])
    tell(
        part="device",
        device=jax.devices()[0].device_kind,
        seconds=wall,
        largest_difference=float(np.abs(np.mean(values[:10], axis=1) - host).max()),
    )


def _coverage() -> None:
    import interval_coverage

    parts = {part.__name__: part for part in interval_coverage.PARTS}
    for part in _ONLY.value or parts:
        for name, setting, share, trials in parts[part](_TRIALS.value):
            error = (share * (1 - share) / trials) ** 0.5
            row = {"covered": share, "said": 0.95, "standard_error": error, "trials": trials}
            tell(part="coverage", interval=name, setting=setting, **row)
