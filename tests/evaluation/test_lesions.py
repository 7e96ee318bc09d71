"""Lesions against the rules of BraTS 2023 written out voxel by voxel."""

import math

from hypothesis import given, settings
from hypothesis import strategies as st
import numpy as np
import pytest
from scipy import ndimage

from radnet_jax.errors import UserError
from radnet_jax.evaluation.metrics.lesions import BRATS_2023, LesionRule, lesions
from radnet_jax.evaluation.metrics.surface import hausdorff, surfaces

UNIT = (1.0, 1.0, 1.0)


def _components(mask):
    """Sets of voxels that touch by face, edge or corner."""
    left, found = {tuple(v) for v in np.argwhere(mask).tolist()}, []
    while left:
        component, edge = set(), [left.pop()]
        while edge:
            voxel = edge.pop()
            component.add(voxel)
            near = {n for n in left if max(abs(a - b) for a, b in zip(n, voxel)) <= 1}
            left -= near
            edge.extend(near)
        found.append(component)
    return found


def _mask(voxels, shape):
    mask = np.zeros(shape, bool)
    for voxel in voxels:
        mask[voxel] = True
    return mask


def _widened(mask, steps):
    structure = ndimage.generate_binary_structure(3, 2)
    return ndimage.binary_dilation(mask, structure, iterations=steps) if steps else mask


def _oracle(p, t, spacing, rule):
    """(volume, Dice, HD95) of the true lesions that count, by volume; and how many findings are false."""
    predicted = _components(p)
    true = [_mask(c, t.shape) & t for c in _components(_widened(t, rule.dilation))]
    rows, used = [], set()
    for lesion in true:
        reach = _widened(lesion, rule.dilation)
        own = [i for i, c in enumerate(predicted) if any(reach[v] for v in c)]
        used |= set(own)
        whole = _mask(set().union(*(predicted[i] for i in own)), t.shape)
        volume = lesion.sum() * np.prod(spacing)
        if volume > rule.min_volume:
            dice = 2 * (whole & lesion).sum() / (whole.sum() + lesion.sum())
            rows.append((volume, dice, hausdorff(surfaces(whole, lesion, spacing)).value))
    return sorted(rows), len(predicted) - len(used)


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 10**6),
    st.sampled_from([LesionRule(), LesionRule(1, 0), LesionRule(1, 2), LesionRule(2, 3.5), LesionRule(3, 5)]),
    st.sampled_from([UNIT, (2.0, 0.5, 0.7)]),
)
def test_lesions_are_matched_as_the_rules_say(seed, rule, spacing):
    rng = np.random.default_rng(seed)
    shape = (12, 9, 10)
    share = rng.choice([0, 0.01, 0.03], size=2)
    p, t = (ndimage.binary_dilation(rng.random(shape) < s, iterations=int(rng.integers(1, 3))) for s in share)
    got = lesions(p, t, spacing, rule)
    expected, n_false = _oracle(p, t, spacing, rule)
    assert got.n_false == n_false
    # A missed lesion has Dice 0 and no distance.
    np.testing.assert_allclose(sorted(zip(got.volume, got.dice)), [e[:2] for e in expected], rtol=0, atol=1e-9)
    np.testing.assert_allclose(np.sort(got.hd95), np.sort([e[2] for e in expected]), atol=1e-9)
    assert [not math.isnan(d) for d in got.hd95] == list(got.found)
    if expected or n_false:
        n = len(expected) + n_false
        assert got.mean_dice == pytest.approx(sum(e[1] for e in expected) / n)
        distances = [374 if math.isnan(e[2]) else e[2] for e in expected] + [374] * n_false
        assert got.mean_hd95(374) == pytest.approx(np.mean(distances))
    else:
        assert math.isnan(got.mean_dice)
        assert math.isnan(got.mean_hd95(374))


def test_a_case_counted_by_hand():
    """Two lesions of 8 voxels, one found whole, one missed, and two false findings."""
    p, t = np.zeros((2, 20, 20), bool), np.zeros((2, 20, 20), bool)
    t[:, 2:4, 2:4] = t[:, 12:14, 2:4] = p[:, 2:4, 2:4] = True
    p[0, 0, 19] = p[0, 19, 19] = True
    got = lesions(p, t, UNIT)
    assert got.detected == (1, 2, 1)
    assert got.mean_dice == 1 / 4
    assert got.mean_hd95(374) == (0 + 3 * 374) / 4
    assert got.volume == (8.0, 8.0)


def test_lesions_a_few_voxels_apart_are_one_under_the_challenges_rule():
    p, t = np.zeros((8, 8, 30), bool), np.zeros((8, 8, 30), bool)
    t[:4, :4, :4] = t[:4, :4, 9:13] = p[:4, :4, :4] = True
    assert lesions(p, t, UNIT).detected == (1, 0, 1)
    merged = lesions(p, t, UNIT, BRATS_2023)  # 5 voxels between them: both grow by 3
    assert merged.detected == (1, 0, 0)
    assert merged.dice == (2 * 64 / (64 + 128),)


def test_small_lesions_do_not_count_and_what_was_found_there_is_not_false():
    p, t = np.zeros((6, 6, 6), bool), np.zeros((6, 6, 6), bool)
    t[2, 2, 2] = p[2, 2, 2] = True
    got = lesions(p, t, UNIT, BRATS_2023)
    assert got.n_all == 0
    assert lesions(np.zeros_like(p), t, UNIT, BRATS_2023).n_all == 0
    assert lesions(np.zeros_like(p), np.zeros_like(p), UNIT) == lesions(np.zeros((0, 2, 2)), np.zeros((0, 2, 2)), UNIT)


def test_lesions_of_images():
    p, t = np.eye(6, dtype=bool), np.eye(6, dtype=bool)
    assert lesions(p, t, (1.0, 1.0)).dice == (1.0,)  # corners touch


def test_bad_input_is_refused():
    with pytest.raises(UserError, match="differ in shape"):
        lesions(np.ones((2, 2)), np.ones((2, 3)), (1, 1))
    with pytest.raises(UserError, match="spacing does not fit"):
        lesions(np.ones((2, 2)), np.ones((2, 2)), (1,))
    with pytest.raises(UserError, match="lesion rule"):
        LesionRule(dilation=-1)
