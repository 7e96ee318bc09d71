"""Tables of run-level results: what is read, what is refused, and what verdict they can and can't support."""

import math

import numpy as np
import pytest
from scipy import stats

from radnet_jax.errors import UserError
from radnet_jax.evaluation.compare_results import EXPLORATORY, compare_results, explore
from radnet_jax.evaluation.results import layout, read_results, values_with

HEADER = "experiment,pretraining,task,variant,run,metric,value\n"


def write(path, text):
    path.write_text(text)
    return path


def table(path, values, header=HEADER, metric="accuracy", task="R"):
    lines = [f"E1,{start},{task},full,{i},{metric},{v}\n" for start, of in values.items() for i, v in enumerate(of)]
    return write(path, header + "".join(lines))


@pytest.fixture
def three():
    rng = np.random.default_rng(0)
    return {s: np.round(rng.normal(m, 0.01, 6), 5) for s, m in (("ct", 0.90), ("natural", 0.84), ("Scratch", 0.80))}


def test_a_table_of_runs_gives_welch_holm_and_a_verdict_that_says_what_it_rests_on(tmp_path, three):
    result = compare_results(read_results(table(tmp_path / "t.csv", three)))
    assert [(r.a, r.b) for r in result.rows] == [("ct", "natural"), ("ct", "Scratch"), ("natural", "Scratch")]
    p = []
    for row in result.rows:
        expected = stats.ttest_ind(three[row.a], three[row.b], equal_var=False)
        assert row.t == pytest.approx(expected.statistic, rel=1e-9)
        assert row.p == pytest.approx(expected.pvalue, rel=1e-9)
        assert row.delta_relative == pytest.approx(three[row.a].mean() / three[row.b].mean() - 1, rel=1e-9)
        low, high = expected.confidence_interval(1 - row.alpha)
        assert (row.low, row.high) == pytest.approx((low, high), rel=1e-9)
        p.append(expected.pvalue)
    order = np.argsort(p)
    assert result.rows[order[0]].p_corrected == pytest.approx(3 * p[order[0]])
    assert result.family_size == 3
    assert result.verdicts[0].headline == "ct is the best start, for these checkpoints and test cases"
    assert "over seeds, the only test" in result.verdicts[0].sentence
    assert any("rests on the seed test alone" in note for note in result.notes)
    assert all(math.isnan(r.p_patients) and r.n_patients == 0 for r in result.rows)


def test_other_metrics_stay_out_of_the_family_and_are_marked(tmp_path, three):
    text = table(tmp_path / "t.csv", three).read_text()
    text += table(tmp_path / "u.csv", three, header="", metric="auroc").read_text()
    cells = read_results(write(tmp_path / "both.csv", text))
    with pytest.raises(UserError, match=r"needs one primary metric; got accuracy, auroc"):
        compare_results(cells)
    assert compare_results(cells, primary_metric=("auroc",)).family_size == 3
    others = explore([c for c in cells if c.place.metric != "auroc"])
    assert {r.verdict for r in others} == {EXPLORATORY}
    assert all(math.isnan(r.p_corrected) and r.alpha == 0.05 for r in others)


def test_each_task_needs_exactly_one_of_the_declared_metrics(tmp_path, three):
    text = table(tmp_path / "t.csv", three).read_text()
    text += table(tmp_path / "u.csv", three, header="", metric="dice", task="L").read_text()
    cells = read_results(write(tmp_path / "both.csv", text))
    assert compare_results(cells, primary_metric=("accuracy", "dice")).family_size == 6
    with pytest.raises(UserError, match="task E1 L full needs one primary metric; got none of accuracy"):
        compare_results(cells, primary_metric=("accuracy",))
    with pytest.raises(UserError, match=r'no metric \'dicee\' in the table \(did you mean "dice"\?\)'):
        compare_results(cells, primary_metric=("accuracy", "dicee"))


def test_against_a_baseline_says_nothing_of_other_pairs(tmp_path, three):
    result = compare_results(read_results(table(tmp_path / "t.csv", three)), baseline="natural")
    assert {(r.a, r.b) for r in result.rows} == {("ct", "natural"), ("Scratch", "natural")}
    assert result.verdicts[0].headline.startswith("Better than natural: ct; worse than natural: Scratch; for these")
    with pytest.raises(UserError, match='did you mean "natural"'):
        compare_results(read_results(table(tmp_path / "t.csv", three)), baseline="naturl")


def test_undefined_is_undefined_with_a_reason(tmp_path):
    values = {"one": [0.5], "hole": ["", 0.5, 0.6], "flat": [0.7, 0.7], "also_flat": [0.6, 0.6]}
    result = compare_results(read_results(table(tmp_path / "t.csv", values)))
    reasons = {frozenset((r.a, r.b)): r.reason for r in result.rows}
    assert reasons[frozenset(("one", "flat"))] == "one_run"
    assert reasons[frozenset(("hole", "flat"))] == "undefined_metric"
    assert reasons[frozenset(("flat", "also_flat"))] == "no_variance"
    assert {r.verdict for r in result.rows} == {"undefined"}
    assert result.family_size == 0
    assert any("the runs of each group are all equal" in note for note in result.notes)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("pretraining,task,run,metric\nct,R,0,accuracy\n", r"lacks the column\(s\) value"),
        ("pretraining,task,metric,value\nct,R,accuracy,1\n", r"lacks the column\(s\) run"),
        ("pretraining,task,run,metric,value,vriant\nct,R,0,a,1,x\n", 'did you mean "variant"'),
        (HEADER + "E1,ct,R,full,0,accuracy,0.9\nE1,ct,R,full,0,accuracy,0.9\n", "line 3: .* run 0 stands twice"),
        (
            HEADER + "".join(f"E1,ct,R,full,{r},{m},0.{m}1\n" for r in (0, 4) for m in (7, 8, 9)),
            "runs 0 and 4 of E1 R full ct have the same value of every metric",
        ),
        (HEADER + "E1,ct,R,full,0,accuracy,high\n", "line 2: value; got 'high'"),
        (HEADER + "E1,ct,R,full,0,accuracy,inf\n", "line 2: value; got 'inf'"),
        (HEADER + "E1,,R,full,0,accuracy,0.9\n", "line 2: pretraining is empty"),
        (HEADER + "E1,ct,R,full,0,accuracy\n", "line 2; got 6 cells; expected 7"),
        (HEADER, "has no rows"),
        (HEADER.replace(",", ";") + "E1;ct;R;full;0;accuracy;0.9\n", "expected columns divided by commas"),
        ("a,a,value\n1,2,3\n", "column names"),
        ("task,initialization,mean,std,n_runs\nR,ct,0.9,-1,4\n", "std; got -1"),
        ("task,initialization,mean,std,n_runs\nR,ct,0.9,0.1,2.5\n", "n_runs; got 2.5"),
        ("task,initialization,mean,std,n_runs\nR,ct,0.9,0.1,4\nR,ct,0.9,0.1,4\n", "line 3: .*stands twice"),
    ],
)
def test_a_broken_table_is_refused_in_one_line(tmp_path, text, message):
    path = write(tmp_path / "t.csv", text)
    with pytest.raises(UserError, match=message) as caught:
        read_results(path)
    assert "\n" not in str(caught.value)


def test_the_layout_is_seen_from_the_columns(tmp_path, three):
    assert layout(table(tmp_path / "t.csv", three)) == "runs"
    assert layout(write(tmp_path / "m.csv", "task,initialization,mean,std,n_runs\nR,a,1,1,1\n")) == "means"
    assert layout(write(tmp_path / "c.csv", "case_id,patient\n1,2\n")) == "cases"
    with pytest.raises(UserError, match="none of the known layouts; got a, b; expected pretraining, task"):
        layout(write(tmp_path / "x.csv", "a,b\n1,2\n"))


def test_per_cent_and_losses_are_not_taken_for_a_primary_metric(tmp_path):
    cells = read_results(table(tmp_path / "t.csv", {"a": [91.0, 92.0], "b": [90.0, 91.0]}))
    with pytest.raises(UserError, match=r"not between 0 and 1; got 91; .*--config.scale=0.01"):
        compare_results(cells)
    scaled = compare_results(read_results(tmp_path / "t.csv", scale=0.01))
    assert scaled.rows[0].delta == pytest.approx(0.01)
    with pytest.raises(UserError, match="of which higher is better"):
        compare_results(read_results(table(tmp_path / "l.csv", {"a": [0.1, 0.2], "b": [0.2, 0.1]}, metric="test_loss")))


@pytest.mark.parametrize("ddof", [0, 1])
def test_means_and_sds_give_the_t_test_of_the_runs(tmp_path, ddof):
    rng = np.random.default_rng(1)
    a, b = rng.normal(0.9, 0.02, 10), rng.normal(0.88, 0.01, 7)
    lines = [f"R,{s},{v.mean()!r},{v.std(ddof=ddof)!r},{len(v)}" for s, v in (("a", a), ("b", b))]
    text = "task,initialization,mean,std,n_runs\n" + "\n".join(lines).replace("np.float64(", "").replace(")", "")
    path = write(tmp_path / "t.csv", text)
    row = compare_results(read_results(path, std_ddof=ddof)).rows[0]
    expected = stats.ttest_ind(a, b, equal_var=False)
    assert (row.t, row.df, row.p) == pytest.approx((expected.statistic, expected.df, expected.pvalue), rel=1e-9)


def test_equivalent_says_that_the_interval_lies_inside_the_margin(tmp_path):
    values = {"a": [0.900, 0.912, 0.906, 0.909], "b": [0.899, 0.895, 0.905, 0.903], "c": [0.901, 0.897, 0.902, 0.899]}
    cells = read_results(table(tmp_path / "t.csv", values))
    margins = np.linspace(0.005, 0.05, 30)
    seen = set()
    for margin in margins:
        for row in compare_results(cells, margin=float(margin)).rows:
            if row.p_corrected >= 0.05:
                inside = -margin < row.low and row.high < margin
                assert (row.verdict == "equivalent") == inside
                assert not inside or row.p_equivalent < row.alpha
                seen.add(row.verdict)
    assert seen == {"equivalent", "not enough evidence"}


def test_a_mean_without_sd_is_shown_but_not_tested(tmp_path):
    text = "task,initialization,mean,std,n_runs\nR,a,0.9,,10\nR,b,0.8,0.1,10\n"
    row = compare_results(read_results(write(tmp_path / "t.csv", text))).rows[0]
    assert (row.mean_a, row.reason, row.verdict) == (0.9, "no_sd", "undefined")


@pytest.mark.parametrize("n", [2, 3, 10])
def test_values_with_have_the_mean_and_sd_asked_for(n):
    values = values_with(0.7, 0.03, n)
    assert (values.mean(), values.std(ddof=1)) == pytest.approx((0.7, 0.03), rel=1e-12)
