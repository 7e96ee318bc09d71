"""Another program's predictions: read to the digit, and every kind of bad table refused in one line."""

import csv

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from radnet_jax.errors import UserError
from radnet_jax.evaluation import ledger
from radnet_jax.evaluation.compare import compare
from radnet_jax.evaluation.foreign import import_predictions
from radnet_jax.evaluation.metrics import METRICS
from radnet_jax.evaluation.report import write_report

LABELS = ("effusion", "mass")


def rows_of(skills=None, seeds=2, n=40):
    """Multi-label predictions: 2 cases a patient; the first skills are better."""
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 2, (n, 2))
    out = []
    for start, skill in (skills or {"ct": 2.0, "natural": 0.5}).items():
        for seed in range(seeds):
            score = 1 / (1 + np.exp(-(skill * (2 * truth - 1) + rng.normal(0, 1, (n, 2)))))
            for i in range(n):
                row = {"case_id": f"c{i}", "patient": f"p{i // 2}", "start": start, "seed": str(seed)}
                row |= {f"score_{label}": f"{score[i, j]:.5f}" for j, label in enumerate(LABELS)}
                out.append(row | {f"label_{label}": str(truth[i, j]) for j, label in enumerate(LABELS)})
    return out


def write(path, rows):
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def load(tmp_path, rows, metric="auroc"):
    return import_predictions(write(tmp_path / "table.csv", rows), tmp_path / "runs", primary_metric=metric)


def test_the_runs_have_the_metric_that_scikit_learn_gives(tmp_path):
    rows = rows_of()
    rows[3]["label_mass"] = ""  # not known: out of the mean, not a 0
    rows[43]["label_mass"] = rows[83]["label_mass"] = rows[123]["label_mass"] = ""
    runs = load(tmp_path, rows)
    assert [(r.start, r.seed, r.kind) for r in runs] == [
        ("ct", 0, "foreign"), ("ct", 1, "foreign"), ("natural", 0, "foreign"), ("natural", 1, "foreign"),
    ]  # fmt: skip
    own = [r for r in rows if (r["start"], r["seed"]) == ("natural", "1")]
    expected = []
    for label in LABELS:
        known = [r for r in own if r[f"label_{label}"]]
        truth = [int(r[f"label_{label}"]) for r in known]
        expected.append(roc_auc_score(truth, [float(r[f"score_{label}"]) for r in known]))
    assert runs[3].metrics["test"]["auroc"]["value"] == pytest.approx(np.mean(expected), abs=1e-9)


def test_confident_scores_are_not_rounded_to_be_equal(tmp_path):
    """Sigmoids near 1 differ in the ninth digit and rank all the same; read back from a folder too."""
    rows = rows_of(seeds=1)
    for i, row in enumerate(rows):
        row["score_mass"] = f"{1 - 1e-9 * (1 + (7 * i) % 40):.17g}"
    for run in load(tmp_path, rows):
        own = [r for r in rows if r["start"] == run.start]
        expected = [
            roc_auc_score([int(r[f"label_{k}"]) for r in own], [float(r[f"score_{k}"]) for r in own]) for k in LABELS
        ]
        p = ledger.read_run(run.folder).predictions
        assert METRICS.get("auroc")(p.scores, p.labels, p.label_mask).per_class == pytest.approx(expected, abs=1e-9)


def test_one_label_a_case_and_the_facts(tmp_path):
    rows = [
        {k: v for k, v in row.items() if not k.startswith("label_")}
        | {"label": "mass" if i % 2 else "effusion", "sex": "F" if i % 3 else ""}
        for i, row in enumerate(rows_of())
    ]
    run = load(tmp_path, rows, metric="accuracy")[0]
    assert run.task_kind == "single_label"
    assert run.predictions.facts["sex"][:2] == [None, "F"]
    rows[5]["label"] = "mas"
    with pytest.raises(UserError, match=r'line 7: label out of range \(did you mean "mass"\?\)'):
        import_predictions(write(tmp_path / "b.csv", rows), tmp_path / "b", primary_metric="accuracy")


def test_the_same_command_goes_on_and_another_table_is_refused(tmp_path):
    rows = rows_of()
    first = [r.run_id for r in load(tmp_path, rows)]
    assert [r.run_id for r in load(tmp_path, rows)] == first
    rows[0]["score_mass"] = "0.5"
    with pytest.raises(
        UserError, match="holds a run of another table, or by another primary metric; choose another --workdir"
    ):
        load(tmp_path, rows)


def test_names_that_a_file_system_does_not_know_apart_have_their_own_folders(tmp_path):
    runs = load(tmp_path, rows_of({"a/b": 1.0, "a b": 1.0, "../a-b": 1.0}, seeds=1))
    folders = {r.folder for r in runs}
    assert len(folders) == 3
    assert {f.parent for f in folders} == {tmp_path / "runs"}


def edited(index, **changes):
    rows = rows_of()
    rows[index] |= changes
    return rows


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{k: v for k, v in r.items() if k != "patient"} for r in rows_of()], r"lacks the column\(s\) patient"),
        ([{k: v for k, v in r.items() if k != "label_mass"} for r in rows_of()], r"lacks the column\(s\) label_mass"),
        ([r | {"scaner": "x"} for r in rows_of()], 'did you mean "scanner"'),
        ([{k: v for k, v in r.items() if "score" not in k} for r in rows_of()], "lacks the scores"),
        ([*rows_of(), *rows_of()[:40]], "a case stands twice in a split; got 40 doubles"),
        (
            [*rows_of(), *(r | {"seed": "9"} for r in rows_of()[:40])],
            "'.* seed 0' and '.* seed 9' have the same scores",
        ),
        (rows_of()[:-1], "different case ids in split test; got 1 case"),
        (edited(-1, case_id="other"), "different case ids in split test; got 2 case"),
        (
            [r | {"split": "val" if r["case_id"] == "c1" else "test"} for r in rows_of()],
            r"1 patient\(s\) in two splits",
        ),
        ([r | {"split": "tset"} for r in rows_of()], "unknown split; got tset"),
        (edited(7, label_mass="2"), "labels out of range; got 2"),
        (edited(7, label_mass="yes"), "line 9: label_mass; got 'yes'"),
        (edited(7, score_mass="1.5"), "scores are no probabilities; got .* to 1.5"),
        (edited(7, score_mass="high"), "line 9: score_mass; got 'high'"),
        (edited(7, case_id=""), r"1 case\(s\) without case_id"),
        (edited(7, patient=""), r"1 case\(s\) without patient"),
        (edited(7, patient="p9"), "have the same cases but another patient in split test"),
        (edited(-1, label_mass=str(1 - int(rows_of()[-1]["label_mass"]))), "same cases but another labels"),
        (edited(7, seed="x"), "seed; got 'x'; expected a whole number"),
        (edited(7, start=""), "line 9: start is empty"),
        ([r | {"checkpoint": r["case_id"]} for r in rows_of()], "has several checkpoints"),
    ],
)
def test_a_broken_table_is_refused_in_one_line(tmp_path, rows, message):
    with pytest.raises(UserError, match=message) as caught:
        load(tmp_path, rows)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "runs").exists()  # so that the mended table can go to the same workdir


def test_a_metric_for_other_labels_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"'accuracy' is not for multi_label predictions; expected .*auroc"):
        load(tmp_path, rows_of(), metric="accuracy")
    with pytest.raises(UserError, match="'label_brier' is an error"):
        load(tmp_path, rows_of(), metric="label_brier")
    with pytest.raises(UserError, match='did you mean "auroc"'):
        load(tmp_path, rows_of(), metric="aurok")


def test_nan_scores_make_the_comparison_undefined_with_a_reason(tmp_path):
    result = compare(load(tmp_path, edited(7, score_mass="nan")), n_resamples=100)
    assert (result.rows[0].verdict, result.rows[0].reason) == ("undefined", "nan_scores")


def test_one_run_a_start_rests_on_patients_and_says_for_these_runs(tmp_path):
    row = compare(load(tmp_path, rows_of(seeds=1, n=80)), n_resamples=400).rows[0]
    assert row.seeds_reason == "one_run"
    assert row.verdict == "ct is better than natural"
    assert row.clause == "for these checkpoints and runs"


def test_the_report_claims_no_machine_and_no_cost(tmp_path):
    runs = load(tmp_path, rows_of())
    path = write_report(tmp_path / "report", title="t", comparisons=compare(runs, n_resamples=100), runs=runs)
    text = path.read_text()
    assert "Device-seconds" not in text
    assert "another program" in text
    assert "0 devices" not in text
