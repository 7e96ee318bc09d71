"""Parts of the report by themselves: its words, the places of names in figures, tables of segmented cases."""

import dataclasses
import itertools
import math

import numpy as np
import pytest

from radnet_jax.evaluation import ledger
from radnet_jax.evaluation.masks import Masks
from radnet_jax.evaluation.metrics import METRICS
from radnet_jax.evaluation.metrics.conventions import CONVENTIONS
from radnet_jax.evaluation.metrics.overlap import Cases
from radnet_jax.evaluation.report import details, lines, style, words
from tests.evaluation.simulated import group


def test_every_metric_has_a_name_for_people():
    assert {*METRICS.names()} <= {*words.METRICS}
    assert words.metric("dice_ET") == "dice ET"
    assert words.metric("hd95_per_volume") == "HD95 by volume"
    assert {*CONVENTIONS.names()} - {n.removeprefix("dice_") for n in words.METRICS} <= {*words.CONVENTIONS}
    assert words.protocol("linear_probe, 10 % of labels") == "linear probe, 10 % of labels"


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0"), (3.6, "0.001"), (122, "0.034"), (36_000, "10.0"), (4_500_000, "1,250")]
)
def test_device_hours(seconds, text):
    assert words.hours(seconds) == text


def test_names_at_the_ends_of_lines_stay_in_the_figure_and_apart():
    heights = lines.spread({f"s{i}": 0.99 + i / 1000 for i in range(5)}, 0.1, 0.0, 1.0)
    values = list(heights.values())
    assert max(values) <= 1.0
    assert all(b - a >= 0.1 - 1e-12 for a, b in itertools.pairwise(values))
    assert lines.spread({"a": 0.2, "b": 0.8}, 0.1, 0.0, 1.0) == {"a": 0.2, "b": 0.8}


def test_masks_are_told_by_their_dice():
    """Of a segmentation the scores are the Dice of each case and label, NaN where nothing is there or was found."""
    nan = math.nan
    dice = np.array([[0.9, nan], [0.2, 0.7], [0.6, 0.1], [nan, 0.5]])
    test = ledger.Predictions(
        split=["test"] * 4,
        case_id=list("abcd"),
        patient=list("abcd"),
        scores=dice,
        labels=np.array([[1, 0], [1, 1], [1, 1], [0, 1]]),
        label_mask=np.ones((4, 2)),
    )
    found = details.Judged(group("ct", [0.5], task="organs"), (test,), ("liver", "tumour"), "segmentation")
    (table,) = details.class_tables([found])
    assert [c["value"] for c in table["rows"][0]["cells"]] == ["56.7", "43.3"]  # means of 0.9 0.2 0.6, and 0.7 0.1 0.5
    assert [c["n"] for c in table["columns"]] == ["in 3 of 4", "in 3 of 4"]
    worst = details.worst_cases(found, None)["cases"]
    assert [(c["place"], c["truth"], c["said"]) for c in worst[:2]] == [
        (3, "tumour", "Dice 0.10"),
        (2, "liver", "Dice 0.20"),
    ]
    assert len(worst) == 6  # of what is there, nothing that is undefined
    look, gallery = style.looks(["ct"]), style.Gallery()
    assert details.roc([found], look, gallery, "x") == details.calibration([found], look, gallery, "x") == {}


def test_other_metrics_of_masks_are_all_that_was_measured():
    """Distances are in mm and not x 100; lower is better."""
    cases = Cases(("organ",), [[4], [1]], [[5], [2]], [[5], [8]], hd95=[[2.5], [7.5]])
    slices = tuple(np.stack([cases.overlap[i], cases.predicted[i], cases.truth[i]], axis=-1)[None] for i in (0, 1))
    test = ledger.Predictions(
        split=["test"] * 2,
        case_id=list("ab"),
        patient=list("ab"),
        scores=np.array([[0.8], [0.2]]),
        labels=np.ones((2, 1)),
        label_mask=np.ones((2, 1)),
        masks=Masks(cases, slices, (np.array([0, 1]),) * 2, ((1,),) * 2),
    )
    of = dataclasses.replace(group("ct", [0.5], task="organs"), metric="dice_per_volume")
    found = details.other_metrics([details.Judged(of, (test,), ("organ",), "segmentation")])
    shown = {c["name"]: (c["n"], cell["value"]) for c, cell in zip(found["columns"], found["rows"][0]["cells"])}
    assert shown["HD95 by volume"] == ("in mm, lower is better", "5.0")
    assert shown["recall by volume"] == ("", "46.2")  # of 4 / 5 and 1 / 8
    assert shown["Dice pooled"] == ("", "50.0")
    assert "Dice by volume" not in shown
