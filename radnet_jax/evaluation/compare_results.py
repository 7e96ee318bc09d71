"""Comparisons of run-level results: what tables without predictions of cases support, and what is only exploratory.

The rules are those of `compare`: one primary metric for each task, declared; one Holm correction over all pairs x tasks
on it; "better" and "equivalent" at the corrected level. What is missing are the patients, so a verdict rests on the
seed test alone and is restricted to these test cases. Other metrics are tested without correction, and marked so.
"""

from __future__ import annotations

from collections.abc import Sequence
import dataclasses
import itertools
import math
from typing import Any

import numpy as np

from radnet_jax.errors import UserError, nearest
from radnet_jax.evaluation import verdicts
from radnet_jax.evaluation.comparisons import Comparison, Comparisons, Group, is_reference
from radnet_jax.evaluation.results import Cell, Place
from radnet_jax.evaluation.statistics import correction, power, tests
from radnet_jax.evaluation.summaries import summarise
from radnet_jax.evaluation.verdicts import EQUIVALENT, NOT_ENOUGH, UNDEFINED

EXPLORATORY = "exploratory"
_LOWER_IS_BETTER = ("loss", "error", "brier", "ece", "hd95")

Pair = tuple[Cell, Cell]


def compare_results(
    cells: Sequence[Cell],
    *,
    primary_metric: Sequence[str] = (),
    alpha: float = 0.05,
    margin: float = 0.02,
    baseline: str = "",
) -> Comparisons:
    """Compares starts within each experiment x task x variant on its primary metric, by the seeds alone.

    Args:
      cells: the table.
      primary_metric: declared names, higher is better, values in [0, 1]; each task has exactly one of them. May be
        empty where each task has one metric only.
      alpha: family-wise error.
      margin: differences inside (-margin, margin) count as none.
      baseline: compare every start with this one only, a smaller family; all pairs where empty.

    Raises:
      UserError: settings out of range, no pair, an unknown baseline, a task without primary metric or with two, a
        primary metric outside [0, 1] or of which lower is better.
    """
    if not 0 < alpha < 1 or not 0 < margin < 1:
        raise UserError("settings of the comparison out of range", got=f"{alpha=}, {margin=}", expected="in (0, 1)")
    chosen = _primary(cells, primary_metric)
    found = pairs([c for c in cells if c.place in chosen], baseline)
    if not found:
        raise UserError("nothing to compare", expected="two starts on the same experiment, task, variant and metric")
    p = np.array([_test(a, b).p for a, b in found])
    corrected, alphas = correction.holm(p).tolist(), correction.holm_alphas(p, alpha).tolist()
    rows = []
    for (a, b), p_corrected, level in zip(found, corrected, alphas):
        rows.append(_judged(seed_row(a, b, alpha if math.isnan(level) else level, margin), p_corrected, alpha))
    groups = [_group(c) for c in cells if c.place in chosen]
    told = []
    for place in chosen:
        own = [row for row in rows if _place(row) == place]
        here = [g for g in groups if _place(g) == place]
        verdict = _against(baseline, here, own) if baseline else verdicts.judge_task(here, own)
        told.append(dataclasses.replace(verdict, protocol=_setting(place.experiment, place.variant)))
    family = int((~np.isnan(p)).sum())
    notes = (*_notes(cells, chosen, rows, family), *verdicts.out_of_reach(rows, alpha, family))
    out = Comparisons(alpha, margin, 0, 0, family, tuple(groups), tuple(rows), tuple(told), notes)
    return dataclasses.replace(out, summaries=summarise(for_page(out).groups, alpha=alpha))


def for_page(c: Comparisons) -> Comparisons:
    """The comparisons of a table as the report takes them: experiment and variant together are one setting."""

    def joined(item: Any) -> Any:
        return dataclasses.replace(item, protocol=_setting(item.protocol, item.variant), variant="")

    return dataclasses.replace(c, groups=tuple(map(joined, c.groups)), rows=tuple(map(joined, c.rows)))


def _setting(experiment: str, variant: str) -> str:
    return ", ".join(filter(None, (experiment, variant)))


def explore(
    cells: Sequence[Cell], *, alpha: float = 0.05, margin: float = 0.02, baseline: str = ""
) -> list[Comparison]:
    """All pairs on metrics that are not primary: uncorrected, interval at 1 - alpha, no verdict but "exploratory"."""
    return [_marked(seed_row(a, b, alpha, margin), EXPLORATORY) for a, b in pairs(cells, baseline)]


def pairs(cells: Sequence[Cell], baseline: str = "") -> list[Pair]:
    """All pairs of starts at the same place, the reference second; those with `baseline` where one is named.

    Raises:
      UserError: no such baseline.
    """
    starts = sorted({c.start for c in cells}, key=lambda s: (s == baseline, is_reference(s), s))
    if baseline and baseline not in starts:
        raise UserError(f"no start {baseline!r}{nearest(baseline, starts)}", expected=", ".join(starts))
    out: list[Pair] = []
    for place in dict.fromkeys(c.place for c in cells):
        here = sorted((c for c in cells if c.place == place), key=lambda c: starts.index(c.start))
        out += [pair for pair in itertools.combinations(here, 2) if not baseline or pair[1].start == baseline]
    return out


def seed_row(a: Cell, b: Cell, alpha: float, margin: float) -> Comparison:
    """One pair by Welch's test over the seeds, a minus b; no verdict yet. `alpha` is the level of its interval."""
    nan = math.nan
    reason = a.reason or b.reason
    welch = _test(a, b, 1 - alpha)
    reason = reason or welch.reason
    tost = tests.tost_welch(a.values, b.values, margin)
    detectable = nan if reason else power.smallest_detectable_welch(a.values, b.values, alpha=alpha)
    read = _test(a, b, 0.95)
    delta = a.mean - b.mean
    return Comparison(
        task=a.place.task,
        protocol=a.place.experiment,
        variant=a.place.variant,
        metric=a.place.metric,
        a=a.start,
        b=b.start,
        n_a=len(a.values),
        n_b=len(b.values),
        mean_a=a.mean,
        mean_b=b.mean,
        delta=delta,
        delta_relative=delta / b.mean if b.mean else nan,
        fixed="",
        t=welch.t,
        df=welch.df,
        p_seeds=welch.p,
        p_patients=nan,
        p_joint=nan,
        p=welch.p,
        p_corrected=nan,
        alpha=alpha,
        low=welch.low,
        high=welch.high,
        low_95=read.low,
        high_95=read.high,
        low_seeds=welch.low,
        high_seeds=welch.high,
        effect_size=welch.hedges_g,
        margin=margin,
        p_equivalent=tost.p,
        smallest_detectable=detectable,
        smallest_detectable_seeds=detectable,
        smallest_detectable_patients=nan,
        n_patients=0,
        tested_a=len(a.values),
        tested_b=len(b.values),
        seeds_reason="",
        verdict=UNDEFINED,
        clause=verdicts.clause(checkpoints=True, runs=False, cases=True),
        reason=reason,
    )


def _test(a: Cell, b: Cell, level: float = 0.95) -> tests.WelchResult:
    return tests.welch_test(a.values, b.values, level=level)


def _marked(row: Comparison, verdict: str) -> Comparison:
    return dataclasses.replace(row, verdict=UNDEFINED if row.reason else verdict)


def _judged(row: Comparison, p_corrected: float, alpha: float) -> Comparison:
    row = dataclasses.replace(row, p_corrected=p_corrected)
    if p_corrected < alpha:
        first, second = verdicts.better_of(row)
        return _marked(row, f"{first} is better than {second}")
    # As in `compare`, the interval that is shown lies inside the margin: stricter than the two one-sided tests.
    inside = tests.inside_margin(row.low, row.high, row.margin)
    return _marked(row, EQUIVALENT if inside else NOT_ENOUGH)


def _place(item: Comparison | Group) -> Place:
    return Place(item.protocol, item.task, item.variant, item.metric)


def _against(baseline: str, groups: Sequence[Group], rows: Sequence[Comparison]) -> verdicts.TaskVerdict:
    """The verdict of a task where starts were compared with one baseline only, and not with each other."""
    heard: dict[str, list[str]] = {}
    for row in sorted(rows, key=lambda r: -r.delta):
        if verdicts.is_better(row):
            relation = "better than" if row.delta > 0 else "worse than"
        else:
            relation = {EQUIVALENT: "equivalent to", UNDEFINED: "not comparable with"}.get(
                row.verdict, "undecided against"
            )
        heard.setdefault(relation, []).append(row.a)
    restricted = next((row.clause for row in rows), "")
    parts = [f"{relation} {baseline}: {verdicts.join(starts)}" for relation, starts in heard.items()]
    headline = f"{'; '.join(parts)}; {restricted}" if parts else f"no start beside {baseline}"
    headline = headline[:1].upper() + headline[1:]
    sentence = "; ".join([headline, *map(verdicts.evidence, rows)]) + "."
    leaders = tuple(heard.get("better than", ())) or (baseline,)
    return verdicts.TaskVerdict(groups[0].task, "", groups[0].metric, headline, sentence, leaders, restricted)


def _primary(cells: Sequence[Cell], declared: Sequence[str]) -> list[Place]:
    """The places whose metric is primary: one for each experiment x task x variant."""
    metrics: dict[tuple[str, str, str], list[str]] = {}
    for place in dict.fromkeys(c.place for c in cells):
        metrics.setdefault(place[:3], []).append(place.metric)
    every = list(dict.fromkeys(c.place.metric for c in cells))
    for name in declared:
        if name not in every:
            raise UserError(f"no metric {name!r} in the table{nearest(name, every)}", expected=", ".join(every))
    chosen = []
    for task, names in metrics.items():
        own = [n for n in names if n in declared] if declared else names
        if len(own) != 1:
            raise UserError(
                f"task {' '.join(filter(None, task))} needs one primary metric",
                got=", ".join(own) or f"none of {', '.join(declared)}",
                expected=f"one of {', '.join(names)}",
                fix="declare it before looking: --config.primary_metric=NAME",
            )
        if any(part in _LOWER_IS_BETTER for part in own[0].lower().replace("-", "_").split("_")):
            raise UserError(f"primary metric {own[0]!r}", expected="a metric of which higher is better")
        chosen.append(Place(*task, own[0]))
    for cell in (c for c in cells if c.place in chosen):
        values = cell.values if math.isnan(cell.stated_mean) else (cell.mean,)
        outside = [v for v in values if not (math.isnan(v) or -1e-9 <= v <= 1 + 1e-9)]
        if outside:
            raise UserError(
                f"{cell.place.metric} of {cell.start} on {cell.place.task} is not between 0 and 1",
                got=f"{outside[0]:g}",
                fix="for a table in per cent: --config.scale=0.01",
            )
    return chosen


def _group(cell: Cell) -> Group:
    nan = math.nan
    return Group(
        task=cell.place.task,
        protocol=cell.place.experiment,
        start=cell.start,
        variant=cell.place.variant,
        metric=cell.place.metric,
        compared=True,
        n=len(cell.values),
        seeds=(),
        seed_varies=True,
        values=cell.values if math.isnan(cell.stated_mean) else (),
        mean=cell.mean,
        sd=float(np.std(cell.values, ddof=1)) if len(cell.values) > 1 else nan,
        low=nan,
        high=nan,
        interval_reason="no_predictions",
        mean_val=nan,
        n_cases=0,
        n_patients=0,
        checkpoints=1,
        left_out=(),
        reason="" if not math.isnan(cell.mean) else "undefined_metric",
        runs=cell.runs,
        tested=cell.values if math.isnan(cell.stated_mean) else (),
    )


def _notes(cells: Sequence[Cell], chosen: Sequence[Place], rows: Sequence[Comparison], family: int) -> tuple[str, ...]:
    out = [
        "The table has no predictions of cases: every verdict rests on the seed test alone, for these test cases. "
        "Whether other patients would say so can't be known from it.",
        "The table does not say how many pretraining runs stand behind a start: verdicts are for these checkpoints.",
    ]
    means = [c for c in cells if not math.isnan(c.stated_mean)]
    if means:
        out.append("Tests from stated means and SDs: exact to the digits of the table, and no run can be looked at.")
    starts = list(dict.fromkeys(c.start for c in cells))
    for place in chosen:
        absent = sorted({*starts} - {c.start for c in cells if c.place == place})
        if absent and not means:
            where = " ".join(filter(None, place))
            out.append(f"{where}: no runs of {verdicts.join(absent)}.")
    for reason in sorted({row.reason for row in rows if row.reason}):
        of = [row for row in rows if row.reason == reason]
        named = "; ".join(f"{' '.join(filter(None, _place(r)))}: {r.a} and {r.b}" for r in of[:3])
        more = f" and {len(of) - 3} more" if len(of) > 3 else ""
        out.append(f"{len(of)} undefined, {verdicts.REASONS[reason]}: {named}{more}. Not counted in the {family}.")
    return tuple(out)
