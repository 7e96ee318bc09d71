"""Pairs that differ by their seed: units that are kept by construction, and statistics of SciPy."""

import math

import numpy as np
import pytest
from scipy import stats

from radnet_jax.analysis import decoding, over_seeds, similarity

M, D = 90, 8


def networks(seed, kept=5):
    """Units 0 to `kept` - 1 are the same before and after, up to shift, scale and a little noise."""
    draws = np.random.default_rng(seed)
    before = draws.standard_normal((M, D))
    after = draws.standard_normal((M, D))
    after[:, :kept] = 3 * before[:, :kept] + 7 + 0.5 * draws.standard_normal((M, kept))
    return before, after


def test_kept_units():
    before, after = networks(0)
    assert over_seeds.kept_units(before, after) == {"share": 5 / 8, "chance": 0.0}
    before[:, 7] = 0.1  # the same for all images, but for rounding
    assert over_seeds.kept_units(np.float32(before), np.float32(after))["share"] == 5 / 7
    one = np.repeat(before[:, :1], 4, axis=1)  # all units are alike: that they are kept says nothing
    assert over_seeds.kept_units(one, one) == {"share": 1.0, "chance": 1.0}
    assert math.isnan(over_seeds.kept_units(np.zeros((M, 2)), after[:, :2])["share"])
    assert over_seeds.kept_units(before[:, :2], -before[:, :2])["share"] == 0


def test_what_kept_units_follow():
    before, after = networks(1)
    target = after[:, 0].copy()
    target[:9] = np.nan
    kept, changed = over_seeds.responses(before, after, {"it": target})["it"]
    rho = np.array([stats.spearmanr(after[9:, i], target[9:]).statistic for i in range(D)])
    assert kept == pytest.approx(np.mean(rho[:5] ** 2))
    assert changed == pytest.approx(np.mean(rho[5:] ** 2))
    assert math.isnan(over_seeds.responses(after, after, {"it": target})["it"][1])


def test_summarised():
    changes = [([x], [y]) for x, y in (networks(seed, kept) for seed, kept in ((2, 5), (3, 6), (4, 7)))]
    draws = np.random.default_rng(5)
    targets = {"it": draws.standard_normal(M), "other": draws.standard_normal(M)}
    groups = np.arange(M) % 10
    found = over_seeds.summarised(changes, ["last"], [changes[0][0], changes[1][0]], targets, groups, continued=True)
    assert (found["n"], found["block"]) == (3, "last")
    shares = [5 / 8, 6 / 8, 7 / 8]
    half = stats.t.ppf(0.975, 2) * np.std(shares, ddof=1) / 3**0.5
    share = found["units"]["last"]["share"]
    assert share["values"] == shares
    assert (share["mean"], share["low"], share["high"]) == pytest.approx((6 / 8, 6 / 8 - half, 6 / 8 + half))
    p = {}
    for name, target in targets.items():
        before, after = (
            [decoding.decodability(c[i][0], {name: target}, groups)[name].r2 for c in changes] for i in (0, 1)
        )
        assert found["read"][name]["difference"]["mean"] == pytest.approx(np.mean(after) - np.mean(before))
        p[name] = stats.ttest_rel(after, before).pvalue
        followed = [np.mean(over_seeds.following(changes[i][0][0], target)) for i in (0, 1)]
        assert found["responds"][name]["random"] == pytest.approx(max(followed))
        kept = [over_seeds.responses(x, y, {name: target})[name][0] for (x,), (y,) in changes]
        assert found["responds"][name]["kept"]["values"] == pytest.approx(kept)
    assert found["read"]["it"]["p"] == pytest.approx(p["it"])
    smaller = min(p, key=p.get)
    assert found["read"][smaller]["p_holm"] == pytest.approx(min(2 * p[smaller], 1))
    one = over_seeds.summarised(changes[:1], ["last"], [], targets, groups, continued=True)
    assert math.isnan(one["units"]["last"]["share"]["low"])
    assert math.isnan(one["read"]["it"]["p_holm"])


def test_the_deepest_block_that_kept_half():
    (early, after), (middle, changed) = networks(6, kept=6), networks(7, kept=4)
    late = networks(8, kept=3)
    targets = {"it": np.random.default_rng(9).standard_normal(M)}
    layers = [early, middle, late[0]], [after, changed, late[1]]
    groups, names = np.arange(M) % 10, ["early", "middle", "late"]
    found = over_seeds.summarised([layers], names, [layers[0]], targets, groups, continued=True)
    assert found["block"] == "middle"
    assert found["responds"]["it"]["random"] == pytest.approx(np.mean(over_seeds.following(middle, targets["it"])))
    none = over_seeds.summarised([([late[0]], [late[1]])], ["late"], [], targets, groups, continued=True)
    assert (none["block"], none["responds"]) == ("", {})
    apart = over_seeds.summarised([layers], names, [layers[0]], targets, groups, continued=False)
    assert (apart["units"], apart["block"], apart["responds"]) == ({}, "", {})
    assert apart["read"]["it"]["difference"]["mean"] == found["read"]["it"]["difference"]["mean"] != 0


def test_of_layers():
    def pair(cka):
        return {"last": dict(cka=cka, maps_cka_all=cka / 2)}

    found = over_seeds.of_layers([pair(0.5), pair(0.7)], [0.4], pair(0.2))["last"]
    assert (found["two_seeds"], found["random"], found["cka"]["values"]) == (0.4, 0.2, [0.5, 0.7])
    assert found["cka"]["mean"] == pytest.approx(0.6)
    assert found["maps"]["mean"] == pytest.approx(0.3)


def test_the_two_seeds_that_are_most_alike_of_all_pairs():
    x, y = networks(10)[0], networks(11)[0]
    near = x + 0.1 * y  # of the first, and no neighbour of it
    assert over_seeds.most_alike([[x], [y], [near]]) == [similarity.linear_cka(x, near)]
    assert similarity.linear_cka(x, near) > 0.9 > similarity.linear_cka(y, near)
    assert over_seeds.most_alike([[x, 0 * x], [y, x]]) == [
        similarity.linear_cka(x, y),
        pytest.approx(math.nan, nan_ok=True),
    ]
    assert math.isnan(over_seeds.most_alike([[x]])[0])
