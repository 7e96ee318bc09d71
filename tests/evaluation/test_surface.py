"""Surface distances against every pair of border voxels, and against MONAI where it is installed."""

import math

from hypothesis import given, settings
from hypothesis import strategies as st
import numpy as np
import pytest

from radnet_jax.errors import UserError
from radnet_jax.evaluation.metrics.surface import border, bounding_box, hausdorff, surface_dice, surfaces

SPACINGS = st.sampled_from([(1.0, 1.0, 1.0), (5.0, 0.7, 0.7), (0.8, 1.3, 2.1)])


def _masks(seed, shape=(7, 8, 6)):
    """Two blobs that overlap, or noise; now and then empty, and often at the edge of the array."""
    rng = np.random.default_rng(seed)
    share = rng.choice([0, 0.02, 0.3, 0.9], size=2, p=[0.1, 0.3, 0.4, 0.2])
    p, t = (rng.random(shape) < s for s in share)
    if rng.random() < 0.5:
        grid = np.indices(shape).reshape(3, -1).T
        centre = rng.integers(0, shape, 3)
        p, t = (np.linalg.norm(grid - centre - rng.normal(size=3), axis=1).reshape(shape) < r for r in (2.5, 3))
    return p, t


def _border_points(mask, spacing):
    points = []
    for index in np.argwhere(mask):
        for axis in range(mask.ndim):
            for step in (-1, 1):
                other = index.copy()
                other[axis] += step
                inside = 0 <= other[axis] < mask.shape[axis] and mask[tuple(other)]
                if not inside:
                    points.append(tuple(index))
    return np.array(sorted(set(points))).reshape(-1, mask.ndim) * spacing


def _all_pairs(p, t, spacing):
    a, b = _border_points(p, spacing), _border_points(t, spacing)
    distances = np.linalg.norm(a[:, None] - b[None], axis=2)
    return distances.min(axis=1), distances.min(axis=0)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), SPACINGS, st.sampled_from([0.0, 0.7, 1.0, 2.1]))
def test_distances_are_those_of_all_pairs_of_border_voxels(seed, spacing, tolerance):
    p, t = _masks(seed)
    got = surfaces(p, t, spacing)
    distance, share = hausdorff(got), surface_dice(got, tolerance)
    if not (p.any() and t.any()):
        assert got.reason == (
            "both_empty" if not (p.any() or t.any()) else "empty_truth" if p.any() else "empty_prediction"
        )
        assert distance.reason == got.reason
        assert share.value == 0 or (share.reason == "both_empty" and got.reason == "both_empty")
        return
    to_truth, to_prediction = _all_pairs(p, t, spacing)
    np.testing.assert_allclose(got.to_truth, to_truth, rtol=0, atol=1e-9)
    np.testing.assert_allclose(got.to_prediction, to_prediction, rtol=0, atol=1e-9)
    expected = max(np.percentile(to_truth, 95), np.percentile(to_prediction, 95))
    assert distance.value == pytest.approx(expected, abs=1e-9)
    near = (to_truth <= tolerance + 1e-9).sum() + (to_prediction <= tolerance + 1e-9).sum()
    assert share.value == pytest.approx(near / (len(to_truth) + len(to_prediction)), abs=1e-9)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), SPACINGS)
def test_metrics_are_monais(seed, spacing):
    torch = pytest.importorskip("torch")
    monai = pytest.importorskip("monai.metrics")
    p, t = _masks(seed)
    a, b = (torch.from_numpy(x[None, None].astype(np.float32)) for x in (p, t))
    got = surfaces(p, t, spacing)
    share = float(monai.compute_surface_dice(a, b, [1.5], include_background=True, spacing=spacing))
    np.testing.assert_allclose(surface_dice(got, 1.5).value, share, rtol=0, atol=1e-6)  # float32 there
    if not got.reason:
        far = float(monai.compute_hausdorff_distance(a, b, include_background=True, percentile=95, spacing=spacing))
        assert hausdorff(got).value == pytest.approx(far, abs=1e-5)


def test_a_plane_beside_a_plane():
    """Two flat plates three voxels of 2.5 mm apart: every distance is 7.5 mm, in any dimension that is cut out."""
    p, t = np.zeros((20, 9, 9), bool), np.zeros((20, 9, 9), bool)
    p[3], t[6] = True, True
    got = surfaces(p, t, (2.5, 1, 1))
    assert hausdorff(got).value == 7.5
    assert surface_dice(got, 7.5).value == 1
    assert surface_dice(got, 7.4).value == 0


def test_a_tolerance_of_whole_voxels_holds_whatever_the_spacing():
    p, t = np.zeros((40, 4), bool), np.zeros((40, 4), bool)
    p[10], t[13] = True, True
    for spacing in (0.1, 0.7, 1 / 3, 1.1):
        assert surface_dice(surfaces(p, t, (spacing, 1)), 3 * spacing).value == 1


def test_equal_masks_are_at_distance_zero_and_percentiles_grow():
    p, t = _masks(1)
    assert hausdorff(surfaces(t, t, (1, 1, 1))).value == 0
    assert surface_dice(surfaces(t, t, (1, 1, 1)), 0).value == 1
    found = surfaces(p, t, (1, 1, 1))
    assert hausdorff(found, 50).value <= hausdorff(found).value <= hausdorff(found, 100).value


def test_border_and_box_of_small_masks():
    full = np.ones((3, 3, 3), bool)
    assert (~border(full)).sum() == 1  # only the middle has all its neighbours
    assert border(np.ones((1, 4), bool)).all()
    mask = np.zeros((6, 6), bool)
    mask[2:4, 5] = True
    assert bounding_box(mask) == (slice(2, 4), slice(5, 6))
    assert bounding_box(mask, margin=3) == (slice(0, 7), slice(2, 9))
    assert bounding_box(np.zeros((2, 2), bool)) is None


def test_bad_input_is_refused():
    p, t = _masks(1)
    for call, message in [
        (lambda: surfaces(p, t[1:], (1, 1, 1)), r"differ in shape: prediction \(7, 8, 6\), truth \(6, 8, 6\)"),
        (lambda: surfaces(p, t, (1, 1)), "spacing does not fit.*3 positive numbers"),
        (lambda: surfaces(p, t, (1, 0, 1)), "spacing does not fit"),
        (lambda: surfaces(p, t, (1, math.nan, 1)), "spacing does not fit"),
        (lambda: surface_dice(surfaces(p, t, (1, 1, 1)), -1), "tolerance .* out of range; got -1"),
        (lambda: surface_dice(surfaces(p, t, (1, 1, 1)), math.nan), "tolerance .* out of range"),
    ]:
        with pytest.raises(UserError, match=message):
            call()
