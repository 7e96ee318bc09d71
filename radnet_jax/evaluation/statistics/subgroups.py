"""Intervals by sex, age band, scanner or site: where a model is worse, and how little is known about it there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import dataclasses
from typing import Any

from jaxtyping import Num
import numpy as np

from radnet_jax.evaluation.statistics.bootstrap import Interval, bootstrap_interval
from radnet_jax.evaluation.statistics.weighted import MetricFunction

UNKNOWN = "unknown"


@dataclasses.dataclass(frozen=True)
class Subgroup:
    """A metric on the cases of which a fact has one value; `interval` says how many patients they are of."""

    fact: str
    value: str
    n_cases: int
    interval: Interval


def subgroup_intervals(
    metric: str | MetricFunction,
    scores: Num[np.ndarray, "n ..."],
    labels: Num[np.ndarray, "n ..."],
    facts: Mapping[str, Sequence[Any] | np.ndarray],
    *,
    label_mask: Num[np.ndarray, "n ..."] | None = None,
    groups: Sequence[Any] | np.ndarray | None,
    **how: Any,
) -> tuple[Subgroup, ...]:
    """The metric with its interval over patients in each subgroup, by fact and by value.

    Each interval stands for itself: two that overlap do not show that the subgroups are alike, and of many subgroups
    some look worse by chance. A subgroup in which the metric is undefined is listed with its reason, never left out.

    Args:
      metric: as for `bootstrap_interval`.
      scores: of the run.
      labels: 0 or 1.
      facts: the value of each case, by the name of the fact, e.g. {"sex": ["F", "M", ...], "scanner": [...]}. None, NaN
        and "" are the value "unknown".
      label_mask: 1 where known; None: all are.
      groups: the patient of each case, or None, said aloud.
      how: `n_resamples`, `method`, `strata`, `level`, `seed` of `bootstrap_interval`.

    Raises:
      ValueError: a fact that has not a value for each case.
    """
    scores, labels = np.asarray(scores), np.asarray(labels)
    mask = None if label_mask is None else np.asarray(label_mask)
    patients = None if groups is None else np.asarray(groups)
    strata = how.pop("strata", None)
    strata = None if strata is None else np.asarray(strata)
    out = []
    for fact, of_case in facts.items():
        values = np.array([_text(v) for v in of_case])
        if len(values) != len(labels):
            raise ValueError(f"{len(values)} values of {fact} for {len(labels)} cases")
        for value in sorted(set(values.tolist()), key=lambda v: (v == UNKNOWN, v)):
            rows = values == value
            interval = bootstrap_interval(
                metric,
                scores[rows],
                labels[rows],
                label_mask=None if mask is None else mask[rows],
                groups=None if patients is None else patients[rows],
                strata=None if strata is None else strata[rows],
                **how,
            )
            out.append(Subgroup(fact, value, int(rows.sum()), interval))
    return tuple(out)


def _text(value: Any) -> str:
    missing = value is None or value == "" or value != value  # NaN differs from itself
    return UNKNOWN if missing else str(value)
