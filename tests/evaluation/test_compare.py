"""Comparisons of simulated runs whose truth is known."""

import itertools
import json
import math
import re

import numpy as np
import pytest
from scipy import stats

from radnet_jax.errors import UserError
from radnet_jax.evaluation import ledger, verdicts
from radnet_jax.evaluation.compare import compare
from radnet_jax.evaluation.statistics.bootstrap import paired_bootstrap
from radnet_jax.evaluation.statistics.correction import holm
from radnet_jax.evaluation.statistics.power import welch_power
from tests.evaluation.simulated import Cases, record, study

FAST = {"n_resamples": 1000}


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    """ct and natural are far ahead of scratch and nearly equal; fine-tuning with 4 seeds, a probe of one checkpoint."""
    root = tmp_path_factory.mktemp("planted")
    cases = Cases(n_patients=160, per_patient=3)
    study(root, cases, {"ct": 1.5, "natural": 1.45, "scratch": 0.7})
    study(root, cases, {"ct": 1.5, "natural": 1.1}, protocol="linear_probe", seeds=1, seed_varies=False)
    variants = {"scratch/bn_initial": 0.8, "scratch/bn_reestimated": 0.4}
    study(root, cases, variants, protocol="linear_probe", seeds=3)
    runs = ledger.read_runs(root)
    return runs, compare(runs, **FAST)


def _row(comparisons, protocol, a, b):
    (row,) = [r for r in comparisons.rows if (r.protocol, r.a, r.b) == (protocol, a, b)]
    return row


def test_a_planted_difference_is_found(planted):
    _, got = planted
    row = _row(got, "fine_tune", "ct", "scratch")
    assert row.verdict == "ct is better than scratch"
    assert row.clause == "for these checkpoints"
    assert row.low > 0
    assert row.p == max(row.p_seeds, row.p_patients, row.p_joint)
    assert row.p_corrected < 0.05
    assert row.effect_size > 1


def test_a_row_is_what_the_tests_give(planted):
    runs, got = planted
    row = _row(got, "fine_tune", "ct", "natural")
    groups = {g.start: g for g in got.groups if g.protocol == "fine_tune"}
    welch = stats.ttest_ind(groups["ct"].values, groups["natural"].values, equal_var=False)
    assert row.p_seeds == pytest.approx(welch.pvalue)
    assert (row.t, row.df) == pytest.approx((welch.statistic, welch.df))
    of = {s: [r.predictions.of("test") for r in runs if (r.start, r.protocol) == (s, "fine_tune")] for s in groups}
    paired = paired_bootstrap(
        "accuracy",
        [p.scores for p in of["ct"]],
        [p.scores for p in of["natural"]],
        of["ct"][0].labels,
        groups=of["ct"][0].patient,
        level=1 - row.alpha,
        n_resamples=1000,
    )
    assert (row.delta, row.p_patients) == pytest.approx((paired.difference, paired.p))
    values = [np.array(groups[s].values) for s in ("ct", "natural")]
    of_seeds = sum(v.var(ddof=1) / 4 for v in values)
    error = math.sqrt(of_seeds + paired.standard_error**2)
    df = error**4 / (of_seeds**2 / welch.df + paired.standard_error**4 / 79)
    joint = stats.t(df, row.delta, error)
    assert row.p_joint == pytest.approx(2 * joint.cdf(0))
    assert (row.low, row.high) == pytest.approx(joint.interval(1 - row.alpha))
    assert row.low < paired.low < paired.high < row.high
    above, below = joint.cdf(-0.02), 1 - joint.cdf(0.02)  # TOST of the joint test, the larger p of the two
    assert row.p_equivalent >= max(above, below) - 1e-12
    assert row.delta == pytest.approx(row.mean_a - row.mean_b)
    assert row.delta_relative == pytest.approx(row.mean_a / row.mean_b - 1)
    assert (row.n_a, row.n_b, row.n_patients) == (4, 4, 80)
    assert row.smallest_detectable >= max(row.smallest_detectable_seeds, row.smallest_detectable_patients)
    assert welch_power(row.smallest_detectable, error, df, row.alpha) == pytest.approx(0.8, abs=0.01)


def test_holm_runs_over_all_pairs_tasks_and_protocols(planted):
    _, got = planted
    assert got.family_size == len(got.rows) == 6
    np.testing.assert_allclose([r.p_corrected for r in got.rows], holm(np.array([r.p for r in got.rows])))
    assert min(r.alpha for r in got.rows) == pytest.approx(0.05 / 6)


def test_a_probe_of_one_checkpoint_is_tested_by_patients_alone(planted):
    _, got = planted
    row = _row(got, "linear_probe", "ct", "natural")
    assert math.isnan(row.p_seeds)
    assert math.isnan(row.effect_size)
    assert row.seeds_reason == "seed_varies_nothing"
    assert row.p == row.p_patients
    assert row.verdict == "ct is better than natural"
    assert row.clause == "for these checkpoints"


def test_many_initialisations_are_tested_against_the_one_checkpoint(planted):
    _, got = planted
    row = _row(got, "linear_probe", "ct", "scratch")
    groups = {g.start: g for g in got.groups if g.protocol == "linear_probe" and g.compared}
    (value,) = groups["ct"].values
    expected = stats.ttest_1samp(groups["scratch"].values, value)
    assert (row.fixed, row.seeds_reason, row.n_a, row.n_b) == ("ct", "", 1, 3)
    assert (row.t, row.df, row.p_seeds) == pytest.approx((-expected.statistic, 2, expected.pvalue))
    interval = expected.confidence_interval(1 - row.alpha)
    assert (row.low_seeds, row.high_seeds) == pytest.approx((value - interval.high, value - interval.low))
    assert row.p == max(row.p_seeds, row.p_patients, row.p_joint)
    assert row.smallest_detectable_seeds > 0
    assert row.effect_size > 1
    assert row.p_equivalent > 0.5


def test_the_variant_that_is_better_on_val_stands_for_its_start(planted):
    _, got = planted
    scratch = {g.variant: g for g in got.groups if (g.start, g.protocol) == ("scratch", "linear_probe")}
    assert scratch["bn_initial"].mean_val > scratch["bn_reestimated"].mean_val
    assert scratch["bn_initial"].compared
    assert not scratch["bn_reestimated"].compared
    assert _row(got, "linear_probe", "ct", "scratch").variant == "scratch: bn_initial"
    assert _row(got, "linear_probe", "ct", "scratch").mean_b == scratch["bn_initial"].mean


def test_groups_summarise_their_runs(planted):
    runs, got = planted
    (group,) = [g for g in got.groups if (g.start, g.protocol) == ("natural", "fine_tune")]
    recorded = [r.metrics["test"]["accuracy"]["value"] for r in runs if r.run_id in group.runs]
    assert sorted(group.values) == pytest.approx(sorted(recorded))
    assert group.mean == pytest.approx(np.mean(recorded))
    assert group.sd == pytest.approx(np.std(recorded, ddof=1))
    assert group.low < group.mean < group.high
    assert (group.n, group.seeds, group.n_cases, group.n_patients, group.checkpoints) == (4, (0, 1, 2, 3), 240, 80, 1)
    (probe,) = [g for g in got.groups if (g.start, g.protocol) == ("natural", "linear_probe")]
    assert math.isnan(probe.sd)


def test_verdicts_in_words(planted):
    _, got = planted
    fine, probe = got.verdicts
    assert fine.leaders == ("ct", "natural")
    assert fine.clause == "for these checkpoints"
    assert "smallest detectable difference" in fine.sentence
    assert "not enough evidence to tell" in fine.sentence
    assert probe.headline == "ct is the best start, for these checkpoints"
    assert probe.sentence.startswith("ct is the best start, for these checkpoints: ct is better than natural (+")
    assert "corrected p" in probe.sentence


def test_equal_starts_are_equivalent_where_the_data_suffice(tmp_path):
    """Many patients, hardly any spread: the interval and both one-sided tests lie inside the margin."""
    study(tmp_path, Cases(n_patients=800, per_patient=2), {"a": 1.2, "b": 1.2}, seeds=4, spread=0.05)
    got = compare(ledger.read_runs(tmp_path), margin=0.02, **FAST)
    (row,) = got.rows
    assert row.verdict == "equivalent"
    assert row.p_equivalent < row.alpha
    assert -0.02 < row.low < row.high < 0.02
    assert got.verdicts[0].headline in {f"{x} and {y} are equivalent, for these checkpoints" for x, y in ("ab", "ba")}
    narrow = compare(ledger.read_runs(tmp_path), margin=0.001, **FAST)
    assert narrow.rows[0].verdict == "not enough evidence"


def test_no_difference_is_not_enough_evidence_where_the_data_are_few(tmp_path):
    study(tmp_path, Cases(n_patients=30, per_patient=2), {"a": 1.0, "b": 1.0}, seeds=3)
    got = compare(ledger.read_runs(tmp_path), **FAST)
    (row,) = got.rows
    assert row.verdict == "not enough evidence"
    assert row.smallest_detectable > 0.02
    assert got.verdicts[0].headline == "Not enough evidence that any start is better, for these checkpoints"
    assert any("has 15 patients" in note for note in got.notes)


def test_seeds_that_disagree_stop_a_verdict_that_patients_would_give(tmp_path):
    """The difference of the two means is far from 0 for these runs' patients, but the seeds of one start scatter."""
    cases = Cases(n_patients=400, per_patient=2)
    study(tmp_path / "a", cases, {"a": 1.2}, seeds=2)
    for seed, skill in enumerate((0.3, 1.15)):
        study(tmp_path / "b" / str(seed), cases, {"b": skill}, seeds=1, seed=seed, run_id=f"b{seed}")
    (row,) = compare(ledger.read_runs(tmp_path), **FAST).rows
    assert row.p_patients < 0.05 < row.p_seeds
    assert row.verdict == "not enough evidence"


def _probe_of_one_checkpoint(root, cases, fixed, skills, **kwargs):
    """A convex probe: one run of the checkpoint, several of random initialisations with these skills."""
    study(root / "a", cases, {"ct": fixed}, protocol="linear_probe", seeds=1, seed_varies=False, **kwargs)
    for seed, skill in enumerate(skills):
        own = {"protocol": "linear_probe", "seed": seed, "run_id": f"s{seed}"}
        study(root / "b" / str(seed), cases, {"scratch": skill}, seeds=1, **own, **kwargs)
    return ledger.read_runs(root)


def test_the_spread_of_initialisations_stops_a_verdict_over_one_checkpoint(tmp_path):
    runs = _probe_of_one_checkpoint(tmp_path, Cases(n_patients=400, per_patient=2), 1.2, (0.3, 1.15))
    got = compare(runs, **FAST)
    (row,) = got.rows
    assert row.p_patients < 0.05 < row.p_seeds
    assert row.verdict == "not enough evidence"
    assert "over seeds of scratch" in got.verdicts[0].sentence


@pytest.mark.parametrize(
    ("skills", "verdict"), [((1.2, 1.19, 1.21), "equivalent"), ((1.0, 1.4), "not enough evidence")]
)
def test_equivalence_to_one_checkpoint_needs_the_seeds_too(tmp_path, skills, verdict):
    cases = Cases(n_patients=800, per_patient=2)
    (row,) = compare(_probe_of_one_checkpoint(tmp_path, cases, 1.2, skills, spread=0.05), margin=0.03, **FAST).rows
    assert abs(row.delta) + 2.5 * row.smallest_detectable_patients / 3.2 < 0.03  # patients alone: "equivalent", of both
    assert row.verdict == verdict


def test_one_initialisation_against_one_checkpoint(tmp_path):
    (row,) = compare(_probe_of_one_checkpoint(tmp_path, Cases(n_patients=100), 1.8, (0.5,)), **FAST).rows
    assert (row.seeds_reason, row.fixed) == ("one_run", "")
    assert row.clause == "for these checkpoints and runs"


def test_several_results_are_no_fixed_value(tmp_path):
    """One checkpoint, two results, though the seed is said to change nothing."""
    cases = Cases(n_patients=100)
    study(tmp_path / "a", cases, {"ct": 1.5}, seeds=2, protocol="linear_probe", seed_varies=False)
    study(tmp_path / "b", cases, {"scratch": 0.5}, seeds=2, protocol="linear_probe")
    (row,) = compare(ledger.read_runs(tmp_path), **FAST).rows
    assert (row.seeds_reason, row.fixed) == ("fixed_runs_differ", "")
    assert math.isnan(row.p_seeds)


def test_family_wise_error_is_kept(tmp_path):
    """Four equal starts, six pairs: of 40 simulated studies about two at most have a false "better"."""
    wrong = 0
    for trial in range(40):
        cases = Cases(n_patients=60, per_patient=2, seed=trial)
        skills = dict.fromkeys("abcd", 1.0)
        root = tmp_path / str(trial)
        for number, start in enumerate(skills):
            for seed in range(2):
                predictions = cases.predictions(1.0, seed=10 * trial + 2 * number + seed + 10_000, spread=1.0)
                own = record(f"{start}{seed}", start=start, seed=seed, checkpoint=start)
                ledger.write_run(root / start / str(seed), own, predictions=predictions)
        got = compare(ledger.read_runs(root), n_resamples=400, seed=trial)
        assert got.family_size == len(list(itertools.combinations(skills, 2)))
        wrong += any("better" in row.verdict for row in got.rows)
    assert wrong <= 4


def test_one_run_in_a_group(tmp_path):
    study(tmp_path, Cases(n_patients=100), {"a": 1.8, "b": 0.5}, seeds=1)
    (row,) = compare(ledger.read_runs(tmp_path), **FAST).rows
    assert row.seeds_reason == "one_run"
    assert math.isnan(row.p_seeds)
    assert row.verdict == "a is better than b"
    assert row.clause == "for these checkpoints and runs"


def test_several_pretraining_seeds_remove_the_clause(tmp_path):
    cases = Cases(n_patients=200)
    for number, (start, skill) in enumerate({"a": 1.8, "b": 0.5}.items()):
        for seed in range(3):
            own = record(f"{start}{seed}", start=start, seed=seed, checkpoint=f"{start}-{seed}")
            predictions = cases.predictions(skill, seed=10 * number + seed)
            ledger.write_run(tmp_path / own["name"], own, predictions=predictions)
    got = compare(ledger.read_runs(tmp_path), **FAST)
    assert got.rows[0].clause == ""
    assert got.verdicts[0].headline == "a is the best start"


def test_an_undefined_metric_is_listed_with_its_reason(tmp_path):
    cases = Cases(n_patients=60)
    study(tmp_path, cases, {"a": 1.0, "b": 0.5}, seeds=2)
    broken = cases.predictions(1.0, seed=99)
    broken.scores[10:20] = np.nan
    ledger.write_run(tmp_path / "c", record("c", start="c", protocol="fine_tune"), predictions=broken)
    got = compare(ledger.read_runs(tmp_path), **FAST)
    assert got.family_size == 1
    undefined = [r for r in got.rows if r.verdict == "undefined"]
    assert [(r.a, r.b, r.reason) for r in undefined] == [("a", "c", "nan_scores"), ("b", "c", "nan_scores")]
    assert all(math.isnan(r.p_corrected) for r in undefined)
    assert any("a and c are not compared: a score is not a number" in note for note in got.notes)
    assert "a and c can't be compared: a score is not a number" in got.verdicts[0].sentence
    written = json.loads(json.dumps(got.to_json(), allow_nan=False))
    row = next(r for r in written["rows"] if r["b"] == "c")
    assert (row["p"], row["p_reason"], row["reason"]) == (None, "nan", "nan_scores")


def test_a_variant_that_val_cant_choose_is_not_compared(tmp_path):
    cases = Cases(n_patients=60)
    cases.split = np.where(cases.split == "val", "train", "test")
    study(tmp_path, cases, {"scratch/x": 1.0, "scratch/y": 0.5, "a": 1.0}, seeds=2)
    (row,) = compare(ledger.read_runs(tmp_path), **FAST).rows
    assert (row.verdict, row.reason) == ("undefined", "no_val_metric")


def test_a_level_out_of_reach_is_said(tmp_path):
    study(tmp_path, Cases(n_patients=60), dict.fromkeys("abcd", 1.0), seeds=2)
    got = compare(ledger.read_runs(tmp_path), n_resamples=100)
    (note,) = [n for n in got.notes if "100 resamples can't reach the corrected level 0.0083 of 6 comparisons" in n]
    assert "raise n_resamples to 240 or more" in note
    assert not any("resamples can't reach" in n for n in compare(ledger.read_runs(tmp_path), n_resamples=240).notes)


@pytest.mark.parametrize("metric", ["accuracy", "auroc"])
def test_patients_without_a_labelled_case_are_not_counted(tmp_path, metric):
    """Fifteen of eighty test patients are labelled: few patients, whatever else the split holds."""
    cases = Cases(n_patients=160, per_patient=3)
    known = np.isin(cases.patient, np.unique(cases.patient[cases.split == "test"])[:15]) | (cases.split == "val")
    known[np.flatnonzero(cases.split == "test")[0]] = False  # this patient has two others
    for number, start in enumerate("ab"):
        predictions = cases.predictions(1.0, seed=number)
        predictions.label_mask[~known] = 0
        ledger.write_run(tmp_path / start, record(start, start=start, primary_metric=metric), predictions=predictions)
    got = compare(ledger.read_runs(tmp_path), n_resamples=100)
    assert [(g.n_patients, g.n_cases) for g in got.groups] == [(15, 44)] * 2
    assert got.rows[0].n_patients == 15
    assert any("has 15 patients" in note for note in got.notes)


def test_a_label_of_one_class_is_named(tmp_path):
    cases = Cases(n_patients=60)
    cases.truth[:] = cases.truth % 5  # nobody has a leg
    study(tmp_path, cases, {"a": 1.0, "b": 0.5}, seeds=2, primary_metric="auroc")
    got = compare(ledger.read_runs(tmp_path), **FAST)
    assert got.groups[0].left_out == ("leg",)
    assert any("leg has no known cases of both classes" in note for note in got.notes)
    assert got.rows[0].verdict != "undefined"


def test_a_label_of_few_patients_is_named(tmp_path):
    cases = Cases(n_patients=60)
    cases.truth[:] = cases.truth % 5
    cases.truth[np.flatnonzero(cases.split == "test")[0]] = 5  # one patient has a leg
    study(tmp_path, cases, {"a": 1.0, "b": 0.5}, seeds=2, primary_metric="auroc")
    got = compare(ledger.read_runs(tmp_path), **FAST)
    assert got.groups[0].rare == ("leg",)
    assert got.groups[0].partial == pytest.approx((29 / 30) ** 30, abs=0.06)
    (note,) = [n for n in got.notes if "of leg a class has fewer than 5 patients" in n]
    assert re.search(r"; 3\d % of the resamples lack a label", note)


def test_bad_input(tmp_path):
    study(tmp_path, Cases(n_patients=10), {"a": 1.0, "b": 0.5}, seeds=1)
    runs = ledger.read_runs(tmp_path)
    for settings in ({"alpha": 1.5}, {"margin": 0}, {"n_resamples": 5}):
        with pytest.raises(UserError, match="out of range"):
            compare(runs, **settings)
    with pytest.raises(UserError, match="no run to compare"):
        compare([])
    with pytest.raises(UserError, match="stands twice"):
        compare([*runs, runs[0]])
    cases = Cases(n_patients=10)
    cases.split = np.full(len(cases.split), "val")
    study(tmp_path / "val", cases, {"a": 1.0}, seeds=1)
    with pytest.raises(UserError, match="has no test cases"):
        compare(ledger.read_runs(tmp_path / "val"), **FAST)
    study(tmp_path / "metric", Cases(n_patients=10), {"a": 1.0}, seeds=1, primary_metric="acuracy")
    with pytest.raises(UserError, match='did you mean "accuracy"'):
        compare(ledger.read_runs(tmp_path / "metric"), **FAST)


def test_a_copy_under_another_seed_is_refused(tmp_path):
    cases = Cases(n_patients=10)
    study(tmp_path, cases, {"a": 1.0, "b": 0.5}, seeds=2)
    again = cases.predictions(1.0, seed=1)  # study's seed 1 of the first start
    copy = record("copy", start="a", protocol="fine_tune", seed=2, checkpoint="pretrained-a")
    ledger.write_run(tmp_path / "copy", copy, predictions=again)
    with pytest.raises(UserError, match="have the same scores in every case"):
        compare(ledger.read_runs(tmp_path), **FAST)


def test_equal_runs_of_a_seed_that_varies_nothing_are_no_copies(tmp_path):
    cases = Cases(n_patients=40)
    for start, skill in {"a": 1.5, "b": 0.5}.items():
        for seed in range(2):
            own = record(f"{start}{seed}", start=start, seed=seed, seed_varies=False, checkpoint=start)
            ledger.write_run(tmp_path / own["name"], own, predictions=cases.predictions(skill, seed=0))
    assert compare(ledger.read_runs(tmp_path), **FAST).rows[0].seeds_reason == "seed_varies_nothing"
    own = record("a2", start="a", seed=2, seed_varies=False, checkpoint="another")
    ledger.write_run(tmp_path / "a2", own, predictions=cases.predictions(1.5, seed=0))
    with pytest.raises(UserError, match="same scores in every case"):
        compare(ledger.read_runs(tmp_path), **FAST)


def test_every_reason_has_words(planted):
    _, got = planted
    reasons = {r.seeds_reason for r in got.rows} | {
        "no_val_metric",
        "one_run",
        "fixed_runs_differ",
        "undefined_resamples",
        "nan_scores",
    }
    assert reasons - {""} <= set(verdicts.REASONS)
