"""Segmentation metrics and their conventions: against scikit-learn, MONAI, and each rule worked out case by case."""

import dataclasses
import inspect
import math

from hypothesis import given, settings
from hypothesis import strategies as st
import numpy as np
import pytest
from sklearn import metrics as sk

from radnet_jax.errors import UserError
from radnet_jax.evaluation.metrics.conventions import (
    CONVENTIONS,
    brats_2020,
    brats_2023_lesionwise,
    btl_per_image,
    lits_global,
    lits_per_case,
    nnunet,
    per_slice,
    per_volume,
    pooled,
    positives_only,
    radnet_published,
)
from radnet_jax.evaluation.metrics.lesions import BRATS_2023, LesionRule
from radnet_jax.evaluation.metrics.overlap import (
    BRATS,
    LITS,
    LITS_LIVER_WITHOUT_TUMOUR,
    Cases,
    measure,
    measure_slices,
    per_case,
    stack,
)

ONE = {"it": (1,)}
UNIT = (1.0, 1.0, 1.0)


def _cases(*rows, **more):
    """Cases of one region from (|P and T|, |P|, |T|)."""
    counts = np.asarray(rows, int).reshape(-1, 3).T[:, :, None]
    return Cases(("it",), *counts, **more)


def _volumes(seed, n=4, shape=(5, 6, 4)):
    rng = np.random.default_rng(seed)
    share = rng.choice([0, 0.1, 0.5], size=(2, n))
    return [tuple(np.where(rng.random(shape) < s, rng.integers(1, 4, shape), 0) for s in pair) for pair in share.T]


EMPTY, FALSE, MISSED, HALF = (0, 0, 0), (0, 4, 0), (0, 0, 4), (2, 4, 4)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6))
def test_a_cases_overlap_is_scikit_learns(seed):
    oracles = {"dice": sk.f1_score, "iou": sk.jaccard_score, "precision": sk.precision_score, "recall": sk.recall_score}
    for p, t in _volumes(seed):
        cases = measure(p, t, BRATS)
        for name, oracle in oracles.items():
            got = per_case(cases, name)[0]
            for j, classes in enumerate(BRATS.values()):
                a, b = np.isin(t, classes).ravel(), np.isin(p, classes).ravel()
                base = {"precision": b, "recall": a}.get(name, a | b)
                expected = oracle(a, b, zero_division=0) if base.any() else math.nan
                np.testing.assert_allclose(got[j], expected, rtol=0, atol=1e-12)


def test_dice_is_monais():
    torch = pytest.importorskip("torch")
    monai = pytest.importorskip("monai.metrics")
    volumes = _volumes(3, n=8)
    one_hot = [
        torch.from_numpy(np.stack([np.stack([np.isin(v[i], c) for c in BRATS.values()]) for v in volumes])).float()
        for i in (0, 1)
    ]
    theirs = monai.compute_dice(*one_hot, include_background=True, ignore_empty=False)
    cases = stack(measure(p, t, BRATS) for p, t in volumes)
    np.testing.assert_allclose(brats_2020(cases).per_class, theirs.numpy().mean(axis=0), atol=1e-6)  # float32 there


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.integers(0, 2))
def test_slices_add_up_to_volumes(seed, axis):
    volumes = _volumes(seed)
    whole = stack(measure(p, t, LITS_LIVER_WITHOUT_TUMOUR | {"third": (3,)}) for p, t in volumes)
    parts = [measure_slices(p, t, LITS_LIVER_WITHOUT_TUMOUR | {"third": (3,)}, axis=axis) for p, t in volumes]
    slices = stack(parts)
    names = np.repeat(np.arange(len(volumes)), [len(s) for s in parts])
    added = slices.by(names)
    for field in ("overlap", "predicted", "truth"):
        np.testing.assert_array_equal(getattr(added, field), getattr(whole, field))
    np.testing.assert_array_equal(pooled(slices).per_class, pooled(whole).per_class)
    for got, values in zip(per_slice(slices).per_class, per_case(slices, "dice").T):
        values = values[~np.isnan(values)]
        np.testing.assert_allclose(got, values.mean() if len(values) else math.nan, rtol=0, atol=1e-12)


# What a convention makes of Dice: half right, both empty, a false finding, a missed one; then of all of them.
DICE = [
    (per_volume, 0.5, math.nan, 0, 0, 0.5 / 3),
    (per_slice, 0.5, math.nan, 0, 0, 0.5 / 3),
    (positives_only, 0.5, math.nan, math.nan, 0, 0.5 / 2),
    (nnunet, 0.5, math.nan, 0, 0, 0.5 / 3),
    (lits_per_case, 0.5, 1, 0, 0, 1.5 / 4),
    (btl_per_image, 0.5, 1, 0, 0, 1.5 / 4),
    (brats_2020, 0.5, 1, 0, 0, 1.5 / 4),
    (pooled, 0.5, math.nan, 0, 0, 4 / 16),
    (lits_global, 0.5, math.nan, 0, 0, 4 / 16),
    (radnet_published, 4 / (8 + 1e-6), math.nan, 0, 0, 4 / (16 + 1e-6)),
]


@pytest.mark.parametrize(("convention", "half", "empty", "false", "missed", "together"), DICE)
def test_empty_masks(convention, half, empty, false, missed, together):
    for row, expected in [(HALF, half), (EMPTY, empty), (FALSE, false), (MISSED, missed)]:
        got = convention(_cases(row))
        np.testing.assert_allclose(got.value, expected, rtol=1e-12)
        assert bool(got.reason) == math.isnan(expected)
    assert convention(_cases(HALF, EMPTY, FALSE, MISSED)).value == pytest.approx(together, rel=1e-12)


def test_the_table_of_conventions_is_whole():
    others = {"brats_2023_lesionwise"}  # tested below
    assert {c[0].__name__ for c in DICE} | others == set(CONVENTIONS.names())
    for name in CONVENTIONS.names():
        text = inspect.getdoc(CONVENTIONS.get(name))
        assert "empty" in text.lower(), name
        assert CONVENTIONS.get(name)(_cases()).reason == "no_cases" if name not in others else True


def test_why_a_value_is_missing():
    for cases, metric, reason in [
        (_cases(EMPTY), "dice", "both_empty"),
        (_cases(FALSE), "recall", "empty_truth"),
        (_cases(MISSED), "precision", "empty_prediction"),
        (_cases(HALF, known=[[False]]), "dice", "no_cases"),
        (_cases(HALF, MISSED, hd95=[[math.nan]] * 2), "hd95", "not_measured"),
        (_cases(FALSE, MISSED, hd95=[[math.nan]] * 2), "hd95", "one_empty"),
    ]:
        assert per_volume(cases, metric).reason == reason


def test_a_region_without_a_value_is_left_out_and_named_except_by_nnunet():
    counts = np.array([[[2, 0]], [[4, 0]], [[4, 0]]])
    cases = Cases(("liver", "tumour"), *counts)
    got = per_volume(cases)
    assert (got.value, got.left_out, got.cases) == (0.5, (1,), (1, 0))
    assert got.to_json()["cases"] == [1, 0]
    assert nnunet(cases).reason == "region_undefined"
    assert nnunet(cases).per_class[0] == 0.5


def test_liver_includes_the_tumour_by_default():
    p, t = np.array([[1, 1, 0, 2]]), np.array([[1, 2, 0, 2]])
    np.testing.assert_allclose(per_case(measure(p, t, LITS), "dice"), [[1, 2 / 3]])
    np.testing.assert_allclose(per_case(measure(p, t, LITS_LIVER_WITHOUT_TUMOUR), "dice"), [[2 / 3, 2 / 3]])


def test_regions_of_brats_hold_for_both_numbers_of_enhancing_tumour():
    of_2020, of_2023 = np.array([[0, 1, 2, 4]]), np.array([[0, 1, 2, 3]])
    for mask in (of_2020, of_2023):
        cases = measure(mask, mask, BRATS)
        assert dict(zip(cases.regions, cases.truth[0])) == {"ET": 1, "TC": 2, "WT": 3}


def test_distances_of_brats_2020():
    volumes = [np.zeros((4, 4, 4), int) for _ in range(2)]
    volumes[1][1] = 3
    both = stack(measure(volumes[i], volumes[j], BRATS, spacing=UNIT) for i in (0, 1) for j in (0, 1))
    diagonal = math.sqrt(240**2 + 240**2 + 155**2)
    assert brats_2020(both, "hd95").per_class == pytest.approx([(0 + diagonal + diagonal + 0) / 4] * 3)
    assert round(diagonal, 2) == 373.13
    plain = per_volume(both, "hd95")
    assert (plain.value, plain.cases) == (0, (1, 1, 1))


def test_lesionwise_scores_of_brats_2023():
    blob, nothing = np.zeros((9, 9, 9), int), np.zeros((9, 9, 9), int)
    blob[2:7, 2:7, 2:7] = 3
    dot = nothing.copy()
    dot[4, 4, 4] = 3
    pairs = [(blob, blob), (nothing, nothing), (blob, nothing), (nothing, blob), (nothing, dot)]
    cases = stack(measure(p, t, BRATS, spacing=UNIT, lesion_rule=BRATS_2023) for p, t in pairs)
    assert brats_2023_lesionwise(cases).per_class == (3 / 5,) * 3  # right, nothing, and a lesion too small to count
    assert brats_2023_lesionwise(cases, "lesion_hd95").per_class == (2 * 374 / 5,) * 3
    plain = per_volume(cases, "lesion_dice")
    assert (plain.value, plain.cases) == (1 / 3, (3, 3, 3))
    assert per_volume(cases, "lesion_f1").value == 1 / 3
    assert pooled(cases, "lesion_f1").per_class == (2 / (2 + 1 + 1),) * 3


def test_a_distance_that_was_not_measured_is_no_penalty():
    """Of volumes without a spacing it is known which lesions were found, and not how far their outlines are."""
    blob = np.zeros((9, 9, 9), int)
    blob[2:7, 2:7, 2:7] = 3
    measured = measure(blob, blob, BRATS, spacing=UNIT, lesion_rule=BRATS_2023)
    (row,) = measured.lesions
    without_mm = tuple(dataclasses.replace(found, hd95=(math.nan,)) for found in row)
    unknown = dataclasses.replace(measured, hd95=np.full((1, 3), math.nan), lesions=(without_mm,))
    missed = measure(blob * 0, blob, BRATS, spacing=UNIT, lesion_rule=BRATS_2023)
    got = brats_2023_lesionwise(stack([unknown, missed, measured]), "lesion_hd95")
    assert (got.per_class, got.cases) == ((374 / 2,) * 3, (2,) * 3)
    for convention, metric in ((brats_2023_lesionwise, "lesion_hd95"), (per_volume, "hd95")):
        assert convention(unknown, metric).reason == "not_measured"
    assert brats_2023_lesionwise(unknown).value == 1


def test_the_published_studys_score_is_that_of_its_formula():
    """Written as the study computes it: a batch at a time, their mean by size, batches without the class skipped."""
    rng = np.random.default_rng(0)
    p, t = (np.where(rng.random((50, 6, 6)) < 0.15, rng.integers(1, 3, (50, 6, 6)), 0) for _ in range(2))
    p[20:30] = t[20:35] = 0
    slices = measure_slices(p, t, LITS_LIVER_WITHOUT_TUMOUR)
    for metric in ("dice", "iou", "precision", "recall"):
        got = radnet_published(slices, metric, batch_size=10)
        for j, c in enumerate((1, 2)):
            total = weight = 0.0
            for begin in range(0, 50, 10):
                a, b = p[begin : begin + 10] == c, t[begin : begin + 10] == c
                over, either = (a & b).sum(), (a | b).sum()
                under = {"dice": a.sum() + b.sum(), "iou": either, "precision": a.sum(), "recall": b.sum()}[metric]
                if under:
                    total += 10 * (2 if metric == "dice" else 1) * over / (under + 1e-6)
                    weight += 10
            assert got.per_class[j] == pytest.approx(total / weight, rel=1e-12)
            assert got.cases[j] == weight
    one_batch = radnet_published(slices, batch_size=50).per_class
    np.testing.assert_allclose(one_batch, pooled(slices).per_class, atol=1e-6)
    assert one_batch != radnet_published(slices, batch_size=7).per_class  # it depends on the batches


def test_a_last_batch_that_is_smaller_weighs_less():
    cases = _cases((1, 1, 1), (1, 1, 1), (0, 1, 1))
    assert radnet_published(cases, batch_size=2).value == pytest.approx((2 * 1 + 1 * 0) / 3, abs=1e-6)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([c[0] for c in DICE]))
def test_unknown_regions_count_nowhere(seed, convention):
    """What stands where the truth is not known changes nothing."""
    rng = np.random.default_rng(seed)
    rows = [EMPTY, FALSE, MISSED, HALF, (1, 2, 3)]
    pick = rng.integers(0, len(rows), (2, 5))
    known = (rng.random(5) < 0.6)[:, None]
    first, second = (
        _cases(*(rows[i] for i in p), known=known) for p in (pick[0], np.where(known[:, 0], pick[0], pick[1]))
    )
    assert str(convention(first)) == str(convention(second))


def test_unknown_voxels_are_in_neither_mask():
    p, t = np.array([[1, 1, 1, 0]]), np.array([[1, 0, 1, 1]])
    cases = measure(p, t, ONE, known=np.array([[True, False, True, False]]))
    assert (cases.overlap.item(), cases.predicted.item(), cases.truth.item()) == (2, 2, 2)


def test_cases_can_be_drawn_as_a_bootstrap_does():
    volumes = _volumes(5)
    rule = {"spacing": UNIT, "tolerance": {"it": 1.0}, "lesion_rule": LesionRule()}
    cases = stack(measure(p > 0, t > 0, ONE, **rule) for p, t in volumes)
    drawn = cases.take([3, 3, 0])
    for metric in ("dice", "hd95", "nsd", "lesion_dice", "lesion_f1"):
        np.testing.assert_array_equal(per_case(drawn, metric), per_case(cases, metric)[[3, 3, 0]])


def test_background_can_be_a_region():
    p, t = np.array([[0, 0, 1]]), np.array([[0, 1, 1]])
    np.testing.assert_allclose(per_case(measure(p, t, {"background": (0,), "it": (1,)}), "dice"), [[2 / 3, 2 / 3]])


def test_bad_input_is_refused():
    mask, cases = np.ones((3, 3), int), _cases(HALF)
    for call, message in [
        (lambda: measure(mask, mask[1:], ONE), r"differ in shape: prediction \(3, 3\), truth \(2, 3\)"),
        (lambda: measure(mask * 5, mask, ONE), r"prediction: class indices of no region; got 5; expected of \[0, 1\]"),
        (lambda: measure(mask, -mask, ONE), "truth: class indices of no region; got -1"),
        (lambda: measure(np.diag([1, 2, 3]), mask, {"a": (1, 3)}), "got 2"),
        (lambda: measure(mask * 1.0, mask, ONE), "prediction holds no class indices; got float64"),
        (lambda: measure(mask, mask, {}), "no regions to judge"),
        (lambda: measure(mask, mask, ONE, tolerance=1.0), "need the spacing"),
        (lambda: measure(mask, mask, ONE, spacing=(1, 1), tolerance={"that": 1}), "no tolerance for region 'it'"),
        (lambda: measure(mask, mask, ONE, known=mask[1:]), "known has another shape"),
        (lambda: _cases((3, 2, 4)), "counts that no masks have"),
        (lambda: _cases((0, -1, 4)), "counts that no masks have"),
        (lambda: _cases(HALF, hd95=[[1.0], [2.0]]), r"hd95 .* another shape; got \(2, 1\); expected \(1, 1\)"),
        (lambda: _cases(HALF, lesions=()), "lesions of the cases have another shape"),
        (lambda: per_case(cases, "dize"), 'unknown metric .dize. .did you mean "dice"'),
        (lambda: per_case(cases, "nsd"), "nsd of the cases was not measured; pass spacing and tolerance"),
        (lambda: per_volume(cases, "lesion_f1"), "lesions of the cases was not measured"),
        (lambda: pooled(cases, "lesion_f1"), "lesions of the cases was not measured"),
        (lambda: brats_2023_lesionwise(cases), "lesions of the cases was not measured"),
        (lambda: lits_global(cases, "hd95"), "convention 'lits_global' has no 'hd95'; expected dice"),
        (lambda: radnet_published(cases, batch_size=0), "batch_size is at least 1"),
        (lambda: cases.by([1, 2]), "not one group for each case; got 2; expected 1"),
        (lambda: stack([]), "no cases to stack"),
        (lambda: stack([cases, measure(mask, mask, {"that": (1,)})]), "cases of other regions"),
        (lambda: stack([cases, _cases(HALF, hd95=[[1.0]])]), "only some of the cases have hd95"),
        (lambda: CONVENTIONS.get("lits_percase"), 'did you mean "lits_per_case"'),
    ]:
        with pytest.raises(UserError, match=message):
            call()
