"""Images of two splits that show the same picture: near by their hashes, then confirmed by their pixels."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

from jaxtyping import Bool, Float
import numpy as np

from data_prep.audit.likeness import TURNS, Turn, likeness, side_of, views
from data_prep.audit.near import near_pairs
from data_prep.audit.units import Unit

_BLOCK = 512  # pairs whose records are held at a time


class Likeness(NamedTuple):
    """Two images that show the same picture.

    Attributes:
      first, second: places of the records in their splits.
      distance: differing bits of the hashes.
      likeness: see `likeness.py`.
      turn: how the first has to be turned to lie like the second.
    """

    first: int
    second: int
    distance: int
    likeness: float
    turn: Turn


def same_pictures(
    first: Unit,
    second: Unit,
    distance: int,
    threshold: float,
    told: Callable[[np.ndarray, np.ndarray], Bool[np.ndarray, " n"]],
    progress: Callable[[int], None],
) -> list[Likeness]:
    """Finds the images of `first` and `second` that show the same picture, each pair once, in record order.

    Args:
      first: a split.
      second: another.
      distance: greatest number of differing bits; for copies that are turned, mirrored or inverted half of it, since
        they are exact in everything else, unless one split is in HU and the other is not.
      threshold: least likeness.
      told: (places of first, places of second) -> the pairs that are passed over, as told already.
      progress: called with the number of pairs that were compared by their pixels.
    """
    best: dict[tuple[int, int], Likeness] = {}
    same_unit = first.dataset.card.stored.unit == second.dataset.card.stored.unit
    for turn in TURNS:
        limit = distance // 2 if any(turn) and same_unit else distance
        for places in _candidates(first, second, turn, limit, told):
            progress(len(places))
            for found in _confirm(first, second, turn, places):
                key = found.first, found.second
                if found.likeness >= threshold and (key not in best or best[key].likeness < found.likeness):
                    best[key] = found
    return [best[key] for key in sorted(best)]


def _candidates(
    first: Unit, second: Unit, turn: Turn, distance: int, told: Callable[[np.ndarray, np.ndarray], np.ndarray]
) -> Iterator[np.ndarray]:
    """Blocks [n 3] of (place in first, place in second, distance), sorted so that records are read in their order."""
    one, other = np.flatnonzero(first.hashed), np.flatnonzero(second.hashed)
    hashes, others = turn.hashes(first.hashes[one]), second.hashes[other]
    swap = len(one) > len(other)
    found = near_pairs(others, hashes, distance) if swap else near_pairs(hashes, others, distance)
    waiting: list[np.ndarray] = []
    for pairs in found:
        a, b = (pairs.second, pairs.first) if swap else (pairs.first, pairs.second)
        places = np.stack([one[a], other[b], pairs.distance], axis=1)
        waiting.append(places[~told(places[:, 0], places[:, 1])])
        if sum(map(len, waiting)) >= 64 * _BLOCK:
            yield from _blocks(waiting)
            waiting = []
    yield from _blocks(waiting)


def _blocks(waiting: list[np.ndarray]) -> Iterator[np.ndarray]:
    if waiting:
        places = np.concatenate(waiting)
        places = places[np.lexsort((places[:, 1], places[:, 0]))]
        for start in range(0, len(places), _BLOCK):
            yield places[start : start + _BLOCK]


def _confirm(first: Unit, second: Unit, turn: Turn, places: np.ndarray) -> Iterator[Likeness]:
    one = _views(first, second, np.unique(places[:, 0]))
    other = _views(second, first, np.unique(places[:, 1]))
    for a, b, distance in places.tolist():
        yield Likeness(a, b, distance, likeness(turn.views(one[a]), other[b]), turn)


def _views(unit: Unit, against: Unit, places: np.ndarray) -> dict[int, Float[np.ndarray, "v s s"]]:
    stored, other = unit.dataset.card.stored, against.dataset.card.stored
    windows = stored.unit == "HU" and other.unit != "HU"
    return {
        place: views(
            unit.records[place]["image"], stored, unit.raw_size(place), side_of(stored, other), windows=windows
        )
        for place in places.tolist()
    }
