"""Pairs of networks that differ by their seed: what was kept, what that responds to, and how sure it is over seeds.

A unit of a network is one feature of a block, pooled. Fine-tuning begins with the very units that it changes, so that a
unit before and the unit of the same number after can be held against each other; units of two trainings can't.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import itertools
import math
from typing import Any

from jaxtyping import Float, Int
import numpy as np
from scipy import stats
from scipy.stats import rankdata

from radnet_jax.analysis import decoding, similarity
from radnet_jax.evaluation.statistics.correction import correct
from radnet_jax.evaluation.statistics.seeds import t_interval

KEPT = 0.8  # correlation over images, before and after, from which a unit counts as kept
HALF = 0.5  # share of a block's units from which the block counts as kept

Layers = Sequence[Float[np.ndarray, "m _"]]
Targets = Mapping[str, Float[np.ndarray, " m"]]


def kept_units(x: Float[np.ndarray, "m d"], y: Float[np.ndarray, "m d"]) -> dict[str, float]:
    """How many units give the same before and after, up to shift and scale.

    Returns:
      "share": of the units that are the same for all images neither before nor after, those whose Pearson correlation
      over images with themselves is at least KEPT; "chance": of all pairs of two different units, one before and one
      after, the share that are as alike: features of images that differ in one way above all are alike whichever they
      are. NaN where no unit, or no pair, is left.
    """
    r = _correlations(x, y)
    same = np.diag(r)
    others = r[~np.eye(len(r), dtype=bool)]
    return {"share": _share(same), "chance": _share(others)}


def responses(
    x: Float[np.ndarray, "m d"], y: Float[np.ndarray, "m d"], targets: Targets
) -> dict[str, tuple[float, float]]:
    """How closely units follow each property after fine-tuning: the mean over units of Spearman's rank correlation,
    squared; of those that were kept, and of those that were not. NaN where there are none.
    """
    same = np.diag(_correlations(x, y))
    kept, changed = same >= KEPT, same < KEPT
    followed = {name: following(y, target) for name, target in targets.items()}
    return {name: (_mean(v[kept]), _mean(v[changed])) for name, v in followed.items()}


def following(x: Float[np.ndarray, "m d"], target: Float[np.ndarray, " m"]) -> Float[np.ndarray, " d"]:
    """Returns each unit's squared rank correlation with a property, over the images where it is known; NaN of a
    constant unit.
    """
    known = np.isfinite(target)
    return decoding.correlations(rankdata(x[known], axis=0), rankdata(target[known])) ** 2


def summarised(
    changes: Sequence[tuple[Layers, Layers]],
    names: Sequence[str],
    random: Sequence[Layers],
    targets: Targets,
    groups: Int[np.ndarray, " m"],
    *,
    continued: bool,
) -> dict[str, Any]:
    """What pairs of networks that differ by their seed have in common.

    Each figure is {"mean", "low", "high", "values"}: the mean over pairs, Student's 95 % interval of it, and that of
    each pair. Of one pair low, high and p are NaN.

    Args:
      changes: of each pair, the layers before and the layers after, of the same images; else those of a and of b.
      names: of the layers.
      random: the layers of random networks.
      targets: properties of the images.
      groups: of patients.
      continued: the second of each pair went on from the first, so that units can be held against each other.

    Returns:
      "units": of each layer, `kept_units`; {} where no unit is the same in both. "block": the deepest that kept at
      least HALF of its units, "" where none did. "responds": of each property, `responses` of that block, kept and
      changed, and "random": that of all units of the random network that follows it most; {} without such a block.
      "read": of each property, R^2 read from the last layer "before" and "after", and their "difference", a pair with
      itself; its p is Student's, corrected by Holm's procedure over the properties.
    """
    units: dict[str, Any] = {}
    for i, name in enumerate(names if continued else ()):
        found = [kept_units(before[i], after[i]) for before, after in changes]
        units[name] = {key: _over([f[key] for f in found]) for key in ("share", "chance")}
    kept = [i for i, v in enumerate(units.values()) if v["share"]["mean"] >= HALF]
    responds = _responds(changes, kept[-1], random, targets) if kept else {}
    decoded: dict[str, Any] = {}
    read = [[decoding.decodability(x[-1], targets, groups) for x in pair] for pair in changes]
    for name in targets:
        before, after = (np.array([side[name].r2 for side in sides]) for sides in zip(*read))
        p = float(stats.ttest_1samp(after - before, 0).pvalue) if len(read) > 1 and np.ptp(after - before) else math.nan
        decoded[name] = {"before": _over(before), "after": _over(after), "difference": _over(after - before), "p": p}
    for values, p in zip(decoded.values(), correct(np.array([v["p"] for v in decoded.values()])), strict=True):
        values["p_holm"] = float(p)
    block = names[kept[-1]] if kept else ""
    return {"n": len(changes), "units": units, "block": block, "responds": responds, "read": decoded}


def _responds(
    changes: Sequence[tuple[Layers, Layers]], layer: int, random: Sequence[Layers], targets: Targets
) -> dict[str, Any]:
    followed = [responses(before[layer], after[layer], targets) for before, after in changes]
    out = {}
    for name, target in targets.items():
        kept, changed = ([v for v in side if np.isfinite(v)] for side in zip(*(f[name] for f in followed)))
        drawn = max((_mean(following(x[layer], target)) for x in random), default=math.nan)
        out[name] = {"kept": _over(kept), "changed": _over(changed), "random": drawn}
    return out


def of_layers(
    changes: Sequence[Mapping[str, Any]], seeds: Sequence[float], random: Mapping[str, Any]
) -> dict[str, Any]:
    """Each layer's CKA over seeds, and what it is held against.

    Args:
      changes: of each pair before and after, the measures by layer.
      seeds: of each layer, `most_alike`.
      random: of two random networks.

    Returns:
      By layer "cka" and "maps" (of flattened maps), as `summarised` gives figures; "two_seeds", that of
      the two seeds that are most alike; "random".
    """
    return {
        layer: {
            "cka": _over([c[layer]["cka"] for c in changes]),
            "maps": _over([c[layer]["maps_cka_all"] for c in changes]),
            "two_seeds": most,
            "random": random[layer]["cka"],
        }
        for layer, most in zip(changes[0], seeds, strict=True)
    }


def most_alike(networks: Sequence[Layers]) -> list[float]:
    """Returns, of each layer, the debiased linear CKA of the two networks that are most alike there, of all pairs; NaN
    of a single network, and where none is defined.
    """
    out = []
    for layers in zip(*networks, strict=True):
        grams = [similarity.linear_gram(x) for x in layers]
        found = [similarity.cka(*pair) for pair in itertools.combinations(grams, 2)]
        out.append(max((v for v in found if not math.isnan(v)), default=math.nan))
    return out


def _over(values: Sequence[float] | Float[np.ndarray, " n"]) -> dict[str, Any]:
    found = t_interval(list(values))
    return {"mean": found.mean, "low": found.low, "high": found.high, "values": [float(v) for v in values]}


def _correlations(x: Float[np.ndarray, "m d"], y: Float[np.ndarray, "m e"]) -> Float[np.ndarray, "d e"]:
    a, b = (_standard(np.asarray(m, np.float64)) for m in (x, y))
    return a.T @ b


def _standard(x: Float[np.ndarray, "m d"]) -> Float[np.ndarray, "m d"]:
    mean = x.mean(axis=0)
    near = x - mean
    norms = np.linalg.norm(near, axis=0)
    varies = norms > 1e-6 * np.sqrt(len(x)) * np.abs(mean)
    return np.divide(near, norms, out=np.full_like(near, np.nan), where=varies & (norms > 0))


def _share(r: Float[np.ndarray, " n"]) -> float:
    defined = r[np.isfinite(r)]
    return float(np.mean(defined >= KEPT)) if len(defined) else math.nan


def _mean(values: Float[np.ndarray, " n"]) -> float:
    defined = values[np.isfinite(values)]
    return float(defined.mean()) if len(defined) else math.nan
