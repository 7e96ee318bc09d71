"""From a table of runs to comparisons: every pair of starts on each task x protocol, corrected together.

Two sources of variance are kept apart. Seeds: Welch's test between the runs of two starts, where the seed varies
something on both sides; where it varies one side only, the one-sample t-test of that side's runs against the other's
value (many random initialisations against one checkpoint, judged by a convex probe). Patients: the paired bootstrap of
the runs' mean metric on the test split. Each of these takes the other variance for naught, and both share one
difference, so that the larger of their p does not keep the level; where both exist there is a joint test as well, over
seeds and patients at once: se^2 = se_seeds^2 + se_patients^2 with Satterthwaite's degrees of freedom. The p of a
comparison is the largest of the three, and these enter one Holm correction over all pairs x tasks x protocols. (What a
seed does to single cases counts in both errors: the joint test errs on the careful side, as Owen, Ann. Appl. Stat. 1,
2007, shows of resampling both.)

Several runs from one of several checkpoints are no independent evidence about the start: their mean by checkpoint is
what the seed test takes. Where no seed of a probe matters but a start has several checkpoints, it is tested over these.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import dataclasses
import itertools
import math
from typing import Any

import numpy as np

from radnet_jax.errors import UserError
from radnet_jax.evaluation import verdicts
from radnet_jax.evaluation.checks import check_runs
from radnet_jax.evaluation.comparisons import Comparison, Comparisons, Group, is_reference
from radnet_jax.evaluation.ledger import Run, setting_of
from radnet_jax.evaluation.metrics import METRICS, entering
from radnet_jax.evaluation.statistics import bootstrap, correction, power, tests
from radnet_jax.evaluation.statistics.bootstrap import PairedDifference, Resampled
from radnet_jax.evaluation.summaries import summarise
from radnet_jax.evaluation.verdicts import EQUIVALENT, NOT_ENOUGH, RARE, UNDEFINED


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
    p_joint: float

    @property
    def p(self) -> float:
        return math.nan if self.reason else float(np.nanmax([self.p_seeds, self.p_patients, self.p_joint]))

    @property
    def joint(self) -> bool:
        """Whether there are both sources of variance."""
        return not self.seeds_reason and not self.reason and self.a.n_patients > 1

    def over_both(self, patients: PairedDifference, margin: float) -> tests.JointResult:
        error, df = tests.spread(np.array(self.a.tested), np.array(self.b.tested), self.fixed)
        errors = [(error, df), (patients.standard_error, self.a.n_patients - 1)]
        return tests.joint_test(patients.difference, errors, margin, level=patients.level)


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
            pairs += [_pair(a, b, resampled, rows_of, margin) for a, b in itertools.combinations(of_protocol, 2)]
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
    return is_reference(start), start


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
    n_by_class = bootstrap.count_patients(runs[0].primary_metric, truth.labels, truth.label_mask, truth.patient)
    few = (n_by_class.min(axis=0, initial=RARE) < RARE) & (n_by_class > 0).all(axis=0)
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
                rare=tuple(runs[0].label_names[j] for j in np.flatnonzero(few)),
                partial=resampled.n_partial / n_resamples,
                tested=_tested(values, [runs[i].checkpoint for i in rows]),
            )
        )
    return groups, rows_of, resampled


def _tested(values: Sequence[float], checkpoints: Sequence[str | None]) -> tuple[float, ...]:
    """The values of the runs; where several of them share one of several checkpoints, their means by checkpoint."""
    if len({*checkpoints} - {None}) < 2:
        return tuple(values)
    # A run from random weights, should there be one among them, stands for itself.
    of = _by(range(len(values)), lambda i: i if checkpoints[i] is None else checkpoints[i])
    return tuple(float(np.mean([values[i] for i in members])) for members in of.values())


def _varies(group: Group) -> bool:
    return group.seed_varies or group.checkpoints > 1


def _pair(
    a: Group, b: Group, resampled: Resampled, rows_of: Mapping[tuple[str, ...], list[int]], margin: float
) -> _Pair:
    rows_a, rows_b = (rows_of[(g.protocol, g.start, g.variant)] for g in (a, b))
    fixed: tests.Fixed = None
    seeds_reason, p_seeds = "", math.nan
    if not _varies(a) and not _varies(b):
        seeds_reason = "seed_varies_nothing"
    elif _varies(a) != _varies(b):
        fixed = "b" if _varies(a) else "a"
        seeds_reason = "fixed_runs_differ" if np.ptp((b if _varies(a) else a).tested) > 0 else ""
    if not seeds_reason:
        over_seeds = tests.welch_test(a.tested, b.tested, fixed=fixed)
        seeds_reason, p_seeds = over_seeds.reason, over_seeds.p
    patients = bootstrap.paired_difference(resampled, rows_a, rows_b)
    reason = a.reason or b.reason or patients.reason
    pair = _Pair(a, b, resampled, rows_a, rows_b, fixed, seeds_reason, p_seeds, patients.p, reason, math.nan)
    if not pair.joint:
        return pair
    return dataclasses.replace(pair, p_joint=pair.over_both(patients, margin).p)


def _row(pair: _Pair, p_corrected: float, alpha_row: float, alpha: float, margin: float) -> Comparison:
    a, b, nan = pair.a, pair.b, math.nan
    level = 1 - (alpha if pair.reason else alpha_row)
    patients = bootstrap.paired_difference(pair.resampled, pair.rows_a, pair.rows_b, level=level)
    read = bootstrap.paired_difference(pair.resampled, pair.rows_a, pair.rows_b, level=0.95)
    has_seeds = not pair.seeds_reason
    fixed = pair.fixed if has_seeds else None
    welch = tests.welch_test(a.tested, b.tested, level=level, fixed=fixed)
    p_equivalent = tests.tost_welch(a.tested, b.tested, margin, fixed=fixed).p if has_seeds else nan
    detectable_seeds = (
        power.smallest_detectable_welch(a.tested, b.tested, alpha=1 - level, fixed=fixed) if has_seeds else nan
    )
    detectable_patients = power.smallest_detectable_bootstrap(patients.standard_error, alpha=1 - level)
    detectable = float(np.fmax(detectable_seeds, detectable_patients))
    shown, shown_95 = (patients.low, patients.high), (read.low, read.high)
    if pair.joint:
        both = pair.over_both(patients, margin)
        shown, shown_95 = _wider(shown, both), _wider(shown_95, pair.over_both(read, margin))
        p_equivalent = max(p_equivalent, both.p_equivalent)
        joint_detectable = power.smallest_detectable_t(both.standard_error, both.df, alpha=1 - level)
        detectable = max(detectable, joint_detectable)
    # "Better" and "equivalent" hold for other patients and, where seeds count, for other seeds.
    apart = (patients.low > 0 or patients.high < 0) and (shown[0] > 0 or shown[1] < 0)
    equivalent = tests.inside_margin(*shown, margin) and (not has_seeds or p_equivalent < alpha_row)
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
        p_joint=pair.p_joint,
        p=pair.p,
        p_corrected=p_corrected,
        alpha=1 - level,
        low=shown[0],
        high=shown[1],
        low_95=shown_95[0],
        high_95=shown_95[1],
        low_seeds=welch.low if has_seeds else nan,
        high_seeds=welch.high if has_seeds else nan,
        effect_size=welch.hedges_g if has_seeds else nan,
        margin=margin,
        p_equivalent=p_equivalent,
        smallest_detectable=detectable,
        smallest_detectable_seeds=detectable_seeds,
        smallest_detectable_patients=detectable_patients,
        n_patients=a.n_patients,
        tested_a=len(a.tested),
        tested_b=len(b.tested),
        seeds_reason=pair.seeds_reason,
        verdict=verdict,
        clause=verdicts.clause(checkpoints=1 in (a.checkpoints, b.checkpoints), runs=pair.seeds_reason == "one_run"),
        reason=pair.reason,
    )


def _wider(interval: tuple[float, float], both: tests.JointResult) -> tuple[float, float]:
    """The interval over seeds and patients where it is the wider one, else that over patients."""
    low, high = interval
    return (both.low, both.high) if both.high - both.low > high - low else interval
