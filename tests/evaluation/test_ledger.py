"""The ledger: what is written comes back; what can't be judged is refused in one line."""

import dataclasses
import json
import math
import shutil
import subprocess

from ml_collections import ConfigDict
import numpy as np
import pyarrow.parquet as pq
import pytest

import radnet_jax
from radnet_jax.errors import UserError
from radnet_jax.evaluation import ledger
from radnet_jax.evaluation.canonical import canonical_json, jsonable
from radnet_jax.evaluation.ledger import Predictions
from radnet_jax.evaluation.metrics import Metric, undefined
from tests.evaluation.simulated import Cases, record, study

CASES = Cases(n_patients=8, per_patient=2)


def _predictions(**changes):
    return dataclasses.replace(CASES.predictions(1.0, seed=0), **changes)


def test_a_run_comes_back_as_it_was_written(tmp_path):
    predictions = _predictions(facts={"sex": ["F", None] * 8, "age": list(range(16)), "site": [None] * 16})
    metrics = {"test": {"accuracy": Metric(0.75), "auroc": undefined("one_class")}}
    curves = [{"step": 1, "loss": 2.0}, {"step": 2, "loss": math.nan}]
    ledger.write_run(tmp_path / "run", record("x", metrics=metrics), predictions=predictions, curves=curves)
    run = ledger.read_run(tmp_path / "run")
    assert (run.task, run.start, run.seed, run.kind, run.status) == ("regions", "ct", 0, "linear_probe", "finished")
    assert run.metrics["test"]["accuracy"] == {"value": 0.75, "reason": ""}
    assert run.metrics["test"]["auroc"] == {"value": None, "reason": "one_class"}
    assert run.curves == [{"step": 1, "loss": 2.0}, {"step": 2, "loss": None, "loss_reason": "nan"}]
    got = run.predictions
    for name in ("split", "case_id", "patient"):
        assert list(getattr(got, name)) == list(getattr(predictions, name))
    for name in ("scores", "labels", "label_mask"):
        np.testing.assert_array_equal(getattr(got, name), getattr(predictions, name))
    assert got.facts == predictions.facts
    with pytest.raises(AttributeError, match='did you mean "protocol"'):
        run.protcol  # noqa: B018


def test_strings_are_stored_once(tmp_path):
    ledger.write_run(tmp_path, record("x"), predictions=_predictions())
    schema = pq.read_schema(tmp_path / ledger.PREDICTIONS_FILE)
    for name in ("split", "case_id", "patient", "sex"):
        assert str(schema.field(name).type).startswith("dictionary<values=string")
    assert str(schema.field("labels").type) == "list<element: float>"


def test_nan_scores_come_back_as_nan(tmp_path):
    scores = np.array(_predictions().scores)
    scores[3, 1] = np.nan
    ledger.write_run(tmp_path, record("x"), predictions=_predictions(scores=scores))
    np.testing.assert_array_equal(ledger.read_run(tmp_path).predictions.scores, scores)


def test_a_split_is_in_the_order_of_its_case_ids():
    predictions = _predictions()
    test = predictions.of("test")
    assert list(test.case_id) == sorted(test.case_id)
    assert set(test.split) == {"test"}
    row = list(predictions.case_id).index(test.case_id[3])
    np.testing.assert_array_equal(test.scores[3], predictions.scores[row])
    assert test.facts["sex"][3] == predictions.facts["sex"][row]
    assert len(test) + len(predictions.of("val")) == len(predictions)
    assert len(predictions.of("train")) == 0


def test_run_json_is_written_last(tmp_path, monkeypatch):
    """A run that is killed while it writes is not finished, and can be written again."""
    original = ledger._replace

    def killed(path, write):
        if path.name == ledger.RUN_FILE:
            raise KeyboardInterrupt
        original(path, write)

    monkeypatch.setattr(ledger, "_replace", killed)
    with pytest.raises(KeyboardInterrupt):
        ledger.write_run(tmp_path, record("x"), predictions=_predictions(), curves=[{"step": 1}])
    assert not ledger.is_finished(tmp_path)
    monkeypatch.undo()
    ledger.write_run(tmp_path, record("x"), predictions=_predictions())
    assert ledger.is_finished(tmp_path)
    assert [p.name for p in tmp_path.iterdir() if p.name.endswith(".tmp")] == []


def test_a_finished_run_is_not_overwritten(tmp_path):
    ledger.write_run(tmp_path, record("x"), predictions=_predictions())
    with pytest.raises(UserError, match="holds a finished run"):
        ledger.write_run(tmp_path, record("y"), predictions=_predictions())


def test_pretraining_has_no_predictions(tmp_path):
    own = record("p", kind="pretrain")
    for key in ("primary_metric", "metrics", "label_names", "task_kind", "seed_varies"):
        del own[key]
    ledger.write_run(tmp_path, own, curves=[{"step": 1, "loss": 3.0}])
    assert not ledger.read_run(tmp_path).judged
    with pytest.raises(UserError, match="has no predictions"):
        ledger.write_run(tmp_path / "y", record("y"))


def test_a_torn_last_line_of_the_curves_is_left_out(tmp_path):
    path = tmp_path / ledger.CURVES_FILE
    assert ledger.read_curves(tmp_path) == []
    path.write_text('{"step": 1}\n{"step": 2}\n{"st')
    assert ledger.read_curves(tmp_path) == [{"step": 1}, {"step": 2}]
    path.write_text('{"step": 1}\n{"st\n{"step": 3}\n')
    with pytest.raises(UserError, match="line 2 is not JSON"):
        ledger.read_curves(tmp_path)


LABELS = np.array(CASES.predictions(1.0, seed=0).labels)
BAD = {
    "labels out of range": {"labels": LABELS * 2},
    "labels out of range: not one class": {"labels": np.ones_like(LABELS)},
    "label_mask out of range": {"label_mask": LABELS - 1},
    "label_mask differs within a case": {"label_mask": LABELS},
    r"1 patient\(s\) in two splits \(test and val\)": {"patient": ["p00001", *CASES.patient[1:]]},
    "a case stands twice": {"case_id": ["same"] * 16},
    r"1 case\(s\) without patient": {"patient": ["", *CASES.patient[1:]]},
    r"1 case\(s\) without case_id": {"case_id": [None, *CASES.case_id[1:]]},
    "unknown split": {"split": ["exam"] * 16},
    "scores are no probabilities": {"scores": LABELS * 3 - 1},
    "scores does not fit": {"scores": np.zeros((16, 2))},
    "column patient has another length": {"patient": CASES.patient[:3]},
    "column sex has another length": {"facts": {"sex": ["F"]}},
    "facts can't be called split": {"facts": {"split": ["F"] * 16}},
}


@pytest.mark.parametrize("message", BAD)
def test_predictions_that_cant_be_judged_are_refused(tmp_path, message):
    with pytest.raises(UserError, match=message) as error:
        ledger.write_run(tmp_path, record("x"), predictions=_predictions(**BAD[message]))
    assert "\n" not in str(error.value)
    assert not any(p in str(error.value) for p in CASES.patient)
    assert not ledger.is_finished(tmp_path)


def test_no_predictions_are_refused(tmp_path):
    empty = Predictions([], [], [], *(np.zeros((0, 6)) for _ in range(3)))
    with pytest.raises(UserError, match="no predictions"):
        ledger.write_run(tmp_path, record("x"), predictions=empty)


def test_multi_label_takes_a_mask_for_each_finding(tmp_path):
    rng = np.random.default_rng(0)
    some = rng.random(LABELS.shape) < 0.5
    predictions = _predictions(labels=np.where(some, rng.integers(0, 2, LABELS.shape), -1), label_mask=some)
    ledger.write_run(tmp_path, record("x", task_kind="multi_label"), predictions=predictions)
    assert ledger.read_run(tmp_path).predictions.label_mask.sum() == some.sum()


def test_records_are_checked(tmp_path):
    for change, message in [
        ({"kind": "magic"}, "unknown kind"),
        ({"task_kind": "magic"}, "unknown task_kind"),
        ({"format": 99}, "another format"),
    ]:
        with pytest.raises(UserError, match=message):
            ledger.write_run(tmp_path, record("x", **change), predictions=_predictions())
    incomplete = record("x")
    del incomplete["seed"], incomplete["checkpoint"]
    with pytest.raises(UserError, match="lacks checkpoint, seed"):
        ledger.write_run(tmp_path, incomplete, predictions=_predictions())


def test_an_unwritable_folder_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="can't write the run"):
        ledger.write_run(tmp_path / "file" / "run", record("x"), predictions=_predictions())


def test_read_runs_finds_all_and_sorts_them(tmp_path):
    study(tmp_path / "deep" / "er", CASES, {"scratch": 0.5, "ct": 1.0}, seeds=2)
    (tmp_path / "unfinished").mkdir()
    runs = ledger.read_runs(tmp_path)
    assert [(r.start, r.seed) for r in runs] == [("ct", 0), ("ct", 1), ("scratch", 0), ("scratch", 1)]
    for folder, message in [(tmp_path / "none", "no folder"), (tmp_path / "unfinished", "no finished run")]:
        with pytest.raises(UserError, match=message):
            ledger.read_runs(folder)


def _rewrite(folder, **changes):
    path = folder / ledger.RUN_FILE
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_runs_that_cant_be_compared_are_refused(tmp_path):
    study(tmp_path, CASES, {"scratch": 0.5, "ct": 1.0}, seeds=1)
    one, other = tmp_path / "regions-fine_tune-ct-seed-0", tmp_path / "regions-fine_tune-scratch-seed-0"
    shutil.copytree(one, tmp_path / "copy")
    with pytest.raises(UserError, match="stands twice"):
        ledger.read_runs(tmp_path)
    _rewrite(tmp_path / "copy", run_id="another")  # the same place in the study under another id
    with pytest.raises(UserError, match="stands twice"):
        ledger.read_runs(tmp_path)
    shutil.rmtree(tmp_path / "copy")
    _rewrite(other, primary_metric="auroc")
    with pytest.raises(UserError, match="differ in primary_metric"):
        ledger.read_runs(tmp_path)
    _rewrite(other, primary_metric="accuracy")
    assert len(ledger.read_runs(tmp_path)) == 2
    (other / ledger.RUN_FILE).write_text("{")
    with pytest.raises(UserError, match="can't be read"):
        ledger.read_runs(tmp_path)


@pytest.mark.parametrize(
    ("message", "changes"),
    [
        ("different case ids in split val", {"case_id": ["x" + c for c in CASES.case_id]}),
        ("the same cases but another patient", {"patient": ["q" + p for p in CASES.patient]}),
        ("the same cases but another labels", {"labels": np.roll(LABELS, 1, axis=1)}),
    ],
)
def test_runs_of_a_task_share_cases_patients_and_truth(tmp_path, message, changes):
    ledger.write_run(tmp_path / "a", record("a"), predictions=_predictions())
    ledger.write_run(tmp_path / "b", record("b", seed=1), predictions=_predictions(**changes))
    with pytest.raises(UserError, match=message):
        ledger.read_runs(tmp_path)


def test_broken_predictions_are_one_line(tmp_path):
    ledger.write_run(tmp_path / "a", record("a"), predictions=_predictions())
    (tmp_path / "a" / ledger.PREDICTIONS_FILE).write_bytes(b"PAR1 not really")
    with pytest.raises(UserError, match="can't be read"):
        ledger.read_runs(tmp_path)
    (tmp_path / "a" / ledger.PREDICTIONS_FILE).unlink()
    with pytest.raises(UserError, match="can't be read"):
        ledger.read_runs(tmp_path)


def test_run_id_depends_on_config_data_and_source_only():
    code = {"version": "0.1.0", "source": "abc", "commit": "1", "dirty": False}
    config = {"lr": 0.1, "steps": (1, 2)}
    name = ledger.run_id(config, "f", code)
    assert len(name) == 16
    assert name == ledger.run_id(ConfigDict({"steps": (1, 2), "lr": 0.1}), "f", code | {"commit": "2", "dirty": True})
    assert name != ledger.run_id(config | {"lr": 0.2}, "f", code)
    assert name != ledger.run_id(config, "g", code)
    assert name != ledger.run_id(config, "f", code | {"source": "abd"})


def test_code_version_with_and_without_git(monkeypatch, tmp_path):
    got = ledger.code_version()
    assert got["version"] == radnet_jax.__version__
    assert len(got["source"]) == 16

    def no_git(*args, **kwargs):
        raise FileNotFoundError("git")

    monkeypatch.setattr(subprocess, "run", no_git)
    assert ledger.code_version() == got  # git is asked once: what runs stays the same
    ledger._commit.cache_clear()
    assert ledger.code_version() == got | {"commit": None, "dirty": None}
    ledger._commit.cache_clear()


def test_code_version_in_a_repository(monkeypatch, tmp_path):
    """The commit is that of the package's own repository; a package that the repository ignores has none."""
    package = tmp_path / "package"
    package.mkdir()
    (package / "__init__.py").write_text("")
    monkeypatch.setattr(radnet_jax, "__file__", str(package / "__init__.py"))

    def code_version():
        ledger._commit.cache_clear()
        return ledger.code_version()

    def git(*args):
        identity = ("-c", "user.name=n", "-c", "user.email=e@example.org", "-c", "commit.gpgsign=false")
        subprocess.run(["git", "-C", str(tmp_path), *identity, *args], check=True, capture_output=True)

    git("init")
    git("commit", "--allow-empty", "-m", "first")
    assert code_version()["commit"] is None  # there is a commit, but the package is no part of it
    git("add", ".")
    git("commit", "-m", "second")
    clean = code_version()
    assert len(clean["commit"]) == 40
    assert clean["dirty"] is False
    (package / "new.py").write_text("")
    assert code_version()["dirty"] is True


def test_json_says_why_a_number_is_missing():
    value = {"a": math.nan, "b": [1.0, math.inf], "value": -math.inf, "reason": "", "ok": np.float32(0.5), "n": None}
    assert jsonable(value) == {
        "a": None, "a_reason": "nan", "b": [1.0, None], "b_reason": "inf", "value": None, "reason": "-inf", "ok": 0.5,
        "n": None,
    }  # fmt: skip
    assert jsonable({"value": math.nan, "reason": "one_class"})["reason"] == "one_class"
    assert canonical_json({"b": 1, "a": (1, 2)}) == '{"a":[1,2],"b":1}'
    with pytest.raises(TypeError, match="can't be written as JSON"):
        jsonable({"f": object()})
