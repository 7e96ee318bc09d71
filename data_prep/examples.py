"""Which images stand in the report as examples: a few of each class, of different patients, from all over the split."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
import dataclasses

from data_prep.plan import Plan, PlannedRow
from data_prep.shards import ShardResult
from data_prep.spec import DatasetSpec
from data_prep.summary import UNLABELLED

NONE_OF_THESE = "none of these"
MAX_CLASSES = 60
_SAMPLE = 20_000  # rows that are looked at; memory and time stay flat in the size of the split
_PICTURES = 96
_MOST = 6  # of one class; without classes four times as many
_CANDIDATES = 4  # for each picture of a dataset with masks, of which those with the most mask are shown


@dataclasses.dataclass(frozen=True)
class Examples:
    """Attributes: split; places, for each class the places of its rows in the plan; shown, how many to show of each."""

    split: str
    places: Mapping[str, tuple[int, ...]]
    shown: int

    def all_places(self) -> frozenset[int]:
        return frozenset(place for places in self.places.values() for place in places)

    def pictures(self, results: Iterable[ShardResult]) -> dict[str, list[str]]:
        """{class: sources of <img>} from the shards of the split; a row that was rejected has none."""
        made = {place: (masked, source) for result in results for place, masked, source in result.pictures}
        out = {}
        for name, places in self.places.items():
            found = sorted((made[place] for place in places if place in made), key=lambda picture: -picture[0])
            if found:
                out[name] = [source for _, source in found[: self.shown]]
        return out


def choose(plan: Plan, spec: DatasetSpec, split: str, records: int) -> Examples:
    """Chooses rows of a split of that many planned records; an image with several findings may stand for each."""
    step = max(1, -(-records // _SAMPLE))
    masked: dict[str, list[PlannedRow]] = {}
    others: dict[str, list[PlannedRow]] = {}
    for row in plan.rows(split, step=step):
        for name in _classes(spec, row):
            (masked if row.mask else others).setdefault(name, []).append(row)
    seen = others | masked
    order = [*spec.labels, NONE_OF_THESE, UNLABELLED, ""]
    commonest = sorted(seen, key=lambda name: (-len(seen[name]), order.index(name)))[:MAX_CLASSES]
    shown = 4 * _MOST if commonest in ([""], [UNLABELLED]) else max(1, min(_MOST, _PICTURES // max(1, len(commonest))))
    wanted = shown * (_CANDIDATES if spec.segmentation else 1)
    names = sorted(commonest, key=order.index)
    return Examples(split, {name: tuple(_spread(seen[name], wanted)) for name in names}, shown)


def _classes(spec: DatasetSpec, row: PlannedRow) -> list[str]:
    if spec.task == "single_label":
        return [spec.labels[row.label] if row.label >= 0 else UNLABELLED]
    if spec.task == "multi_label":
        found = [name for name, value, known in zip(spec.labels, row.labels, row.label_mask) if value and known]
        return found or ([NONE_OF_THESE] if all(row.label_mask) else [UNLABELLED])
    return [""]


def _spread(rows: list[PlannedRow], wanted: int) -> list[int]:
    """Places of up to `wanted` rows, of different patients while there are any: the middle one of each, which of a
    series is no end slice.
    """
    by_patient: dict[int, list[PlannedRow]] = {}
    for row in rows:
        by_patient.setdefault(row.person, []).append(row)
    chosen = _evenly([own[len(own) // 2].order for own in by_patient.values()], wanted)
    taken = set(chosen)
    return sorted(chosen + _evenly([row.order for row in rows if row.order not in taken], wanted - len(chosen)))


def _evenly(places: list[int], n: int) -> list[int]:
    return places if len(places) <= n else [places[len(places) * k // n] for k in range(n)]
