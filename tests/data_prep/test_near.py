"""The search for near hashes, held against comparing each with each."""

import numpy as np
import pytest

from data_prep.audit import near
from data_prep.audit.near import MAX_DISTANCE, near_pairs


def _hashes(rng, n, centres):
    """Clustered, as those of real images are: random ones, each with up to twelve bits flipped."""
    out = centres[rng.integers(0, len(centres), n)]
    for _ in range(12):
        out = out ^ (np.uint64(1) << rng.integers(0, 64, n).astype(np.uint64)) * rng.integers(0, 2, n).astype(np.uint64)
    return out


@pytest.mark.parametrize("length", [0, 4, 9, 12])
@pytest.mark.parametrize("distance", [0, 3, 4, 5, 8, 9, 10, MAX_DISTANCE])
def test_every_near_pair_is_found_once(distance, length, monkeypatch):
    monkeypatch.setattr(near, "_key_length", lambda n, m, wrong: length)
    rng = np.random.default_rng(distance)
    centres = rng.integers(0, 1 << 64, 30, dtype=np.uint64)
    first, second = _hashes(rng, 300, centres), _hashes(rng, 500, centres)
    second[:5] = first[10:15]
    differing = np.bitwise_count(first[:, None] ^ second[None])
    expected = {(i, j, differing[i, j]) for i, j in np.argwhere(differing <= distance).tolist()}
    found = [triple for pairs in near_pairs(first, second, distance) for triple in zip(*(a.tolist() for a in pairs))]
    assert len(found) == len(set(found))
    assert set(found) == expected
    assert len(expected) >= 5


def test_few_hashes_are_compared_each_with_each_and_many_by_their_bands():
    lengths = [near._key_length(n, 40 * n, 2) for n in (10, 1000, 25_000, 1_000_000)]
    assert lengths[:2] == [0, 0]
    assert lengths[2:] == sorted(lengths[2:]) == [12, 12]
    assert near._key_length(1000, 40_000_000, 1) > 8


def test_nothing_against_something():
    none, one = np.zeros(0, np.uint64), np.zeros(1, np.uint64)
    assert sum(len(pairs.first) for pairs in near_pairs(none, one, 8)) == 0
    assert sum(len(pairs.first) for pairs in near_pairs(one, none, 8)) == 0
