"""Which record stands at which place of the endless training stream: pure functions of (key, place). Imports no jax.

Nothing is drawn in sequence and nothing is kept, so that reading can start at any place, for any number of processes,
at no cost in time or memory. A permutation is a generalised Feistel network over [0, n) (Black & Rogaway, "Ciphers
with arbitrary finite domains", 2002, section 5), computed for just the places that are asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
import functools

from jaxtyping import Int, UInt64
import numpy as np

from radnet_jax.errors import UserError

Range = tuple[int, int, float]  # first record, one past the last, weight
Key = UInt64[np.ndarray, "*p"]

WINDOW_BLOCKS = 64  # places of the dataset that a shuffle window mixes
MIXTURE_BLOCK = 10_000  # places in which a mixture's shares are exact
_ROUNDS = 8
_SPLITMIX = np.array([0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB], np.uint64)

_TURNS = _SPLITMIX[0] * np.arange(1, _ROUNDS + 1, dtype=np.uint64)


def fold(key: Key | int, data: Int[np.ndarray, "*p"] | int) -> Key:
    """Returns the key of `data` under `key`, element by element (SplitMix64's finaliser; Steele, Lea & Flood 2014)."""
    x = np.atleast_1d(np.asarray(key)).astype(np.uint64) + _SPLITMIX[0]
    return _mix(_mix(x) ^ np.atleast_1d(np.asarray(data)).astype(np.uint64))


def _mix(x: Key) -> Key:
    x = (x ^ (x >> np.uint64(30))) * _SPLITMIX[1]
    x = (x ^ (x >> np.uint64(27))) * _SPLITMIX[2]
    return x ^ (x >> np.uint64(31))


def permute(x: Int[np.ndarray, " p"], n: Int[np.ndarray, "*p"] | int, key: Key) -> Int[np.ndarray, " p"]:
    """Returns where the permutation of [0, n) that belongs to `key` sends each x; n and key may differ by element."""
    n = np.broadcast_to(np.asarray(n, np.int64), x.shape)
    key = np.broadcast_to(key, x.shape)
    a = np.ceil(np.sqrt(n)).astype(np.int64)
    b = -(-n // a)
    out = x.astype(np.int64)
    outside = np.arange(len(out))
    while len(outside):  # a * b exceeds n by less than a: seldom more than one round trip
        rows, columns, k = a[outside], b[outside], key[outside]
        left, right = np.divmod(out[outside], columns)
        for turn in range(0, _ROUNDS, 2):
            left = (left + _below(rows, k, turn, right)) % rows
            right = (right + _below(columns, k, turn + 1, left)) % columns
        out[outside] = left * columns + right
        outside = outside[out[outside] >= n[outside]]
    return out


def _below(n: Int[np.ndarray, " p"], key: Key, turn: int, x: Int[np.ndarray, " p"]) -> Int[np.ndarray, " p"]:
    h = _mix(key ^ _mix(x.astype(np.uint64) + _TURNS[turn]))
    return (h % n.astype(np.uint64)).astype(np.int64)


def shuffled(
    places: Int[np.ndarray, " p"], n: int, key: Key | int, *, epoch: int | None = None, window: int = 0
) -> Int[np.ndarray, " p"]:
    """Returns the numbers in [0, n) at `places` of an endless stream in which every epoch is a new permutation.

    Args:
      places: from 0.
      n: how many numbers there are.
      key: of the stream.
      epoch: places in an epoch, n by default; fewer leave out others of the n in each epoch.
      window: 0 shuffles all; else numbers come in blocks of `window // 64` neighbours, in shuffled order, and are then
        shuffled within each `window` places, so that a reader is at no more than about 64 blocks at a time.
    """
    turn, place = np.divmod(places, epoch or n)
    key = fold(key, turn)
    if not 0 < window < n:
        return permute(place, n, key)
    start = place // window * window
    place = start + permute(place - start, np.minimum(window, n - start), fold(key, start))
    block = max(window // WINDOW_BLOCKS, 1)
    slot, offset = np.divmod(place, block)
    whole = n // block
    slot = np.where(slot < whole, permute(np.minimum(slot, whole - 1), whole, fold(key, -1)), slot)
    # The short last block stays last; the shift makes it other records in every epoch.
    shift = (fold(key, -2) % np.uint64(n)).astype(np.int64)
    return (slot * block + offset + shift) % n


def mixed(
    places: Int[np.ndarray, " p"], ranges: Sequence[Range], key: Key | int, *, window: int = 0
) -> Int[np.ndarray, " p"]:
    """Returns the record numbers at `places` of a stream in which each range has its weight's share of every block.

    Each range is shuffled through its own epochs, however long they are. A block is MIXTURE_BLOCK places, to which
    the shares are rounded.
    """
    counts = apportion([weight for _, _, weight in ranges])
    turns, place = np.divmod(places, MIXTURE_BLOCK)
    member, nth = np.empty_like(places), np.empty_like(places)
    for turn in np.unique(turns):
        here = turns == turn
        members, ranks = _block(int(fold(key, turn)[0]), tuple(counts.tolist()))
        member[here] = members[place[here]]
        nth[here] = turn * counts[member[here]] + ranks[place[here]]
    out = np.empty_like(places)
    for number, (start, stop, _) in enumerate(ranges):
        mine = member == number
        out[mine] = start + shuffled(nth[mine], stop - start, fold(key, -1 - number), window=window)
    return out


@functools.lru_cache(maxsize=16)
def _block(key: int, counts: tuple[int, ...]) -> tuple[Int[np.ndarray, " p"], Int[np.ndarray, " p"]]:
    """Returns whose each place of a block is, and how many places of the same member come before it."""
    drawn = permute(np.arange(MIXTURE_BLOCK), MIXTURE_BLOCK, np.array([key], np.uint64))
    members = np.searchsorted(np.cumsum(counts), drawn, side="right")
    ranks = np.empty_like(members)
    for number in range(len(counts)):
        ranks[members == number] = np.arange(counts[number])
    return members, ranks


def apportion(weights: Sequence[float], total: int = MIXTURE_BLOCK) -> Int[np.ndarray, " m"]:
    """Divides `total` places by weight (largest remainder); a share that rounds to nothing is refused."""
    shares = np.asarray(weights, np.float64)
    if not (np.isfinite(shares).all() and (shares > 0).all()):
        raise UserError("weights of a mixture", got=", ".join(map(str, weights)), expected="numbers above 0")
    exact = shares / shares.sum() * total
    counts = np.floor(exact).astype(np.int64)
    counts[np.argsort(counts - exact, kind="stable")[: total - counts.sum()]] += 1
    if not counts.all():
        raise UserError(
            "a weight of the mixture is too small",
            got=f"a share of {shares.min() / shares.sum():.2g}",
            expected=f"at least 1 of {total} examples",
        )
    return counts
