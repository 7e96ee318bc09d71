"""Which networks an analysis is about, and which of them are held against each other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
import itertools
from typing import Any

from absl import logging
from jax.sharding import Mesh
from ml_collections import ConfigDict

from radnet_jax.analysis import findings, networks
from radnet_jax.analysis.networks import Network
from radnet_jax.data.dataset import Split
from radnet_jax.errors import UserError
from radnet_jax.parts import plain

INITIAL = "initial"

Pair = tuple[str, int, int]
"""What it is, and the places of its two networks."""


def of_config(config: ConfigDict, split: Split, mesh: Mesh) -> tuple[list[Network], list[Pair]]:
    """Returns the networks, a and b first, and the pairs of the same architecture, whose layers are compared.

    The pairs that are asked about stand first: a and b, then its repeats. Pairs of two seeds follow, where there are
    repeats, and last two random networks. There is none where a and b differ in architecture.

    Raises:
      UserError: a network that is not found or can't see these images, repeats of another architecture.
    """
    declared = plain(config.adapter) if config.adapter else None
    found: list[Network] = []
    places: dict[tuple[Any, ...], int] = {}  # a start that several runs began with passes the images once

    def own_statistics(network: Network) -> Network:
        return networks.with_own_statistics(network, split, config.eval_batch_size, mesh)

    def place(key: tuple[Any, ...], make: Callable[[], Network]) -> int:
        if key not in places:
            network = make()
            places[key] = len(found)
            found.append(network)
        return places[key]

    def pair(a: str, b: str) -> tuple[int, int]:
        after = networks.load(b, split, declared, mesh)
        if a == INITIAL:
            before = place((INITIAL, b), lambda: own_statistics(networks.initial(b, after, mesh)))
        else:
            started = config.before_statistics == "images" and networks.began_with(b, a)

            def load() -> Network:
                network = networks.load(a, split, declared, mesh)
                return own_statistics(network) if started else network

            before = place(("before", a, started), load)
        return before, place(("after", b), lambda: after)

    first = pair(config.a, config.b)
    went_on = all(a == INITIAL or networks.began_with(b, a) for a, b in ((config.a, config.b), *config.repeats))
    what = findings.CHANGE if went_on else findings.OTHERS
    if not networks.same_architecture(*(found[i] for i in first)):
        if config.repeats:
            raise UserError("config.repeats needs networks of one architecture, layer by layer")
        logging.info("networks of two architectures: the map only")
        return found, []
    pairs: list[Pair] = [(what, *first)]
    for a, b in config.repeats:
        before, after = pair(a, b)
        pairs.append((what, before, after))
        if not all(networks.same_architecture(found[0], found[i]) for i in (before, after)):
            raise UserError(f"({a}, {b}) of config.repeats is of another architecture than config.a")
    for (_, _, one), (_, _, other) in itertools.pairwise(pairs[:]):  # each with the next: as many as there are seeds
        pairs.append((findings.SEEDS, one, other))
    for seed in (config.seed, config.seed + 1):
        found.append(own_statistics(networks.untrained(found[0], seed, mesh)))
    pairs.append((findings.RANDOM, len(found) - 2, len(found) - 1))
    return found, pairs


def main(pairs: Sequence[Pair]) -> list[tuple[int, int]]:
    """The pairs that are asked about, which stand first: a and b, and its repeats."""
    return [(i, j) for what, i, j in pairs if what == pairs[0][0]]


def continued(pairs: Sequence[Pair]) -> bool:
    """Whether b went on from a's very weights, in each pair: a unit's number then names the same unit in both."""
    return bool(pairs) and pairs[0][0] == findings.CHANGE


def shown(pairs: Sequence[Pair]) -> dict[str, int]:
    """The networks whose features are looked at one by one: a, b, and a random one of the same architecture."""
    return {"a": 0, "b": 1} | ({"random": pairs[-1][1]} if pairs else {})
