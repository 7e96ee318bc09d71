"""The published studies recomputed: from small tables always, from their own tables where a user has them."""

import numpy as np
import pytest
from scipy import stats

from radnet_jax.errors import UserError
from radnet_jax.evaluation.compare_results import compare_results
from radnet_jax.evaluation.published import (
    btl_rows,
    convergence_index,
    radnet_rows,
    synthetic_population,
    time_to_convergence,
)
from radnet_jax.evaluation.results import Cell, Place, read_results

# Accuracies of single runs that the first study released, for two of its three headline figures.
LINEVAL = {
    "I1k": (0.92512, 0.93188, 0.93332, 0.93452),
    "R": (0.95080, 0.95272, 0.95652, 0.94456),
    "RF": (0.95012, 0.94428, 0.94636, 0.95632),
}
XS = {
    "I1k": (0.60992, 0.61088, 0.62680, 0.62568),
    "R": (0.62620, 0.62892, 0.62580, 0.62972),
    "RF": (0.63016, 0.62620, 0.63096, 0.63236),
}


def cells(values, task="R", metric="accuracy"):
    return [
        Cell(Place("E", task, "full", metric), start, tuple(v), tuple("0123"[: len(v)])) for start, v in values.items()
    ]


def row(rows, a, b):
    return next(r for r in rows if (r.a, r.b) == (a, b))


@pytest.mark.parametrize(
    ("values", "relative", "p", "means"),
    [(LINEVAL, "+2.074", "0.0254", ("0.95052", "0.93121")), (XS, "+1.633", "0.1142", ("0.62842", "0.61832"))],
)
def test_the_headline_figures_to_all_printed_digits(values, relative, p, means):
    found = row(radnet_rows(cells(values), alpha=0.05, margin=0.02), "R (UB-adj.)", "I1k")
    assert f"{100 * found.delta_relative:+.3f}" == relative
    assert f"{found.p:.4f}" == p
    assert (f"{found.mean_a:.5f}", f"{found.mean_b:.5f}") == means
    assert found.verdict == "as published, no verdict"


def test_the_synthetic_population_lies_on_the_line_and_keeps_the_order_of_the_larger_corpus():
    small, large = np.array([0.5, 0.52, 0.48, 0.5]), np.array([0.6, 0.64, 0.58, 0.62])
    made = synthetic_population(small, large, 2.0, sizes=(100, 300))
    assert made.mean() == pytest.approx((small.mean() + large.mean()) / 2)  # half-way from 100 to 300
    assert np.argsort(made).tolist() == np.argsort(large).tolist()
    # Slope and intercept as if they were independent: s_m^2 x3^2 + s2^2 + s_m^2 x2^2.
    s_m = np.hypot(small.std(), large.std()) / 200
    assert made.std() == pytest.approx(np.sqrt(s_m**2 * 200**2 + large.std() ** 2 + s_m**2 * 300**2))


def test_nothing_synthetic_enters_the_family():
    table = cells(LINEVAL)
    judged = compare_results(table)
    assert judged.family_size == 3
    assert not [g for g in judged.groups if "adj" in g.start]
    assert len(radnet_rows(table, alpha=0.05, margin=0.02)) == 2 * 3 + 1


def test_a_table_without_both_corpora_is_refused():
    with pytest.raises(UserError, match="interpolates between two starts; got I1k, R; expected R and RF"):
        radnet_rows(cells({"R": XS["R"], "I1k": XS["I1k"]}), alpha=0.05, margin=0.02)
    with pytest.raises(UserError, match="runs that differ"):
        synthetic_population([0.1, 0.2], [0.3, 0.3], 2.0)


def test_the_second_study_tests_with_equal_variances():
    found = btl_rows(cells(XS), alpha=0.05, margin=0.02, baseline="I1k")
    assert [(r.a, r.b) for r in found] == [("R", "I1k"), ("RF", "I1k")]
    for r in found:
        expected = stats.ttest_ind(XS[r.a], XS[r.b], equal_var=True)
        assert (r.t, r.df, r.p) == pytest.approx((expected.statistic, 6, expected.pvalue), rel=1e-12)


@pytest.mark.parametrize(
    ("curve", "reached"),
    [
        ([0.1, 0.5, 0.9, *[0.9] * 20], 2),
        ([0.1, 0.8999, 0.2, *[0.9] * 20], 1),  # a touch counts
        ([0.9] * 20, 0),
        (np.linspace(0.1, 0.9, 50), 100),  # the mean of the last ten lies between two epochs, too far from both
        ([*[0.1] * 10, *([0.1, 0.9] * 5)], 100),  # never within 0.5 % of 0.5
    ],
)
def test_time_to_convergence(curve, reached):
    assert time_to_convergence(curve) == reached


def test_time_to_convergence_by_a_plain_loop():
    rng = np.random.default_rng(0)
    for _ in range(50):
        n = int(rng.integers(20, 120))
        curve = 0.9 - 0.5 * np.exp(-np.arange(n) / rng.uniform(2, 40)) + rng.normal(0, 0.003, n)
        reference = np.mean(curve[-10:])
        expected = 100
        for epoch in range(n - 4):
            if abs(curve[epoch] - reference) / reference <= 0.005:
                expected = epoch
                break
        assert time_to_convergence(curve) == expected


def test_a_hundred_is_an_index_too():
    """In the 101st epoch is one thing, never another."""
    late = [*np.linspace(0.1, 0.8, 100), *[0.9] * 20]
    never = [*[0.1] * 110, *([0.1, 0.9] * 5)]
    assert (convergence_index(late), convergence_index(never)) == (100, None)
    assert (time_to_convergence(late), time_to_convergence(never)) == (100, 100)


def test_time_to_convergence_of_a_broken_curve():
    with pytest.raises(UserError, match="got 20 values, 1 of them not finite"):
        time_to_convergence([*[0.1] * 19, float("nan")])
    with pytest.raises(UserError, match=r"got 9 values, .*expected at least 10"):
        time_to_convergence([0.1] * 9)


@pytest.mark.parametrize(
    ("task", "metric", "a", "relative", "p"),
    [
        ("R", "accuracy", "R (UB-adj.)", "+0.44", "0.541"),
        ("R", "accuracy", "R", "+0.12", "0.844"),
        ("R", "accuracy", "RF", "+1.07", "0.124"),
        ("I1k", "accuracy", "R (UB-adj.)", "-0.78", "0.231"),
        ("CX8", "auc_macro", "R (UB-adj.)", "-0.26", "0.839"),
        ("LiTS", "dice_liver", "R (UB-adj.)", "+0.30", "0.320"),
        ("LiTS", "dice_tumor", "R (UB-adj.)", "+0.13", "0.865"),
        ("BraTS", "dice_ET", "R (UB-adj.)", "-0.43", "0.335"),
        ("BraTS", "dice_WT", "R", "-0.45", "0.155"),
        ("BraTS", "dice_TC", "RF", "-0.06", "0.897"),
    ],
)
def test_the_first_study_from_its_released_runs(reference_tables, task, metric, a, relative, p):
    table = [c for c in read_results(reference_tables / "radnet_study_runs.csv") if c.place[1::2] == (task, metric)]
    judged = compare_results(table, baseline="I1k")
    found = row([*judged.rows, *radnet_rows(table, alpha=0.05, margin=0.02)], a, "I1k")
    assert (f"{100 * found.delta_relative:+.2f}", f"{found.p:.3f}") == (relative, p)


def test_the_first_headline_to_all_printed_digits(reference_tables):
    table = [c for c in read_results(reference_tables / "radnet_study_runs.csv") if c.place[1::2] == ("R", "accuracy")]
    found = row(radnet_rows(table, alpha=0.05, margin=0.02), "R (UB-adj.)", "I1k")
    assert (f"{100 * found.delta_relative:+.3f}", f"{found.p:.4f}", f"{found.df:.2f}") == ("+0.438", "0.5412", "5.89")


@pytest.mark.parametrize(
    ("experiment", "task", "start", "p"),
    [
        ("V2 Benchmark2.png A3", "PXS", "iNat2021 (supervised)", 0.40),
        ("V2 Benchmark2.png A3", "VFS", "iNat2021 (supervised)", 0.32),
        ("V2 Benchmark2.png A5 left", "HXS", "ImageNet->MIMIC", 0.032),
    ],
)
def test_the_second_study_from_means_and_sds(reference_tables, experiment, task, start, p):
    path = reference_tables / "transfer_benchmark_results.csv"
    table = read_results(path, scale=0.01, std_ddof=0, experiments=(experiment,))
    table = [c for c in table if c.place.task == task]
    baseline = next(c.start for c in table if c.start in ("ImageNet-1K (supervised)", "ImageNet (supervised)"))
    assert row(compare_results(table, baseline=baseline).rows, start, baseline).p == pytest.approx(p, rel=0.02)
