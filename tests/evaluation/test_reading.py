"""The page claims no more than what was done with the input at hand."""

import html

import pytest

from radnet_jax.evaluation import ledger
from radnet_jax.evaluation.compare import compare
from radnet_jax.evaluation.compare_results import compare_results, for_page
from radnet_jax.evaluation.report import reading, write_report
from radnet_jax.evaluation.results import Cell, Place
from tests.evaluation.simulated import Cases, study

PLACE = Place("", "organs", "", "dice")
NOISE = (-0.002, 0.001, 0.0, 0.001)
DRAWN, ALIKE, ONE = "drawn again with replacement", "All starts share the hyperparameters", "has one pretraining run"


def _table(**settings):
    means = {"a": 0.7, "b": 0.75, "scratch": 0.6}
    cells = [Cell(PLACE, s, tuple(m + x for x in NOISE), tuple("0123")) for s, m in means.items()]
    return for_page(compare_results(cells, **settings))


def _text(comparisons, runs, folder):
    return html.unescape(write_report(folder, title="x", comparisons=comparisons, runs=runs).read_text())


def test_a_table_of_runs_speaks_of_no_patients(tmp_path):
    text = _text(_table(), [], tmp_path)
    for claim in (
        DRAWN,
        ALIKE,
        ONE,
        "0 times",
        "over patients",
        "0 resamples",
        "in the run folders",
        "linear probe of",
    ):
        assert claim not in text
    assert "That was not asked: the table has results of runs and no test cases." in text
    assert "the table does not tell several pretraining runs of a start" in text
    assert "the table has none, so nothing is known of other patients" in text
    assert "whether all starts alike, is not known here" in text
    assert "over every pair of starts" in text


def test_with_a_baseline_not_every_pair_was_compared(tmp_path):
    text = _text(_table(baseline="scratch"), [], tmp_path)
    assert "over every start against scratch, task and protocol" in text
    assert "every pair of starts" not in text


@pytest.mark.parametrize("kind", ["fine_tune", "foreign"])
def test_runs_say_what_is_on_record(tmp_path, kind):
    """Of another program's predictions it is known how they were judged, not how they were trained."""
    more = {"kind": "foreign"} if kind == "foreign" else {}
    study(tmp_path / "runs", Cases(n_patients=40), {"a": 1.5, "b": 0.5}, seeds=2, **more)
    runs = ledger.read_runs(tmp_path / "runs")
    text = _text(compare(runs, n_resamples=100), runs, tmp_path / "report")
    assert DRAWN in text
    assert "100 times" in text
    assert (ALIKE in text, ONE in text) == ((False, False) if kind == "foreign" else (True, True))


def test_every_restriction_has_its_reason():
    whole = reading.why_only("for these checkpoints, runs and test cases", stated=True)
    assert whole.count(";") == 2
    assert ONE in whole
    assert ONE not in reading.why_only("for these checkpoints", stated=False)
