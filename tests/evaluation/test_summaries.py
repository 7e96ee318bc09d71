"""Starts over tasks and over seeds: where ranks exist, what they are, and why they do not exist elsewhere."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

from radnet_jax.evaluation import ledger, summaries
from radnet_jax.evaluation.compare import compare
from radnet_jax.evaluation.statistics import exact
from radnet_jax.evaluation.summaries import summarise
from tests.evaluation.simulated import Cases, group, study


def test_ranks_over_seeds_pair_the_runs_of_a_seed():
    a, b = group("a", [0.9, 0.5, 0.8]), group("b", [0.6, 0.7, 0.7], seeds=(2, 1, 0))
    (s,) = summarise([a, b], alpha=0.05)
    # By seed: 0.9 against 0.7, 0.5 against 0.7, 0.8 against 0.6.
    assert (s.unit, s.blocks, s.reason) == ("seeds", ("0", "1", "2"), "out_of_reach")
    assert s.ranks.ranks == pytest.approx((4 / 3, 5 / 3))


@pytest.mark.parametrize(
    ("groups", "reason"),
    [
        ([group("a", [0.5, 0.6])], "one_start"),
        ([group("a", [0.5, 0.6]), group("b", [0.5, 0.6], seed_varies=False)], "seed_varies_nothing"),
        ([group("a", [0.5, 0.6]), group("b", [0.5, 0.6], seeds=(1, 2))], "different_seeds"),
        ([group("a", [0.5, 0.6]), group("b", [0.5])], "different_seeds"),
        ([group("a", [0.5]), group("b", [0.6])], "one_seed"),
        ([group("a", [0.5, 0.6]), group("b", [0.5, 0.6], seeds=())], "no_runs"),
        ([group("a", [0.5, 0.6]), group("b", [float("nan"), 0.6])], "undefined_metric"),
    ],
)
def test_why_there_are_no_ranks_over_seeds(groups, reason):
    (s,) = summarise(groups, alpha=0.05)
    assert s.reason == reason
    assert s.ranks is None
    assert summaries.REASONS[reason]


def test_over_tasks_every_start_needs_every_task():
    whole = [group(s, v, task=t) for t in ("t", "u") for s, v in {"a": [0.9, 0.8], "b": [0.5, 0.6]}.items()]
    over_tasks = summarise(whole, alpha=0.05)[0]
    assert (over_tasks.unit, over_tasks.blocks, over_tasks.reason) == ("tasks", ("t", "u"), "out_of_reach")
    assert over_tasks.ranks.ranks == (1.0, 2.0)
    assert [i.value for i in over_tasks.improvement] == [0.5, 1.0]
    assert over_tasks.iqm[0].value == pytest.approx(0.85)
    assert [r.value for r in over_tasks.rank_over_seeds] == [1.0, 2.0]
    many = [dataclasses.replace(g, values=g.values * 5) for g in whole]  # ten runs a task
    (interval, _) = summarise(many, alpha=0.05)[0].rank_over_seeds
    assert (interval.low, interval.high, interval.reason) == (1.0, 1.0, "")  # a is always ahead
    assert over_tasks.iqm[0].reason == "few_seeds"  # no interval from two runs a task
    nested = [dataclasses.replace(g, tested=g.values[:2]) for g in many]  # two checkpoints, five runs each
    assert summarise(nested, alpha=0.05)[0].iqm[0].reason == "few_seeds"
    assert summarise(whole[:3], alpha=0.05)[0].reason == "not_every_task"
    mixed = [*whole[:2], *(dataclasses.replace(g, metric="auroc") for g in whole[2:])]
    assert summarise(mixed, alpha=0.05)[0].iqm == ()  # a mean over different metrics is none


def test_compare_has_the_summaries_and_writes_them(tmp_path):
    cases = Cases(n_patients=40)
    for task in ("regions", "organs"):
        study(tmp_path / "runs", cases, {"ct": 1.6, "scratch": 0.4}, seeds=2, task=task)
    comparisons = compare(ledger.read_runs(tmp_path / "runs"), n_resamples=100)
    assert [s.unit for s in comparisons.summaries] == ["tasks", "seeds", "seeds"]
    assert comparisons.summaries[0].ranks.ranks == (1.0, 2.0)
    comparisons.write(tmp_path / "c.json")
    written = json.loads((tmp_path / "c.json").read_text())["summaries"]
    assert written[0]["ranks"]["ranks"] == [1.0, 2.0]
    assert any("an exact permutation test gives no p below 0.33" in note for note in comparisons.notes)


def test_shares_of_the_labels_are_compared_apart(tmp_path):
    cases = Cases(n_patients=40)
    for fraction in (0.1, 1.0):
        own = {"config": {"tags": {"fraction": fraction}}}
        root = tmp_path / "runs" / f"{fraction}"
        study(root, cases, {"ct": 1.0 + fraction, "scratch": 0.4}, seeds=2, **own)
        for path in root.rglob("run.json"):  # ids differ with the config
            path.write_text(path.read_text().replace('"run_id": "id-', f'"run_id": "{fraction}-'))
    comparisons = compare(ledger.read_runs(tmp_path / "runs"), n_resamples=100)
    assert {(g.protocol, g.fraction) for g in comparisons.groups} == {
        ("fine_tune", 1.0),
        ("fine_tune, 10 % of labels", 0.1),
    }
    assert len(comparisons.rows) == 2
    assert comparisons.family_size == 2


@pytest.mark.parametrize(("a", "b"), [(4, 4), (3, 4), (2, 2), (5, 3)])
def test_the_least_p_of_the_permutation_test(a, b):
    values = 2.0 ** -np.arange(a + b)  # the sums of all divisions differ
    found = exact.permutation_test(values[:a], values[a:])
    assert exact.least_permutation_p(a, b) == pytest.approx(found.least_p)
