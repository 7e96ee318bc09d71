"""All pairs of 64-bit hashes that differ in few bits, without comparing each with each.

Multi-index hashing (Norouzi, Punjani, Fleet, "Fast search in Hamming space with multi-index hashing", CVPR 2012): of
five bands that divide the bits, at least one differs in no more than a fifth of the bits that differ in all. Hashes
with equal or nearly equal bands stand together once they are sorted, and only those are compared.
"""

from __future__ import annotations

from collections.abc import Iterator
import itertools
from typing import NamedTuple

from jaxtyping import Bool, Int64, UInt64
import numpy as np

BANDS = 5
MAX_DISTANCE = 14  # beyond, bands may differ in three bits, and unrelated images are no further apart
_BLOCK = 1 << 18  # comparisons at a time: they stay in the cache
# Measured; they only have to be right within a factor. Hashes of one kind of image crowd in a few of the buckets.
_COMPARISON_SECONDS, _BUCKET_SECONDS, _CROWDING = 1e-9, 5e-5, 4.0
# Bits of one band lie five apart, so that each band holds high and low frequencies.
_PLACES = tuple(tuple(range(band, 64, BANDS)) for band in range(BANDS))


class NearPairs(NamedTuple):
    """Pairs of places in two arrays of hashes, and how many bits differ."""

    first: Int64[np.ndarray, " n"]
    second: Int64[np.ndarray, " n"]
    distance: Int64[np.ndarray, " n"]


class _Buckets(NamedTuple):
    """Hashes sorted by their band: those of key k are `hashes[starts[k] : starts[k + 1]]`, `order` their places."""

    hashes: UInt64[np.ndarray, " n"]
    order: Int64[np.ndarray, " n"]
    starts: Int64[np.ndarray, " k"]


def near_pairs(first: UInt64[np.ndarray, " n"], second: UInt64[np.ndarray, " m"], distance: int) -> Iterator[NearPairs]:
    """Yields every pair of a hash of `first` and one of `second` that differ in at most `distance` bits, once.

    Memory is about 24 bytes for each hash, and what is yielded. Put the larger array second.

    Args:
      first: hashes.
      second: hashes.
      distance: 0 to MAX_DISTANCE.
    """
    wrong = distance // BANDS  # bits by which at least one band may differ
    length = _key_length(len(first), len(second), wrong)
    bands: list[tuple[int, ...]] = [places[:length] for places in _PLACES] if length else [()]
    flips = np.array([sum(1 << b for b in bits) for bits in _few(length, wrong)])
    for band, places in enumerate(bands):
        left, right = _buckets(first, places), _buckets(second, places)
        for key in np.flatnonzero(np.diff(right.starts)):
            neighbours = key ^ flips
            one = _ranges(left.starts[neighbours], left.starts[neighbours + 1])
            if not len(one):
                continue
            other = slice(right.starts[key], right.starts[key + 1])
            for pairs in _compare(left.hashes[one], right.hashes[other], distance):
                a, b = one[pairs.first], other.start + pairs.second
                seen = _in_earlier_band(left.hashes[a] ^ right.hashes[b], bands[:band], wrong)
                yield NearPairs(left.order[a[~seen]], right.order[b[~seen]], pairs.distance[~seen])


def _few(bits: int, most: int) -> list[tuple[int, ...]]:
    """Sets of at most `most` of so many bits."""
    return [chosen for n in range(most + 1) for chosen in itertools.combinations(range(bits), n)]


def _key_length(n: int, m: int, wrong: int) -> int:
    """Bits of a band to sort by, at most twelve; 0 = compare each with each. More make more buckets of fewer hashes:
    the least of the time for the buckets and that for comparing the hashes in them.
    """
    costs = {0: n * m * _COMPARISON_SECONDS}
    for bits in range(4, len(_PLACES[-1]) + 1):
        buckets = 1 << bits
        compared = n * m * len(_few(bits, wrong)) / buckets * _CROWDING
        costs[bits] = BANDS * (buckets * _BUCKET_SECONDS + compared * _COMPARISON_SECONDS)
    return min(costs, key=lambda bits: costs[bits])


def _ranges(starts: Int64[np.ndarray, " k"], stops: Int64[np.ndarray, " k"]) -> Int64[np.ndarray, " n"]:
    """The numbers of several ranges, one after another."""
    lengths = stops - starts
    ends = np.cumsum(lengths)
    return np.arange(ends[-1]) + np.repeat(starts - (ends - lengths), lengths)


def _buckets(hashes: UInt64[np.ndarray, " n"], places: tuple[int, ...]) -> _Buckets:
    keys = np.zeros(len(hashes), np.int32)
    for bit, place in enumerate(places):
        keys |= ((hashes >> np.uint64(place)) & np.uint64(1)).astype(np.int32) << bit
    order = np.argsort(keys, kind="stable")
    starts = np.searchsorted(keys[order], np.arange((1 << len(places)) + 1))
    return _Buckets(hashes[order], order, starts)


def _compare(one: UInt64[np.ndarray, " n"], other: UInt64[np.ndarray, " m"], distance: int) -> Iterator[NearPairs]:
    """Each with each, a block at a time; yields blocks with a hit."""
    step = max(1, _BLOCK // len(other))
    for start in range(0, len(one), step):
        differing = np.bitwise_count(one[start : start + step, None] ^ other[None])
        hits = np.flatnonzero(differing.ravel() <= distance)
        if len(hits):
            yield NearPairs(start + hits // len(other), hits % len(other), differing.ravel()[hits].astype(np.int64))


def _in_earlier_band(
    differing: UInt64[np.ndarray, " n"], earlier: list[tuple[int, ...]], wrong: int
) -> Bool[np.ndarray, " n"]:
    """Which pairs a band before has already found."""
    seen = np.zeros(len(differing), bool)
    for places in earlier:
        seen |= np.bitwise_count(differing & np.uint64(sum(1 << place for place in places))) <= wrong
    return seen
