"""The `analyze` run: two networks on one dataset, to analysis.json and a page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import json
import os
from pathlib import Path
import time
from typing import Any

from absl import logging
import jax
from jax.sharding import Mesh
from jaxtyping import Bool, Float, Int
from ml_collections import ConfigDict
import numpy as np

from radnet_jax import sharding
from radnet_jax.analysis import (
    decoding,
    domains,
    embedding,
    figures,
    findings,
    intervals,
    networks,
    over_seeds,
    page,
    pairing,
    properties,
    seen,
    similarity,
    weights,
    who_knows,
)
from radnet_jax.analysis.linear_cka import LinearCka
from radnet_jax.analysis.minibatch import MinibatchCka
from radnet_jax.analysis.networks import Network, Sample
from radnet_jax.analysis.pairing import Pair
from radnet_jax.data.dataset import Split, open_split
from radnet_jax.errors import UserError, nearest
from radnet_jax.evaluation import ledger
from radnet_jax.evaluation.canonical import jsonable
from radnet_jax.parts import check_workdir, lock

ANALYSIS_FILE = "analysis.json"
PROTOCOLS = ("default", "radnet_published")
LEAST_IMAGES = 20
NEIGHBOURS = 10


def run(config: ConfigDict, workdir: str | Path) -> Path:
    """Analyses `config.a` against `config.b` on a built dataset; returns the folder.

    Raises:
      UserError: what is missing or unknown; fewer than 20 images; a network that can't see them.
    """
    began = time.perf_counter()
    _check(config)
    mesh = sharding.make_mesh()
    sharding.check_batch_size(config.eval_batch_size, mesh, what="eval_batch_size")
    split = open_split(config.data.dir, config.data.split)
    if len(split) < LEAST_IMAGES:
        raise UserError("fewer images than needed", got=len(split), expected=f"at least {LEAST_IMAGES}")
    nets, pairs = pairing.of_config(config, split, mesh)
    published = _published(nets, pairs) if config.protocol == "radnet_published" else None
    who = who_knows.of_runs(config.runs, seed=config.seed) if config.runs else []
    workdir = check_workdir(workdir, need_bytes=2**24)
    with lock(workdir):
        cka = LinearCka(list(nets[0].layers.values()), list(nets[1].layers.values()), mesh)
        sample = Sample(networks.spread_rows(len(split), config.sample), len(nets))
        same = MinibatchCka([(i, j) for _, i, j in pairs])
        for batch in networks.stream(nets, split, config.eval_batch_size, mesh, seed=config.seed):
            cka.add(batch.features[0], batch.features[1], batch.valid)
            cka.wait()  # one batch in flight, as in `evaluators.reestimate_batch_stats`
            sample.add(batch.features, batch.numbers)
            if pairs:
                same.add(batch.features, batch.grams, batch.valid)
        _tell_constant(cka, nets)
        patients = _patients(split)[sample.rows]
        groups = intervals.patient_groups(patients, seed=config.seed)
        known = _known(split, sample)
        result: dict[str, Any] = {
            "title": config.name or f"{nets[0].name} and {nets[1].name}",
            "a": nets[0].described,
            "b": nets[1].described,
            "continued": pairing.continued(pairs),
            "dataset": _dataset(split),
            "images": cka.images,
            "sample": {"images": len(sample.rows), "patients": len(np.unique(patients))},
            "map": {"debiased": cka.map(), "biased": cka.map(debiased=False)},
            "pairs": _compared(nets, pairs, sample, groups, same),
            "weights": _changes(nets, pairs),
            "maps": embedding.of_sample(
                split, sample.rows, _members(split, sample.rows), known, _last(sample), config.maps, seed=config.seed
            ),
            "spectra": {
                name: similarity.spectrum(sample.features(place)[-1]).tolist()
                for name, place in pairing.shown(pairs).items()
            },
            "domains": _domains(split, nets, pairs, sample),
            "read": _read(nets, pairs, sample, patients, groups, known),
            "published": published,
            "who_knows": who,
            "code": ledger.code_version(),
        }
        result["over_seeds"] = _over_seeds(result["pairs"], pairs, nets, sample, known, groups)
        result["found"] = [
            said for of in (findings.sentences, findings.of_seeds, findings.of_properties) for said in of(result)
        ]
        looked = _seen(config, nets, pairs, split, sample, patients, known, result["read"], mesh)
        result["seen"] = looked.record
        result["timings"] = {"total_s": time.perf_counter() - began}
        filters = {name: figures.first_layer(net.params) for name, net in zip("ab", nets)}
        _write(result, workdir, filters, looked if config.report.images else None)
    logging.info("%s: %d images, %d x %d layers (%.1f s)", workdir, cka.images, *map(len, cka.widths),
                 time.perf_counter() - began)  # fmt: skip
    return workdir


def _check(config: ConfigDict) -> None:
    for name in ("a", "b"):
        if not config[name]:
            raise UserError(
                f"config.{name} is missing", expected="a workdir with a checkpoint, or the name of an import"
            )
    if config.b == pairing.INITIAL:
        raise UserError('config.b can\'t be "initial"', fix='give the run as b, and "initial" as a')
    for name, choices in (("protocol", PROTOCOLS), ("before_statistics", tuple(networks.STATISTICS))):
        if (value := config[name]) not in choices:
            raise UserError(f"unknown config.{name} {value!r}{nearest(value, choices)}", expected=" or ".join(choices))
    if any(isinstance(pair, str) or len(pair) != 2 for pair in config.repeats):
        raise UserError("config.repeats", got=tuple(config.repeats), expected="pairs (a, b)")
    if config.sample < LEAST_IMAGES or config.sample > similarity.GRAM_LIMIT:
        raise UserError(
            "config.sample", got=config.sample, expected=f"at least {LEAST_IMAGES}, at most {similarity.GRAM_LIMIT}"
        )
    embedding.check(config.maps)
    if jax.process_count() > 1:
        raise UserError("an analysis runs in one process", got=jax.process_count(), fix="start it on one machine")


def _compared(
    nets: Sequence[Network], pairs: Sequence[Pair], sample: Sample, groups: Int[np.ndarray, " m"], same: MinibatchCka
) -> list[dict[str, Any]]:
    out = []
    whole = same.values() if pairs else {}
    for row, (what, i, j) in enumerate(pairs):
        layers = {}
        for place, (name, x, y) in enumerate(zip(nets[i].layers, sample.features(i), sample.features(j), strict=True)):
            layers[name] = _measures(x.astype(np.float64), y.astype(np.float64), groups)
            layers[name] |= {f"{kind}_cka_all": float(found[row, place]) for kind, found in whole.items()}
        out.append({"what": what, "a": nets[i].name, "b": nets[j].name, "layers": layers})
    return out


def _measures(
    x: Float[np.ndarray, "m d"], y: Float[np.ndarray, "m d"], groups: Int[np.ndarray, " m"]
) -> dict[str, Any]:
    """All measures of one layer; NaN where one is not defined for so few images."""
    interval = intervals.cka_interval(similarity.linear_gram(x), similarity.linear_gram(y), groups)
    out = {
        "cka": interval.value,
        "low": interval.low,
        "high": interval.high,
        "reason": interval.reason,
        "rbf_cka": similarity.rbf_cka(x, y),
        "procrustes": similarity.procrustes(x, y),
        "rsa": similarity.rsa(x, y),
        "neighbours": similarity.neighbour_overlap(x, y, k=NEIGHBOURS),
    }
    for name, measure in (("svcca", similarity.svcca), ("pwcca", similarity.pwcca)):
        try:
            out[name] = measure(x, y, share=0.99)
        except UserError:  # not more images than directions: all correlations would be 1
            out[name] = float("nan")
    return out


def _known(split: Split, sample: Sample) -> dict[str, Float[np.ndarray, " m"]]:
    """The properties of the sample that something can be said of; of a mixture its members too, as 0 or 1."""
    found = properties.of_split(split, sample.rows)
    for name, member in _members(split, sample.rows).items():
        found[f"domain {name}"] = member.astype(np.float64)
    return properties.usable(found, least=len(sample.rows) // 2)


def _read(
    nets: Sequence[Network],
    pairs: Sequence[Pair],
    sample: Sample,
    patients: np.ndarray,
    groups: Int[np.ndarray, " m"],
    known: Mapping[str, Float[np.ndarray, " m"]],
) -> dict[str, Any]:
    """What each layer of a, b and a random network says of the images' properties."""
    places = pairing.shown(pairs)
    out: dict[str, Any] = {"properties": list(known), "networks": {}}
    for name, place in places.items():
        layers = {}
        for layer, x in zip(nets[place].layers, sample.features(place), strict=True):
            read = decoding.decodability(x, known, groups)
            units = decoding.unit_correlations(x, known, patients)
            layers[layer] = {
                "effective_rank": similarity.effective_rank(x),
                "directions": similarity.directions(x),
                "uniformity": similarity.uniformity(x),
                "alignment": similarity.alignment(x, np.unique(patients, return_inverse=True)[1]),
                "read": {k: {"r2": v.r2, "low": v.low, "high": v.high} for k, v in read.items()},
                "units": units,
            }
        out["networks"][name] = layers
    return out


def _patients(split: Split) -> np.ndarray:
    """The patient of each record; one that names none stands for itself."""
    names = split.manifest()["patient"].to_pylist()
    return np.array([name or f"record {i}" for i, name in enumerate(names)])


def _members(split: Split, rows: Int[np.ndarray, " m"]) -> dict[str, Bool[np.ndarray, " m"]]:
    """Which records are of which member of a mixture; {} of any other dataset."""
    names = [m.name for m in split.card.members if m.splits.get(split.name)]
    return {n: (rows >= first) & (rows < end) for n, (first, end, _) in zip(names, split.members(), strict=True)}


def _domains(split: Split, nets: Sequence[Network], pairs: Sequence[Pair], sample: Sample) -> dict[str, Any] | None:
    """How far apart the members of a mixture lie, in each layer; None of any other dataset."""
    members = {name: rows for name, rows in _members(split, sample.rows).items() if rows.sum() > 1}
    if len(members) < 2:
        return None
    out = {}
    for name, place in pairing.shown(pairs).items():
        layers = zip(nets[place].layers, sample.features(place), strict=True)
        out[name] = {layer: domains.distances({n: x[rows] for n, rows in members.items()}) for layer, x in layers}
    return out


def _last(sample: Sample) -> dict[str, Float[np.ndarray, "m d"]]:
    """What the last block of a and of b gives."""
    return {name: sample.features(place)[-1] for place, name in enumerate("ab")}


def _seen(
    config: ConfigDict,
    nets: Sequence[Network],
    pairs: Sequence[Pair],
    split: Split,
    sample: Sample,
    patients: np.ndarray,
    known: Mapping[str, Float[np.ndarray, " m"]],
    read: Mapping[str, Any],
    mesh: Mesh,
) -> seen.Looked:
    """What single units of both see; of networks of two architectures, each beside a random one of its own."""
    both = dict(zip("ab", nets))
    if pairs:  # a network from scratch begins as the random one of its seed does
        random = dict.fromkeys(both, next(nets[i] for i in pairs[-1][1:] if nets[i].id != nets[0].id))
    else:
        random = {name: networks.untrained(net, config.seed, mesh) for name, net in both.items()}
    return seen.look(
        both,
        random,
        split,
        sample.rows,
        patients,
        _last(sample),
        known,
        {name: list(read["networks"][name].values())[-1]["units"] for name in both},
        continued=pairing.continued(pairs),
        run=config.b,
        mesh=mesh,
        images=config.report.images,
    )


def _changes(nets: Sequence[Network], pairs: Sequence[Pair]) -> list[dict[str, Any]]:
    return [
        {"what": what, "a": nets[i].name, "b": nets[j].name, "blocks": weights.changes(nets[i].params, nets[j].params)}
        for what, i, j in pairs
    ]


def _published(nets: Sequence[Network], pairs: Sequence[Pair]) -> dict[str, Any]:
    if not pairs:
        raise UserError('protocol "radnet_published" compares weights of one architecture')
    reuse = [weights.published_reuse(nets[i].params, nets[j].params) for i, j in pairing.main(pairs)]
    return {
        "reuse": {layer: [r[layer] for r in reuse] for layer in reuse[0]},
        "uniqueness": {"a": weights.published_uniqueness(nets[0].params)},
    }


def _over_seeds(
    compared: Sequence[Mapping[str, Any]],
    pairs: Sequence[Pair],
    nets: Sequence[Network],
    sample: Sample,
    known: Mapping[str, Float[np.ndarray, " m"]],
    groups: Int[np.ndarray, " m"],
) -> dict[str, Any] | None:
    """What the pairs that differ by their seed have in common; None where layer by layer nothing is defined."""
    if not pairs:
        return None
    main = pairing.main(pairs)
    changes = [(sample.features(i), sample.features(j)) for i, j in main]
    random = [sample.features(i) for i in pairs[-1][1:]]
    names = list(nets[0].layers)
    found = over_seeds.summarised(changes, names, random, known, groups, continued=pairing.continued(pairs))
    seeds = over_seeds.most_alike([after for _, after in changes])
    layers = over_seeds.of_layers([c["layers"] for c in compared[: len(main)]], seeds, compared[-1]["layers"])
    return found | {"layers": layers, "starts": len({i for i, _ in main})}


def _tell_constant(cka: LinearCka, nets: Sequence[Network]) -> None:
    for net, places in zip(nets, cka.constant()):
        layers = list(net.layers)
        if len(places) == len(layers):
            raise UserError(
                f"every block of {net.name} gives the same for all images", fix="look at its input: is it constant?"
            )
        if places:
            logging.warning(
                "%s: the same for all images in %s: undefined there", net.name, ", ".join(layers[i] for i in places)
            )


def _dataset(split: Split) -> dict[str, Any]:
    card = split.card
    return {"name": card.name, "fingerprint": card.fingerprint, "split": split.name, "generated": card.generated}


def _write(
    result: Mapping[str, Any], workdir: Path, filters: Mapping[str, np.ndarray | None], pictures: seen.Looked | None
) -> None:
    temporary = workdir / f".{ANALYSIS_FILE}.tmp"
    temporary.write_text(json.dumps(jsonable(result), indent=1) + "\n")
    os.replace(temporary, workdir / ANALYSIS_FILE)
    page.write(workdir / "report", result, filters, pictures)
