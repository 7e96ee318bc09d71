"""Maps of a sample: each image as a point of the plane, from its features."""

from __future__ import annotations

from collections.abc import Mapping
import importlib.util
from typing import Any

from jaxtyping import Bool, Float, Int
import numpy as np

from radnet_jax.analysis.similarity import centred
from radnet_jax.data.dataset import Split
from radnet_jax.errors import UserError, nearest

MAPS = ("pca", "tsne")
PERPLEXITY = 30.0  # van der Maaten and Hinton (2008, section 2): between 5 and 50
_DIRECTIONS = 50  # of largest variance that t-SNE works on, as there (section 4.2)


def check(name: str) -> None:
    """Refuses an unknown map, and one whose package is not installed."""
    if name not in MAPS:
        raise UserError(f"unknown config.maps {name!r}{nearest(name, MAPS)}", expected=" or ".join(MAPS))
    if name == "tsne" and importlib.util.find_spec("openTSNE") is None:
        raise UserError(
            'config.maps "tsne" needs the package openTSNE',
            fix="pip install 'radnet_jax[maps]', or leave it at \"pca\"",
        )


def of_sample(
    split: Split,
    rows: Int[np.ndarray, " m"],
    members: Mapping[str, Bool[np.ndarray, " m"]],
    known: Mapping[str, Float[np.ndarray, " m"]],
    last: Mapping[str, Float[np.ndarray, "m d"]],
    maps: str,
    *,
    seed: int,
) -> dict[str, Any]:
    """Returns places of the sample for each network, and what each image is, for the record.

    Args:
      split: the images.
      rows: of the sample.
      members: of a mixture: which of the sample are of each; then these are the groups, else single labels.
      known: properties of the sample by name.
      last: features of the sample for each network.
      maps: one of MAPS; PCA is there always.
      seed: of t-SNE.
    """
    labels, mask = (values[rows] for values in split.all_labels())
    groups = np.full(len(rows), "", dtype=object)
    if members:
        for name, chosen in members.items():
            groups[chosen] = name
    elif split.card.task == "single_label":
        single = mask.min(axis=1) > 0
        groups[single] = np.array(split.card.labels, dtype=object)[labels[single].argmax(axis=1)]
    networks: dict[str, dict[str, Any]] = {}
    for name, x in last.items():
        points, share = pca(x)
        networks[name] = {"points": points.tolist(), "share": share}
        if maps == "tsne":
            networks[name]["tsne"] = tsne(x, seed=seed).tolist()
    return {
        "groups": groups.tolist(),
        "grouped_by": "domain" if members else "label",
        "properties": {name: values.tolist() for name, values in known.items()},
        "networks": networks,
    }


def pca(x: Float[np.ndarray, "m d"]) -> tuple[Float[np.ndarray, "m 2"], tuple[float, float]]:
    """Returns the images on the two directions of largest variance, and the shares of the variance these hold.

    0 for a direction that is not there.
    """
    scores, s = _directions(x)
    total = max(float(np.sum(s**2)), np.finfo(np.float64).tiny)
    return _two(scores), (float(s[0] ** 2 / total), float(s[1] ** 2 / total) if len(s) > 1 else 0.0)


def tsne(x: Float[np.ndarray, "m d"], *, seed: int) -> Float[np.ndarray, "m 2"]:
    """Returns a t-SNE of the images (van der Maaten and Hinton 2008), by openTSNE.

    Begins with the first two directions, so that what it shows at large does not depend on chance (Kobak and Berens
    2019); on the 50 directions of largest variance; exact neighbours. The perplexity is 30, or a third of the other
    images where there are fewer.
    """
    from openTSNE import TSNE  # an extra: loaded only where it is asked for

    scores, _ = _directions(x)
    if not np.ptp(scores) > 0:  # nothing to tell images apart by
        return np.zeros((len(x), 2))
    fit = TSNE(
        perplexity=min(PERPLEXITY, (len(x) - 1) / 3),
        initialization=_two(scores) / max(float(scores[:, 0].std()), 1e-12) * 1e-4,
        neighbors="exact",
        n_jobs=1,  # the sums of several threads differ from run to run
        random_state=seed,
    ).fit(scores[:, :_DIRECTIONS])
    return np.asarray(fit, np.float64)


def _directions(x: Float[np.ndarray, "m d"]) -> tuple[Float[np.ndarray, "m r"], Float[np.ndarray, " r"]]:
    u, s, _ = np.linalg.svd(centred(x), full_matrices=False)
    return u * s, s


def _two(scores: Float[np.ndarray, "m r"]) -> Float[np.ndarray, "m 2"]:
    return np.pad(scores[:, :2], ((0, 0), (0, max(2 - scores.shape[1], 0))))
