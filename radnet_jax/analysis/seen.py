"""What single units see: the images that they answer most and least to, and maps on the input, before and after."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int, PyTree
import numpy as np
from scipy.stats import spearmanr

from radnet_jax import trained
from radnet_jax.analysis import attribution, networks, pictures
from radnet_jax.analysis.networks import Network
from radnet_jax.augment.views import center
from radnet_jax.data.dataset import Split
from radnet_jax.evaluation import ledger
from radnet_jax.models.blocks import pooled_blocks
from radnet_jax.preprocessing import Adapter
from radnet_jax.weights import use

FOLLOWING = 2  # units of each network that follow a property
CHANGED = 2  # units that changed most
CLASSES = 6
TILES = 6  # images of a strip
CANDIDATES = 256  # images among which those of a class are looked for
_BATCH = 32

Features = Mapping[str, Float[np.ndarray, "m d"]]
"""Of the last block, "a" and "b"."""


@dataclasses.dataclass(frozen=True)
class Unit:
    """A unit of the last block that is looked at.

    Attributes:
      number: its place among the block's units.
      of: the network that it was chosen in, "a" or "b".
      follows: the property that it follows; "" for one that was chosen because it changed.
    """

    number: int
    of: str
    follows: str


def choose(read: Mapping[str, Mapping[str, Mapping[str, float]]], last: Features, *, continued: bool) -> list[Unit]:
    """Returns the units of each network that follow a property most, and those that changed most.

    A property counts if any unit follows it at the false discovery rate of `decoding.unit_correlations`; each unit and,
    within a network, each property is taken once.

    Args:
      read: for "a" and "b" what `unit_correlations` gives of the last block.
      last: its features.
      continued: b began with a, so that a number names the same unit in both: only then can a unit change.
    """
    chosen: list[Unit] = []
    taken: set[tuple[str, int]] = set()
    for name, found in read.items():
        kept = {p: v for p, v in found.items() if v["share"] > 0}
        count = 0
        for p in sorted(kept, key=lambda p: -abs(kept[p]["strongest"])):
            number = int(kept[p]["unit"])
            if count < FOLLOWING and (key := ("" if continued else name, number)) not in taken:
                taken.add(key)
                chosen.append(Unit(number, name, p))
                count += 1
    if continued:
        same = rank_agreement(last["a"], last["b"])
        order = [int(j) for j in np.argsort(same, kind="stable") if np.isfinite(same[j]) and ("", int(j)) not in taken]
        chosen += [Unit(j, "b", "") for j in order[:CHANGED]]
    return chosen


def rank_agreement(x: Float[np.ndarray, "m d"], y: Float[np.ndarray, "m d"]) -> Float[np.ndarray, " d"]:
    """Spearman's correlation over images of each unit before and after; NaN where one of them is constant."""
    out = np.full(x.shape[1], np.nan)
    for j in np.flatnonzero((np.ptp(x, axis=0) > 0) & (np.ptp(y, axis=0) > 0)):
        out[j] = spearmanr(x[:, j], y[:, j]).statistic
    return out


def extremes(values: Float[np.ndarray, " m"], patients: np.ndarray, count: int) -> tuple[list[int], list[int]]:
    """Returns the rows of the largest and of the smallest values, one of each patient; of equal ones the first."""

    def first(order: Int[np.ndarray, " m"]) -> list[int]:
        rows: dict[Any, int] = {}
        for row in order:
            if len(rows) < count:
                rows.setdefault(patients[row], int(row))
        return list(rows.values())

    return first(np.argsort(-values, kind="stable")), first(np.argsort(values, kind="stable"))


@dataclasses.dataclass(frozen=True)
class Looked:
    """What is shown of units and classes: numbers for the record, and pictures, which hold patients' pixels.

    Attributes:
      record: of JSON values.
      strips: for each unit, PNGs by network: above the images that it answers most to, below those it answers least to.
      maps: for each unit, then each class: by network the PNGs of attribution.MAPS, and of the "image" they are of.
    """

    record: dict[str, Any]
    strips: list[dict[str, bytes]]
    maps: list[dict[str, dict[str, bytes]]]


def look(
    nets: Mapping[str, Network],
    random: Mapping[str, Network],
    split: Split,
    rows: Int[np.ndarray, " m"],
    patients: np.ndarray,
    last: Features,
    properties: Mapping[str, Float[np.ndarray, " m"]],
    read: Mapping[str, Mapping[str, Mapping[str, float]]],
    *,
    continued: bool,
    run: str,
    mesh: Mesh,
    images: bool,
) -> Looked:
    """Looks at chosen units of both networks, and at the classes of `b` where it is a finished classification.

    Args:
      nets: "a" and "b".
      random: for each of the two a random network of its architecture, that its maps are held against.
      split: the images.
      rows: of the sample.
      patients: of the sample.
      last: of the sample.
      properties: of the sample, by name; NaN where unknown.
      read: as of `choose`.
      continued: b began with a.
      run: the workdir of b.
      mesh: that a finished run is opened on.
      images: False draws none.
    """
    units = choose(read, last, continued=continued)
    kept = rank_agreement(last["a"], last["b"]) if continued else None
    looks = {name: _of_units(net) for name, net in nets.items()}
    baseline = {n: _of_units(dataclasses.replace(net, adapter=nets[n].adapter)) for n, net in random.items()}
    record: dict[str, Any] = {"units": [], "classes": []}
    strips, found, drawn = [], [], []
    for unit in units:
        shown = [name for name in nets if continued or name == unit.of]
        values = {name: last[name][:, unit.number] for name in shown}
        r = {n: _spearman(v, properties[unit.follows]) for n, v in values.items()} if unit.follows else {}
        same = float("nan") if kept is None else float(kept[unit.number])
        record["units"].append({"unit": unit.number, "of": unit.of, "follows": unit.follows, "r": r, "kept": same})
        ends = {name: extremes(v, patients, TILES) for name, v in values.items()}
        chosen = {name: looks[name] for name in shown} | {"random": baseline[unit.of]}
        row = int(rows[ends[unit.of][0][0]])
        found.append({name: one.maps(split, row, unit.number) for name, one in chosen.items()})
        if images:
            strips.append({name: looks[name].strip(split, [rows[end] for end in ends[name]]) for name in shown})
            drawn.append({name: one.drawn(split, row, found[-1][name]) for name, one in chosen.items()})
    candidates = rows[networks.spread_rows(len(rows), CANDIDATES)]
    labels, of_run = _of_classes(run, nets["b"], random["b"], mesh)
    for k, row in enumerate(of_run["b"].best(split, candidates)[: len(labels)] if labels else []):
        record["classes"].append(labels[k])
        found.append({name: one.maps(split, row, k) for name, one in of_run.items()})
        if images:
            drawn.append({name: one.drawn(split, row, found[-1][name]) for name, one in of_run.items()})
    record["maps_like_random"] = _sanity(found)
    return Looked(record, strips, drawn)


@dataclasses.dataclass(frozen=True)
class _Look:
    """A network from its input to numbers: the units of its last block, or the scores of classes. On one device."""

    outputs: attribution.Outputs
    params: PyTree
    state: PyTree
    adapter: Adapter

    def inputs(self, split: Split, rows: Sequence[int] | Int[np.ndarray, " n"]) -> Float[Array, "n h w c"]:
        return center(jnp.asarray(np.stack([split[int(row)]["image"] for row in rows])), self.adapter)

    def maps(self, split: Split, row: int, number: int) -> dict[str, Float[np.ndarray, "h w"]]:
        """Returns the maps of one of the numbers, of one image."""
        image = self.inputs(split, [row])
        width = jax.eval_shape(self.outputs, self.params, self.state, image).shape[1]
        direction = np.eye(width, dtype=np.float32)[[number]]
        found = attribution.of_images(self.outputs, self.params, self.state, image, direction)
        return {name: values[0] for name, values in found.items()}

    def drawn(self, split: Split, row: int, maps: Mapping[str, Float[np.ndarray, "h w"]]) -> dict[str, bytes]:
        return pictures.of_maps(self.inputs(split, [row]), maps, self.adapter)

    def strip(self, split: Split, rows: Sequence[Int[np.ndarray, " n"]]) -> bytes:
        return pictures.strip([self.inputs(split, part) for part in rows], self.adapter)

    def best(self, split: Split, rows: Int[np.ndarray, " m"]) -> list[int]:
        """Returns for each number the image where it is largest."""
        found = []
        for first in range(0, len(rows), _BATCH):
            chosen = np.resize(rows[first : first + _BATCH], _BATCH)  # the last batch is filled up: one program
            found.append(np.asarray(_forward(self.outputs)(self.params, self.state, self.inputs(split, chosen))))
        return [int(rows[i]) for i in np.concatenate(found)[: len(rows)].argmax(axis=0)]


def _of_units(net: Network) -> _Look:
    params, stats = _on_one_device((net.params, net.batch_stats))
    return _Look(_last_block(net.module), params, stats, net.adapter)


def _of_classes(run: str, b: Network, random: Network, mesh: Mesh) -> tuple[list[str], dict[str, _Look]]:
    """The first CLASSES labels of a finished classification, and it with its own and with a random backbone."""
    folder = use.find(run)
    if not (folder / ledger.RUN_FILE).is_file():
        return [], {}
    record = ledger.read_run(folder).record
    if record["kind"] != "finetune" or record["config"]["run"] != "train" or "masks" in record["config"]:
        return [], {}
    found = trained.load(folder, mesh)
    params, state = _on_one_device((found.params, found.model_state))
    drawn, drawn_stats = _on_one_device((random.params, random.batch_stats))
    swapped = {"batch_stats": state["batch_stats"] | {"backbone": drawn_stats}}
    return list(found.card.labels[:CLASSES]), {
        "b": _Look(_logits(found.objective), params, state, b.adapter),
        "random": _Look(_logits(found.objective), params | {"backbone": drawn}, swapped, b.adapter),
    }


def _on_one_device(tree: Any) -> Any:
    return jax.device_put(tree, jax.local_devices()[0])


def _spearman(values: Float[np.ndarray, " m"], by: Float[np.ndarray, " m"]) -> float:
    known = np.isfinite(by)
    if not np.ptp(values[known]) > 0:
        return float("nan")
    return float(spearmanr(values[known], by[known]).statistic)


def _sanity(found: Sequence[Mapping[str, Mapping[str, Any]]]) -> dict[str, dict[str, float]]:
    """By network and kind of map: mean rank correlation with the same map of a random network; NaN where undefined.

    Maps of networks that see images of other sizes are left out.
    """
    out: dict[str, dict[str, float]] = {}
    for name in ("a", "b"):
        pairs = [(maps[name], maps["random"]) for maps in found if name in maps]
        pairs = [(one, other) for one, other in pairs if one["gradient"].shape == other["gradient"].shape]
        if pairs:
            values = {k: [attribution.agreement(one[k], other[k]) for one, other in pairs] for k in attribution.MAPS}
            out[name] = {k: float(np.nanmean(v)) if np.isfinite(v).any() else float("nan") for k, v in values.items()}
    return out


@functools.lru_cache(maxsize=16)
def _forward(outputs: attribution.Outputs) -> Any:
    return jax.jit(outputs)


@functools.lru_cache(maxsize=16)
def _last_block(module: Any) -> attribution.Outputs:
    def outputs(params: PyTree, batch_stats: PyTree, image: Array) -> Array:
        return list(pooled_blocks(module, {"params": params, "batch_stats": batch_stats}, image).values())[-1]

    return outputs


@functools.lru_cache(maxsize=16)
def _logits(objective: Any) -> attribution.Outputs:
    def outputs(params: PyTree, model_state: PyTree, image: Array) -> Array:
        return objective.predict(params, model_state, {"image": image})["logits"]

    return outputs
