"""From a table of runs to comparisons: every pair of starts on each task x protocol, corrected together.

Two sources of variance are kept apart. Seeds: Welch's test between the runs of two starts, where the seed varies
something on both sides; where it varies one side only, the one-sample t-test of that side's runs against the other's
value (many random initialisations against one checkpoint, judged by a convex probe). Patients: the paired bootstrap of
the runs' mean metric on the test split. "A is better than B" claims both that other seeds and that other patients would
say so, hence needs both tests; the p of a comparison is the larger of the two (intersection-union test: Berger,
Technometrics 24, 1982), and these enter one Holm correction over all pairs x tasks x protocols.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import dataclasses
import itertools
import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from radnet_jax.errors import UserError
from radnet_jax.evaluation import verdicts
from radnet_jax.evaluation.canonical import jsonable
from radnet_jax.evaluation.checks import check_runs
from radnet_jax.evaluation.ledger import Run, setting_of
from radnet_jax.evaluation.metrics import METRICS, entering
from radnet_jax.evaluation.statistics import bootstrap, correction, power, tests
from radnet_jax.evaluation.statistics.bootstrap import Resampled
from radnet_jax.evaluation.summaries import Summary, summarise
from radnet_jax.evaluation.verdicts import EQUIVALENT, NOT_ENOUGH, UNDEFINED, TaskVerdict

FORMAT = 1
LAST_STARTS = ("scratch", "random")  # the reference stands second in each pair: "ct - scratch"


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
      left_out: labels that the mean over labels leaves out, by name.
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
      p: the larger of p_seeds and p_patients.
      p_corrected: Holm over the family.
      alpha: the level that Holm's procedure judges this comparison at.
      low: lower end of the paired patient interval at 1 - alpha.
      high: its upper end.
      low_95: the same at 95 %, for reading; no verdict rests on it.
      p_equivalent: the larger p of the two one-sided tests over seeds against the margin.
      smallest_detectable: at 80 % power and `alpha`; the larger of those over seeds and over patients.
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


@dataclasses.dataclass(frozen=True)
class _Pair:
    """A comparison before the family is known."""

    a: Group
    b: Group
    resampled: Resampled
    rows_a: Sequence[int]
    rows_b: Sequence[int]
    fixed: tests.Fixed
    seeds_reason: str
    p_seeds: float
    p_patients: float
    reason: str

    @property
    def p(self) -> float:
        return math.nan if self.reason else float(np.nanmax([self.p_seeds, self.p_patients]))


def compare(
    runs: Sequence[Run], *, alpha: float = 0.05, margin: float = 0.02, n_resamples: int = 10_000, seed: int = 0
) -> Comparisons:
    """Compares all pairs of starts within each task x protocol on the task's primary metric, on the test split.

    Args:
      runs: finished runs; pretraining runs are passed over.
      alpha: family-wise error.
      margin: differences inside (-margin, margin) count as none; in the metric's unit, declared beforehand.
      n_resamples: of the patients.
      seed: of the resamples.

    Raises:
      UserError: runs that `check_runs` refuses, no judged run, no test cases, an unknown metric, settings out of range.
    """
    if not 0 < alpha < 1 or not 0 < margin < 1 or n_resamples < 100 or seed < 0:
        raise UserError(
            "settings of the comparison out of range",
            got=f"alpha={alpha}, margin={margin}, n_resamples={n_resamples}, seed={seed}",
            expected="alpha and margin in (0, 1), n_resamples >= 100, seed >= 0",
        )
    judged = [r for r in runs if r.judged]
    if not judged:
        raise UserError("no run to compare", expected="runs with predictions")
    check_runs(judged)
    groups: list[Group] = []
    pairs: list[_Pair] = []
    for _, members in _by(judged, lambda r: r.task).items():
        task_groups, rows_of, resampled = _task_groups(members, n_resamples, seed)
        groups += task_groups
        for of_protocol in _by([g for g in task_groups if g.compared], lambda g: g.protocol).values():
            pairs += [_pair(a, b, resampled, rows_of) for a, b in itertools.combinations(of_protocol, 2)]
    p = np.array([pair.p for pair in pairs])
    corrected, alphas = correction.holm(p), correction.holm_alphas(p, alpha)
    rows = [_row(pair, c, a, alpha, margin) for pair, c, a in zip(pairs, corrected.tolist(), alphas.tolist())]
    task_verdicts = []
    for (task, protocol), of_protocol in _by([g for g in groups if g.compared], lambda g: (g.task, g.protocol)).items():
        own = [row for row in rows if (row.task, row.protocol) == (task, protocol)]
        task_verdicts.append(verdicts.judge_task(of_protocol, own))
    family = int((~np.isnan(p)).sum())
    notes = verdicts.notes(groups, rows, family, alpha, n_resamples)
    summaries = summarise(groups, alpha=alpha, seed=seed)
    told = (tuple(groups), tuple(rows), tuple(task_verdicts), notes, summaries)
    return Comparisons(alpha, margin, n_resamples, seed, family, *told)


def _by(items: Sequence[Any], key: Any) -> dict[Any, list[Any]]:
    out: dict[Any, list[Any]] = {}
    for item in items:
        out.setdefault(key(item), []).append(item)
    return out


def _start_order(start: str) -> tuple[bool, str]:
    return start in LAST_STARTS, start


def _task_groups(
    runs: Sequence[Run], n_resamples: int, seed: int
) -> tuple[list[Group], Mapping[tuple[str, ...], list[int]], Resampled]:
    """The groups of a task, where the runs of each stand among the resampled ones, and these."""
    metric = METRICS.get(runs[0].primary_metric)
    tests_of = [run.predictions.of("test") for run in runs]
    if not len(tests_of[0]):
        raise UserError(f"task {runs[0].task!r} has no test cases", fix="build the dataset with a test split")
    truth = tests_of[0]
    resampled = bootstrap.resample(
        runs[0].primary_metric,
        [t.scores for t in tests_of],
        truth.labels,
        groups=truth.patient,
        label_mask=truth.label_mask,
        n_resamples=n_resamples,
        seed=seed,
    )
    enter = entering(runs[0].primary_metric, truth.labels, truth.label_mask)
    on_test = [metric(t.scores, t.labels, t.label_mask) for t in tests_of]
    on_val = [metric(v.scores, v.labels, v.label_mask) for v in (run.predictions.of("val") for run in runs)]
    rows_of = _by(range(len(runs)), lambda i: (setting_of(runs[i]), runs[i].start, runs[i].variant))
    mean_val = {key: float(np.mean([on_val[i].value for i in rows])) for key, rows in rows_of.items()}
    groups = []
    for key in sorted(rows_of, key=lambda k: (k[0], _start_order(k[1]), k[2])):
        rows = rows_of[key]
        protocol, start, variant = key
        rivals = [k for k in rows_of if k[:2] == key[:2]]
        undefined_val = len(rivals) > 1 and any(math.isnan(mean_val[k]) for k in rivals)
        # The first of equals; where val can't choose, the first stands for the start and carries the reason.
        best = rivals[0] if undefined_val else max(rivals, key=lambda k: mean_val[k])
        reasons = [on_test[i].reason for i in rows if on_test[i].reason]
        values = [on_test[i].value for i in rows]
        varies = all(runs[i].seed_varies for i in rows)
        interval = bootstrap.interval_of_mean(resampled, rows)
        groups.append(
            Group(
                task=runs[0].task,
                protocol=protocol,
                start=start,
                variant=variant,
                metric=runs[0].primary_metric,
                compared=key == best,
                n=len(rows),
                seeds=tuple(runs[i].seed for i in rows),
                seed_varies=varies,
                values=tuple(values),
                mean=float(np.mean(values)),
                sd=float(np.std(values, ddof=1)) if varies and len(rows) > 1 else math.nan,
                low=interval.low,
                high=interval.high,
                interval_reason=interval.reason,
                mean_val=mean_val[key],
                n_cases=int(enter.sum()),
                n_patients=len(set(np.asarray(truth.patient)[enter].tolist())),
                checkpoints=len({runs[i].checkpoint for i in rows} - {None}),
                left_out=tuple(runs[0].label_names[j] for j in on_test[rows[0]].left_out),
                reason=reasons[0] if reasons else "no_val_metric" if undefined_val else "",
                runs=tuple(runs[i].run_id for i in rows),
                fraction=runs[rows[0]].fraction,
            )
        )
    return groups, rows_of, resampled


def _pair(a: Group, b: Group, resampled: Resampled, rows_of: Mapping[tuple[str, ...], list[int]]) -> _Pair:
    rows_a, rows_b = (rows_of[(g.protocol, g.start, g.variant)] for g in (a, b))
    fixed: tests.Fixed = None
    seeds_reason, p_seeds = "", math.nan
    if not a.seed_varies and not b.seed_varies:
        seeds_reason = "seed_varies_nothing"
    elif a.seed_varies != b.seed_varies:
        fixed = "b" if a.seed_varies else "a"
        seeds_reason = "fixed_runs_differ" if np.ptp((b if a.seed_varies else a).values) > 0 else ""
    if not seeds_reason:
        over_seeds = tests.welch_test(a.values, b.values, fixed=fixed)
        seeds_reason, p_seeds = over_seeds.reason, over_seeds.p
    patients = bootstrap.paired_difference(resampled, rows_a, rows_b)
    reason = a.reason or b.reason or patients.reason
    return _Pair(a, b, resampled, rows_a, rows_b, fixed, seeds_reason, p_seeds, patients.p, reason)


def _row(pair: _Pair, p_corrected: float, alpha_row: float, alpha: float, margin: float) -> Comparison:
    a, b, nan = pair.a, pair.b, math.nan
    level = 1 - (alpha if pair.reason else alpha_row)
    patients = bootstrap.paired_difference(pair.resampled, pair.rows_a, pair.rows_b, level=level)
    read = bootstrap.paired_difference(pair.resampled, pair.rows_a, pair.rows_b, level=0.95)
    has_seeds = not pair.seeds_reason
    fixed = pair.fixed if has_seeds else None
    welch = tests.welch_test(a.values, b.values, level=level, fixed=fixed)
    tost = tests.tost_welch(a.values, b.values, margin, fixed=fixed)
    detectable_seeds = (
        power.smallest_detectable_welch(a.values, b.values, alpha=1 - level, fixed=fixed) if has_seeds else nan
    )
    detectable_patients = power.smallest_detectable_bootstrap(patients.standard_error, alpha=1 - level)
    # "Better" and "equivalent" hold for other patients and, where seeds count, for other seeds.
    apart = patients.low > 0 or patients.high < 0
    equivalent = tests.inside_margin(patients.low, patients.high, margin) and (not has_seeds or tost.p < alpha_row)
    if pair.reason:
        verdict = UNDEFINED
    elif p_corrected < alpha and apart:
        first, second = (a.start, b.start) if patients.difference > 0 else (b.start, a.start)
        verdict = f"{first} is better than {second}"
    else:
        verdict = EQUIVALENT if equivalent else NOT_ENOUGH
    return Comparison(
        task=a.task,
        protocol=a.protocol,
        variant=", ".join(f"{g.start}: {g.variant}" for g in (a, b) if g.variant),
        metric=a.metric,
        a=a.start,
        b=b.start,
        n_a=a.n,
        n_b=b.n,
        mean_a=a.mean,
        mean_b=b.mean,
        delta=a.mean - b.mean,
        delta_relative=welch.delta_relative,
        fixed={"a": a.start, "b": b.start}.get(fixed or "", ""),
        t=welch.t if has_seeds else nan,
        df=welch.df if has_seeds else nan,
        p_seeds=pair.p_seeds,
        p_patients=pair.p_patients,
        p=pair.p,
        p_corrected=p_corrected,
        alpha=1 - level,
        low=patients.low,
        high=patients.high,
        low_95=read.low,
        high_95=read.high,
        low_seeds=welch.low if has_seeds else nan,
        high_seeds=welch.high if has_seeds else nan,
        effect_size=welch.hedges_g if has_seeds else nan,
        margin=margin,
        p_equivalent=tost.p if has_seeds else nan,
        smallest_detectable=float(np.fmax(detectable_seeds, detectable_patients)),
        smallest_detectable_seeds=detectable_seeds,
        smallest_detectable_patients=detectable_patients,
        n_patients=a.n_patients,
        seeds_reason=pair.seeds_reason,
        verdict=verdict,
        clause=verdicts.clause(checkpoints=1 in (a.checkpoints, b.checkpoints), runs=pair.seeds_reason == "one_run"),
        reason=pair.reason,
    )
