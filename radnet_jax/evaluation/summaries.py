"""Starts over several tasks, or over the seeds of one: mean ranks, interquartile mean, probability of improvement.

These stand beside the verdicts and decide none of them. Over tasks, a start's value on a task is its mean over runs,
and the tasks are taken for a sample of those that one could meet. Within one task the runs of one seed are a block:
starts share split and order of data there, so ranks by seed are a Friedman test over seeds, for these patients.
"""

from __future__ import annotations

from collections.abc import Sequence
import dataclasses
import math
from typing import TYPE_CHECKING

import numpy as np

from radnet_jax.evaluation.statistics import across_tasks
from radnet_jax.evaluation.statistics.across_tasks import AcrossTasks, MeanRanks

if TYPE_CHECKING:
    from radnet_jax.evaluation.comparisons import Group

REASONS = {
    **across_tasks.REASONS,
    "one_start": "there is one start",
    "not_every_task": "a start was not run on every task",
    "seed_varies_nothing": "the seed varies nothing in the result of a start, so there are no seeds to rank it over",
    "different_seeds": "the starts were not run with the same seeds",
    "one_seed": "fewer than two seeds",
    "no_runs": "there are means only, no runs",
}
_N_RESAMPLES = 2_000


@dataclasses.dataclass(frozen=True)
class Summary:
    """All starts of a protocol, ranked over tasks or over the seeds of one task.

    Attributes:
      task: empty where it is over tasks.
      unit: "tasks" or "seeds": what the ranks are means over.
      blocks: their names.
      ranks: mean ranks, their errors, Friedman's test and the critical difference; None with a `reason`.
      iqm: over tasks: the interquartile mean of each start, where all tasks have one metric; else empty.
      improvement: over tasks: the probability that a run of the start with the best rank beats one of each start (0.5
        for itself); else empty.
      rank_over_seeds: over tasks: the mean rank of each start with its interval over seeds; else empty.
      reason: key of REASONS.
    """

    task: str
    protocol: str
    unit: str
    blocks: tuple[str, ...]
    starts: tuple[str, ...]
    ranks: MeanRanks | None
    iqm: tuple[AcrossTasks, ...]
    improvement: tuple[AcrossTasks, ...]
    rank_over_seeds: tuple[AcrossTasks, ...]
    reason: str


def summarise(groups: Sequence[Group], *, alpha: float, seed: int = 0) -> tuple[Summary, ...]:
    """Summaries of each protocol over its tasks, where there are several, and of each of its tasks over the seeds."""
    compared = [g for g in groups if g.compared]
    out = []
    for protocol in dict.fromkeys(g.protocol for g in compared):
        own = [g for g in compared if g.protocol == protocol]
        tasks = list(dict.fromkeys(g.task for g in own))
        if len(tasks) > 1:
            out.append(_over_tasks(protocol, tasks, own, alpha, seed))
        out += [_over_seeds(task, protocol, [g for g in own if g.task == task], alpha) for task in tasks]
    return tuple(out)


def _over_tasks(protocol: str, tasks: Sequence[str], groups: Sequence[Group], alpha: float, seed: int) -> Summary:
    starts = tuple(dict.fromkeys(g.start for g in groups))
    table = {(g.start, g.task): g for g in groups}
    nothing = Summary("", protocol, "tasks", tuple(tasks), starts, None, (), (), (), "")
    if len(starts) < 2:
        return dataclasses.replace(nothing, reason="one_start")
    # Variants of a task are places of their own in a table of runs, and have no one value for it.
    if len(table) < len(starts) * len(tasks) or len(table) < len(groups):
        return dataclasses.replace(nothing, reason="not_every_task")
    ranks = across_tasks.mean_ranks(np.array([[table[s, t].mean for s in starts] for t in tasks]), alpha=alpha)
    iqm: tuple[AcrossTasks, ...] = ()
    improvement: tuple[AcrossTasks, ...] = ()
    over_seeds: tuple[AcrossTasks, ...] = ()
    runs = {s: [table[s, t].values for t in tasks] for s in starts}
    if ranks.reason != "undefined_metric" and all(len(v) for values in runs.values() for v in values):
        best = starts[int(np.argmin(ranks.ranks))]
        settings = {"n_resamples": _N_RESAMPLES, "seed": seed}
        improvement = tuple(across_tasks.probability_of_improvement(runs[best], runs[s], **settings) for s in starts)
        over_seeds = across_tasks.mean_rank_intervals(list(runs.values()), **settings)
        if len({g.metric for g in groups}) == 1:
            iqm = tuple(across_tasks.iqm_interval(runs[s], **settings) for s in starts)
    found = {"ranks": ranks, "iqm": iqm, "improvement": improvement, "rank_over_seeds": over_seeds}
    return dataclasses.replace(nothing, **found, reason=ranks.reason)  # type: ignore[arg-type]


def _over_seeds(task: str, protocol: str, groups: Sequence[Group], alpha: float) -> Summary:
    starts = tuple(g.start for g in groups)
    seeds = groups[0].seeds
    reason = ""
    if len(groups) < 2:
        reason = "one_start"
    elif any(not g.seeds for g in groups):
        reason = "no_runs"
    elif not all(g.seed_varies for g in groups):
        reason = "seed_varies_nothing"
    elif any(sorted(g.seeds) != sorted(seeds) or len(set(g.seeds)) < len(g.seeds) for g in groups):
        reason = "different_seeds"
    elif len(seeds) < 2:
        reason = "one_seed"
    ranks = None
    if not reason:
        by_seed = [[dict(zip(g.seeds, g.values))[s] for g in groups] for s in sorted(seeds)]
        ranks = across_tasks.mean_ranks(np.array(by_seed), alpha=alpha)
        reason = ranks.reason
        ranks = None if math.isnan(ranks.ranks[0]) else ranks
    return Summary(task, protocol, "seeds", tuple(str(s) for s in sorted(seeds)), starts, ranks, (), (), (), reason)
