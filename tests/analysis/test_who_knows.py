"""Who knows what, on cases made by hand and on drawn ones whose overlap is known."""

import types

import numpy as np
import pytest
from sklearn.metrics import cohen_kappa_score

from radnet_jax.analysis import who_knows
from radnet_jax.errors import UserError
from radnet_jax.evaluation.ledger import Predictions


def run(start, scores, labels, *, seed=0, kind="single_label", task="regions", known=None, case="c"):
    n = len(labels)
    one_hot = np.eye(3)[labels]
    mask = np.ones_like(one_hot) if known is None else np.repeat(known[:, None], 3, axis=1).astype(float)
    predictions = Predictions(
        ["test"] * n, [f"{case}{i:04d}" for i in range(n)], [f"p{i // 2:03d}" for i in range(n)], scores, one_hot, mask
    )
    record = {"task_kind": kind}
    return types.SimpleNamespace(
        start=start, task=task, protocol="fine_tune", fraction=1.0, seed=seed, name=start, variant="", record=record,
        predictions=predictions,
    )  # fmt: skip


def test_right_is_the_highest_score_of_known_cases():
    labels = np.array([0, 1, 2, 2])
    scores = np.array([[0.5, 0.5, 0.0], [0.6, 0.3, 0.1], [0, 0, 1], [0, 0, 1]])
    known = np.array([True, True, True, False])
    right, patients = who_knows.right_cases([run("ct", scores, labels, known=known)])
    assert right["ct"].tolist() == [[True, False, True]]
    assert patients.tolist() == ["p000", "p000", "p001"]


def findings(start, scores, labels, mask, *, seed=0, judged=("test", "val")):
    """A run with two findings; the same cases in both splits, those of "val" one patient each."""
    n = len(labels)
    split = np.repeat(judged, n)
    patient = [f"{s}{i // 2 if s == 'test' else i:03d}" for s in judged for i in range(n)]
    parts = [np.concatenate([np.asarray(m, float)] * len(judged)) for m in (scores, labels, mask)]
    predictions = Predictions(split, [f"c{i:04d}" for i in range(len(split))], patient, *parts)
    record = {"task_kind": "multi_label"}
    return types.SimpleNamespace(
        start=start, task="chest", protocol="fine_tune", fraction=1.0, seed=seed, name=start, variant="", record=record,
        predictions=predictions, label_names=["nodule", "mass"], judged=True, task_kind="multi_label",
    )  # fmt: skip


def test_findings_are_right_at_their_threshold():
    scores = [0.1, 0.2, 0.3, 0.4, 0.15]
    labels = [0, 0, 1, 1, 1]
    assert who_knows.threshold(np.array(scores), np.array(labels, bool)) == 0.3  # 2 of 3, and no false call
    both = np.stack([scores, scores[::-1]], axis=1), np.stack([labels, labels], axis=1)
    mask = np.array([[1, 1]] * 4 + [[0, 1]])
    found = who_knows.right_labels([findings("a", *both, mask), findings("b", 1 - both[0], both[1], mask)])
    right, patients = found["nodule"]
    assert right["a"].tolist() == [[True] * 4]  # the fifth is not known
    assert right["b"].tolist() == [[False, False, True, True]]  # its best threshold calls all
    assert patients.tolist() == ["test000", "test000", "test001", "test001"]
    assert right["a"].shape[1] + 1 == found["mass"][0]["a"].shape[1]
    one_class = np.stack([labels, np.ones(5)], axis=1)
    assert list(who_knows.right_labels([findings("a", both[0], one_class, mask)])) == ["nodule"]


def test_findings_of_runs_are_corrected_together(monkeypatch):
    draws = np.random.default_rng(0)
    labels = draws.integers(0, 2, (80, 2))
    runs = [
        findings(s, labels + draws.standard_normal((80, 2)), labels, np.ones((80, 2)), seed=i)
        for s in "ab"
        for i in (0, 1)
    ]
    monkeypatch.setattr(who_knows.ledger, "read_runs", lambda root: runs)
    found = who_knows.of_runs("runs")
    assert [part["label"] for part in found] == ["nodule", "mass"]
    alone = sorted(part["agreement"][0]["p"] for part in found)
    corrected = sorted(part["agreement"][0]["p_holm"] for part in found)
    assert corrected == pytest.approx([min(2 * alone[0], 1), min(max(2 * alone[0], alone[1]), 1)])


def test_p_is_small_where_the_interval_is_far_from_0():
    (different,) = who_knows.agreement(*drawn(0.6))
    (same,) = who_knows.agreement(*drawn(0.0))
    assert different["p"] < 0.001 < 0.05 < same["p"]


def test_patterns_by_hand():
    right = {
        "a": np.array([[1, 1, 1, 0, 0, 1, 1, 1]], bool),
        "b": np.array([[1, 1, 0, 0, 1, 1, 0, 0], [0] * 8], bool),  # the second run is not looked at
    }
    found = {tuple(row["right"]): (row["cases"], row["expected"]) for row in who_knows.patterns(right)}
    assert found == {
        (): (1, pytest.approx(8 * 0.25 * 0.5)),
        ("a",): (3, pytest.approx(8 * 0.75 * 0.5)),
        ("b",): (1, pytest.approx(8 * 0.25 * 0.5)),
        ("a", "b"): (3, pytest.approx(8 * 0.75 * 0.5)),
    }


def drawn(own, n=600, seed=0):
    """Two starts of three runs: a case is hard for all, or, with share `own`, for this start only."""
    draws = np.random.default_rng(seed)
    shared = draws.standard_normal(n)
    out = {}
    for start in ("a", "b"):
        mine = draws.standard_normal(n)
        hard = np.sqrt(1 - own) * shared + np.sqrt(own) * mine
        out[start] = np.stack([hard + 0.7 * draws.standard_normal(n) < 0.6 for _ in range(3)])
    return out, np.repeat(np.arange(n // 2), 2)


def test_kappa_is_that_of_scikit_learn():
    right, patients = drawn(0.5)
    (found,) = who_knows.agreement(right, patients, n_resamples=50)
    across = [cohen_kappa_score(x, y) for x in right["a"] for y in right["b"]]
    assert found["across"] == pytest.approx(np.mean(across))
    within = [cohen_kappa_score(r[i], r[j]) for r in right.values() for i, j in ((0, 1), (0, 2), (1, 2))]
    assert found["within"] == pytest.approx(np.mean(within))
    assert found["difference"] == pytest.approx(np.mean(across) - np.mean(within))


def test_agreement_against_independence():
    """Cases that are hard for all make runs agree; runs that are right at random agree as chance has it."""
    right, patients = drawn(0.5)
    (found,) = who_knows.agreement(right, patients)
    assert found["across_low"] < found["across"] < found["across_high"]
    assert found["across_low"] > 0
    assert found["p_across"] < 1e-6
    draws, small = np.random.default_rng(0), []
    for _ in range(40):
        alone = {s: draws.random((1, 200)) < 0.7 for s in "ab"}
        (found,) = who_knows.agreement(alone, np.arange(200), n_resamples=400)
        small.append(found["p_across"] < 0.05)
    assert sum(small) <= 6  # 2 expected; more than 6 once in 200


def test_starts_that_know_different_cases_and_starts_that_do_not():
    (different,) = who_knows.agreement(*drawn(0.6))
    assert different["high"] < 0
    excludes = [who_knows.agreement(*drawn(0.0, seed=s), n_resamples=400)[0]["high"] < 0 for s in range(40)]
    assert sum(excludes) <= 4  # 2.5 % of 40, by chance


def test_one_run_a_start_has_nothing_to_be_held_against():
    right, patients = drawn(0.5)
    (found,) = who_knows.agreement({k: v[:1] for k, v in right.items()}, patients, n_resamples=20)
    assert np.isfinite(found["across"])
    assert np.isnan([found["within"], found["difference"], found["low"]]).all()


def test_what_is_refused():
    labels = np.array([0, 1, 2, 2])
    scores = np.eye(3)[labels]
    ours = run("a", scores, labels)
    for other, said in [
        (run("b", scores, labels, task="other"), "one task"),
        (run("b", scores, labels, kind="multi_label"), "another kind; got regions: multi_label"),
        (run("b", scores, labels, case="d"), "other cases"),
        (run("b", np.full_like(scores, np.nan), labels), "neither right nor wrong; got"),
    ]:
        with pytest.raises(UserError, match=said):
            who_knows.right_cases([ours, other])
    right, patients = who_knows.right_cases([ours, run("b", scores, labels)])
    scores, labels, mask = np.zeros((4, 2)), np.eye(4)[:, :2], np.ones((4, 2))
    for changed, said in [
        (findings("a", scores, labels, mask, judged=("test",)), "not judged on val"),
        (findings("a", scores + np.nan, labels, mask), "neither right nor wrong"),
        (findings("a", scores, 0 * labels, mask), "no label of chest"),
    ]:
        with pytest.raises(UserError, match=said):
            who_knows.right_labels([changed])
    with pytest.raises(UserError, match="fewer patients"):
        who_knows.agreement(right, patients)
