"""From what a file holds to a backbone's arrays: strict, every name is used, or known and left out, or an error."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
import dataclasses
import difflib
import functools
import itertools
import re
from typing import Any

from jaxtyping import Float
import numpy as np

from radnet_jax import trees
from radnet_jax.errors import UserError
from radnet_jax.models import MODELS
from radnet_jax.weights import layouts, names
from radnet_jax.weights.cards import SourceCard
from radnet_jax.weights.layouts import Entry

_MOST_NAMES = 100_000  # dicts in dicts that are the same ones can stand for any number
_FLOATS = ("float16", "bfloat16", "float32", "float64")


@dataclasses.dataclass(frozen=True)
class Match:
    """What a file's names turned out to be.

    Attributes:
      arrays: ours by name ("params/...", "batch_stats/..."), float32 and contiguous.
      dtypes: how many of the used arrays had which type in the file.
      ignored: names that were left out, by the reason: a regex of the card, or "buffers".
      batches: largest of the counters of batches, where the file has them.
    """

    arrays: dict[str, Float[np.ndarray, ...]]
    dtypes: dict[str, int]
    ignored: dict[str, list[str]]
    batches: int | None


def select(tree: Any, card: SourceCard, file: str) -> dict[str, Any]:
    """Returns the flat names and values of the part of a file that the card says.

    Raises:
      UserError: none of its places is there; the names that are there stand in the message. More names than any network
        has.
    """
    found = [part for path in card.select if isinstance(part := _at(tree, path), Mapping)]
    if not found or (card.join and len(found) < len(card.select)):
        got = trees.shown([str(k) for k in tree]) if isinstance(tree, Mapping) else type(tree).__name__
        places = " or ".join(".".join(map(str, path)) or "names" for path in card.select)
        raise UserError(
            f"{file} is not laid out as source {card.name} is", got=got, expected=places,
            fix="choose another source: --config.source",
        )  # fmt: skip
    flat = itertools.chain.from_iterable(_flat(part) for part in (found if card.join else found[:1]))
    state = dict(itertools.islice(flat, _MOST_NAMES))
    if next(flat, None) is not None:
        raise UserError(f"{file} is refused: it holds more than {_MOST_NAMES:,} names", fix="check where it is from")
    return state


def _at(tree: Any, path: Sequence[str | int]) -> Any:
    for key in path:
        inside = key in tree if isinstance(tree, Mapping) else _is_index(tree, key)
        if not inside:
            return None
        tree = tree[key]
    return tree


def _is_index(tree: Any, key: str | int) -> bool:
    return isinstance(tree, list | tuple) and isinstance(key, int) and key < len(tree)


def _flat(tree: Mapping[str, Any], start: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{start}{key}/")
        else:
            yield f"{start}{key}", value


def match(state: Mapping[str, Any], card: SourceCard, section: Mapping[str, Any], file: str) -> Match:
    """Takes a backbone's arrays out of a file's.

    Args:
      state: names and values of the file, see `select`.
      card: the source.
      section: the backbone section.
      file: its name, for messages.

    Raises:
      UserError: a weight that is missing or has another shape, a name that is neither used nor known; with their
        number, the first of them and the nearest name.
    """
    entries = layouts.entries(names.find(section["name"], card.layout), layouts.shapes_of(section))
    prefix = _prefix(state, card, entries)
    used = {f"{prefix}{name}" for entry in entries for name in entry.theirs}
    ignored: dict[str, list[str]] = {}
    unknown = []
    for name in state:
        if name in used:
            continue
        reason = next((p for p in card.ignored if re.fullmatch(p, name)), None)
        if reason is None and re.fullmatch(layouts.BUFFERS, name):
            reason = "buffers"
        if reason is None:
            unknown.append(name)
        else:
            ignored.setdefault(reason, []).append(name)
    missing = [name for name in used if name not in state]
    if missing or unknown:
        _refuse(sorted(missing), unknown, card, section, file, state)
    arrays: dict[str, np.ndarray] = {}
    dtypes: dict[str, int] = {}
    misshaped = []
    for entry in entries:
        values = [state[f"{prefix}{name}"] for name in entry.theirs]
        for name, value in zip(entry.theirs, values):
            kind = str(value.dtype) if isinstance(value, np.ndarray) else type(value).__name__
            if kind not in _FLOATS:
                raise UserError(f"{file}: {prefix}{name} is no array of numbers", got=kind, expected=", ".join(_FLOATS))
            dtypes[kind] = dtypes.get(kind, 0) + 1
        try:
            # A copy in any case: views would keep the whole file in memory.
            arrays[entry.ours] = np.array(entry.to_ours(values), np.float32, order="C")
        except ValueError as error:
            misshaped.append(f"{prefix}{error}, which is to fit {entry.ours} {entry.shape}")
    if misshaped:
        raise UserError(
            f"{file}: {len(misshaped)} weight(s) of another shape than {_spelled(section)} has: "
            f"{trees.shown(misshaped[:2])}",
            fix="name the backbone that the file is of: --config.backbone, --config.arguments",
        )
    counters = [np.asarray(v) for k, v in state.items() if k.startswith(prefix) and k.endswith("num_batches_tracked")]
    batches = [int(v.reshape(())) for v in counters if v.size == 1 and v.dtype.kind in "iu"]
    return Match(arrays, dtypes, ignored, max(batches, default=None))


def _prefix(state: Mapping[str, Any], card: SourceCard, entries: Sequence[Entry]) -> str:
    """The card's prefix with which most of the names are there."""
    theirs = [name for entry in entries for name in entry.theirs]
    return max(card.prefixes, key=lambda prefix: sum(f"{prefix}{name}" in state for name in theirs))


def _refuse(
    missing: list[str],
    unknown: list[str],
    card: SourceCard,
    section: Mapping[str, Any],
    file: str,
    state: Mapping[str, Any],
) -> None:
    problems = []
    if missing:
        near = difflib.get_close_matches(missing[0], unknown or list(state), n=1, cutoff=0.5)
        hint = f" (nearest there: {near[0]})" if near else ""
        problems.append(f"{len(missing)} missing: {trees.shown(missing[:2])}{hint}")
    if unknown:
        problems.append(f"{len(unknown)} neither used nor known to the card: {trees.shown(unknown[:2])}")
    other = _other_backbone(state, card, section) if missing or len(unknown) > 2 else None
    raise UserError(
        f"{file} does not hold what source {card.name} says for {_spelled(section)} ({'; '.join(problems)})",
        fix=f"it looks like {other}: --config.backbone={other}"
        if other
        else "check the source and the backbone, or write a card of your own (docs/weights.md)",
    )


def _other_backbone(state: Mapping[str, Any], card: SourceCard, section: Mapping[str, Any]) -> str | None:
    """A backbone of full size, of this family or the card, all of whose names are there, and the most of them."""
    best: tuple[int, str | None] = (0, None)
    family = names.family_of(section["name"])
    for name in {*card.backbones, *(n for n in MODELS.names() if names.family_of(n) == family)} - {section["name"]}:
        theirs = _names_of(name, card.layout)
        if len(theirs) > best[0] and any(all(f"{prefix}{t}" in state for t in theirs) for prefix in card.prefixes):
            best = (len(theirs), name)
    return best[1]


@functools.cache
def _names_of(backbone: str, layout: str) -> tuple[str, ...]:
    entries = layouts.entries(names.find(backbone, layout), layouts.shapes_of({"name": backbone}))
    return tuple(name for entry in entries for name in entry.theirs)


def _spelled(section: Mapping[str, Any]) -> str:
    arguments = ", ".join(f"{k}={v}" for k, v in section.items() if k != "name")
    return f"{section['name']} ({arguments})" if arguments else str(section["name"])
