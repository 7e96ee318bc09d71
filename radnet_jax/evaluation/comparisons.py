"""What a comparison of starts consists of: groups of runs, pairs of them, and all of a study's with its verdicts."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from radnet_jax.evaluation.canonical import jsonable
from radnet_jax.evaluation.summaries import Summary
from radnet_jax.evaluation.verdicts import TaskVerdict

FORMAT = 1
_LAST_STARTS = ("scratch", "random")


def is_reference(start: str) -> bool:
    """Whether a start is random weights by its name: it stands second in each pair, "ct - scratch"."""
    return start.lower() in _LAST_STARTS


@dataclasses.dataclass(frozen=True)
class Group:
    """The runs of one start (and variant) on one task x protocol.

    Attributes:
      protocol: with the share of the training labels, where it is not all of them: "fine_tune, 10 % of labels". Each
        share is a question of its own.
      compared: False for a variant that another one of the same start was preferred to, by its mean on val.
      values: the metric on test, by run.
      sd: standard deviation over seeds, ddof 1; NaN where the seed varies nothing or there is one run.
      low: lower end of the 95 % interval (BCa) of the mean over patients, for these runs.
      high: its upper end.
      n_cases: test cases that enter the metric.
      n_patients: patients with at least one of these.
      checkpoints: number of different pretraining runs; 0 where the start has none.
      tested: what the seed test takes: the values of the runs, or their mean by checkpoint where several runs share one
        of several checkpoints; empty where there are means only.
      left_out: labels that the mean over labels leaves out, by name.
      rare: labels of which a class that the metric needs has fewer than `verdicts.RARE` patients on test.
      partial: share of the resamples that lack one of the metric's labels, whose mean over labels leaves it out there.
      reason: why the metric is undefined, a key of verdicts.REASONS.
      fraction: share of the training labels, in (0, 1].
    """

    task: str
    protocol: str
    start: str
    variant: str
    metric: str
    compared: bool
    n: int
    seeds: tuple[int, ...]
    seed_varies: bool
    values: tuple[float, ...]
    mean: float
    sd: float
    low: float
    high: float
    interval_reason: str
    mean_val: float
    n_cases: int
    n_patients: int
    checkpoints: int
    left_out: tuple[str, ...]
    reason: str
    runs: tuple[str, ...]
    fraction: float = 1.0
    tested: tuple[float, ...] = ()
    rare: tuple[str, ...] = ()
    partial: float = 0.0


@dataclasses.dataclass(frozen=True)
class Comparison:
    """One pair of starts; differences are a minus b, in the metric's unit.

    Attributes:
      variant: the variants that stand for the starts, where there are some ("scratch: bn_initial").
      delta_relative: delta / mean_b.
      fixed: the start whose result no seed varies, where p_seeds is the one-sample t-test of the other's runs against
        it; empty where it is Welch's test or there is `seeds_reason`.
      t: over seeds; with df, p_seeds, low_seeds, high_seeds and effect_size (Hedges' g) NaN where there is
        `seeds_reason`.
      p_joint: over seeds and patients at once, where both were tested; else NaN.
      p: the largest of p_seeds, p_patients and p_joint.
      p_corrected: Holm over the family.
      alpha: the level that Holm's procedure judges this comparison at.
      low: lower end at 1 - alpha of the interval over patients, or of the one over seeds and patients where that is
        wider; over seeds where nothing is known of patients.
      high: its upper end.
      low_95: the same at 95 %, for reading; no verdict rests on it.
      p_equivalent: the larger p of the two one-sided tests against the margin: over seeds and, where patients are
        known, over both.
      smallest_detectable: at 80 % power and `alpha`; the largest of those over seeds, over patients and over both.
      tested_a: numbers that the seed test took of a: its runs, or its checkpoints where several runs share one.
      tested_b: of b.
      verdict: "A is better than B", "equivalent", "not enough evidence" or "undefined".
      clause: "for these checkpoints" where a start has only one, "for these runs" where one run hides the variance of
        the seeds; else empty.
    """

    task: str
    protocol: str
    variant: str
    metric: str
    a: str
    b: str
    n_a: int
    n_b: int
    mean_a: float
    mean_b: float
    delta: float
    delta_relative: float
    fixed: str
    t: float
    df: float
    p_seeds: float
    p_patients: float
    p_joint: float
    p: float
    p_corrected: float
    alpha: float
    low: float
    high: float
    low_95: float
    high_95: float
    low_seeds: float
    high_seeds: float
    effect_size: float
    margin: float
    p_equivalent: float
    smallest_detectable: float
    smallest_detectable_seeds: float
    smallest_detectable_patients: float
    n_patients: int
    tested_a: int
    tested_b: int
    seeds_reason: str
    verdict: str
    clause: str
    reason: str


@dataclasses.dataclass(frozen=True)
class Comparisons:
    """All that a study's runs say: groups, pairs, verdicts, and the settings and notes they are to be read with."""

    alpha: float
    margin: float
    n_resamples: int
    seed: int
    family_size: int
    groups: tuple[Group, ...]
    rows: tuple[Comparison, ...]
    verdicts: tuple[TaskVerdict, ...]
    notes: tuple[str, ...]
    summaries: tuple[Summary, ...] = ()

    def to_json(self) -> dict[str, Any]:
        return {"format": FORMAT} | {f.name: jsonable(getattr(self, f.name)) for f in dataclasses.fields(self)}

    def write(self, path: str | Path) -> None:
        """Writes comparisons.json; a number that is undefined is null, with its reason."""
        Path(path).write_text(json.dumps(self.to_json(), indent=1, allow_nan=False) + "\n")
