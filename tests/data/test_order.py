from collections import Counter
import itertools

import numpy as np
import pytest
from scipy import stats

from radnet_jax.data.order import apportion, fold, mixed, permute, shuffled
from radnet_jax.errors import UserError


@pytest.mark.parametrize("n", [*range(1, 70), 1000, 4096, 4097, 99_991])
def test_a_permutation_visits_each_number_once(n):
    for key in range(3):
        assert (np.sort(permute(np.arange(n), n, fold(key, 0))) == np.arange(n)).all()


def test_elements_may_have_sizes_and_keys_of_their_own():
    n = np.array([5, 1, 1000, 70])
    x = np.array([4, 0, 999, 3])
    keys = fold(3, np.arange(4))
    each = [permute(x[i : i + 1], int(n[i]), keys[i : i + 1])[0] for i in range(4)]
    assert permute(x, n, keys).tolist() == each


def test_all_permutations_of_four_come_up_equally_often():
    keys = fold(fold(0, 1), np.arange(24_000))
    images = np.stack([permute(np.full(len(keys), x), 4, keys) for x in range(4)], axis=1)
    counts = Counter(map(tuple, images.tolist()))
    assert len(counts) == 24
    assert stats.chisquare(list(counts.values())).pvalue > 1e-4


@pytest.mark.parametrize("n", [10, 35])
def test_each_number_comes_to_each_place_and_pair_of_places_equally_often(n):
    keys = fold(7, np.arange(20_000))
    first, second = (permute(np.full(len(keys), x), n, keys) for x in (0, n - 1))
    assert stats.chisquare(np.bincount(first, minlength=n)).pvalue > 1e-4
    pairs = np.bincount(first * n + second, minlength=n * n).reshape(n, n)[~np.eye(n, dtype=bool)]
    assert stats.chisquare(pairs).pvalue > 1e-4


def test_neighbours_are_not_kept_together():
    order = permute(np.arange(100_000), 100_000, fold(0, 0))
    assert abs(stats.spearmanr(order[:-1], order[1:]).statistic) < 0.02
    assert abs(stats.spearmanr(np.arange(len(order)), order).statistic) < 0.02


def splitmix(x):
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) % 2**64
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) % 2**64
    return x ^ (x >> 31)


def feistel(x, n, key):
    """Black & Rogaway's generalised Feistel network, with Python's integers."""
    a = next(a for a in range(1, n + 1) if a * a >= n)
    b = next(b for b in range(1, n + 1) if a * b >= n)
    while True:
        left, right = divmod(x, b)
        for turn in range(1, 9, 2):
            left = (left + splitmix(key ^ splitmix((right + turn * 0x9E3779B97F4A7C15) % 2**64)) % a) % a
            right = (right + splitmix(key ^ splitmix((left + (turn + 1) * 0x9E3779B97F4A7C15) % 2**64)) % b) % b
        x = left * b + right
        if x < n:
            return x


@pytest.mark.parametrize("n", [1, 2, 3, 7, 30, 101])
def test_agrees_with_the_construction_of_the_paper(n):
    key = fold(11, 5)
    assert int(key[0]) == splitmix(splitmix((11 + 0x9E3779B97F4A7C15) % 2**64) ^ 5)
    assert permute(np.arange(n), n, key).tolist() == [feistel(x, n, int(key[0])) for x in range(n)]


def test_the_order_is_the_same_in_every_version():
    """Runs go on after an update: if this fails, the order of every run changed."""
    assert permute(np.arange(10), 10, fold(0, 0)).tolist() == [8, 1, 7, 4, 3, 6, 0, 9, 5, 2]
    assert shuffled(np.arange(10**7, 10**7 + 4), 12_000_000, 5).tolist() == [1672074, 5510114, 3638293, 2342687]
    assert shuffled(np.arange(4), 12_000_000, 5, window=65_536).tolist() == [9530197, 9538251, 3175705, 584208]
    assert mixed(np.arange(6), [(0, 7, 0.5), (7, 9, 0.5)], 5).tolist() == [2, 3, 7, 8, 8, 7]


def test_epochs_are_new_permutations():
    stream = shuffled(np.arange(60), 20, 1)
    epochs = np.split(stream, 3)
    assert all((np.sort(e) == np.arange(20)).all() for e in epochs)
    assert len({tuple(e) for e in epochs}) == 3


def test_a_stream_is_a_function_of_the_place():
    whole = shuffled(np.arange(1000), 37, 9, epoch=30, window=7)
    places = np.random.default_rng(0).permutation(1000)
    assert (shuffled(places, 37, 9, epoch=30, window=7) == whole[places]).all()


@pytest.mark.parametrize(("n", "window"), [(1000, 128), (1000, 999), (1003, 64), (130, 7), (100_000, 6400)])
def test_a_window_reads_few_places_of_the_dataset_at_a_time(n, window):
    block = max(window // 64, 1)
    epochs = [shuffled(np.arange(e * n, (e + 1) * n), n, 0, window=window) for e in range(3)]
    for epoch in epochs:
        assert (np.sort(epoch) == np.arange(n)).all()
        for start in range(0, n, window):
            part = np.sort(epoch[start : start + window])
            jumps = 1 + np.count_nonzero(np.diff(part) > 1)  # runs of neighbours in the window
            assert jumps <= min(window, n) // block + 3
    assert len({tuple(e[:20]) for e in epochs}) == 3
    assert len({tuple(e[-3:]) for e in epochs}) == 3  # what comes last, and may be left out, is not always the same


def test_a_window_mixes_the_whole_dataset():
    order = shuffled(np.arange(10_000), 10_000, 0, window=640)
    assert abs(stats.spearmanr(np.arange(10_000), order).statistic) < 0.1


def test_a_mixture_has_exact_shares_in_every_block():
    ranges = [(0, 50, 0.5), (50, 90, 0.3), (90, 1090, 0.2)]
    stream = mixed(np.arange(40_000), ranges, 0)
    for block in np.split(stream, 4):
        assert [np.count_nonzero((block >= a) & (block < b)) for a, b, _ in ranges] == [5000, 3000, 2000]
    for a, b, _ in ranges:  # every epoch of a part is a permutation of it, and no two are the same
        own = stream[(stream >= a) & (stream < b)]
        epochs = [own[i : i + b - a] for i in range(0, len(own) - (b - a) + 1, b - a)]
        assert all((np.sort(e) == np.arange(a, b)).all() for e in epochs)
        assert len({tuple(e) for e in epochs}) == len(epochs)


def test_a_mixture_is_a_function_of_the_place():
    ranges = [(0, 30, 2.0), (30, 100, 1.0)]
    whole = mixed(np.arange(900), ranges, 4, window=16)
    places = np.random.default_rng(0).permutation(900)
    assert (mixed(places, ranges, 4, window=16) == whole[places]).all()


def test_members_come_mixed_within_a_block():
    stream = mixed(np.arange(1000), [(0, 10, 1.0), (10, 20, 1.0)], 0)
    longest = max(len(list(run)) for _, run in itertools.groupby(stream < 10))
    assert longest < 25


def test_shares_add_up():
    assert apportion([1, 1, 1], 100).tolist() == [34, 33, 33]
    assert apportion([0.7, 0.2, 0.1], 25_600).tolist() == [17_920, 5120, 2560]


@pytest.mark.parametrize("weights", [[1.0, 0.0], [1.0, -1.0], [1.0, float("nan")], [1.0, 1e-5]])
def test_useless_weights_are_refused(weights):
    with pytest.raises(UserError, match="weight"):
        apportion(weights)
