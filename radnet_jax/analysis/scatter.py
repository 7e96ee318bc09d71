"""The maps of images that can be asked: what the page's script needs to draw and to tell of each point."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import json
import math
from typing import Any

from markupsafe import Markup
import numpy as np

SHOWN = 1500  # images on the page; more of them hide each other
_TITLES = {"points": "PCA", "tsne": "t-SNE"}


def script_data(result: Mapping[str, Any]) -> Markup:
    """Returns the JSON that stands in the page: places in the unit square, and of each image its label and properties.

    No case, no patient and no pixel is in it.
    """
    maps = result["maps"]
    rows = np.unique(np.linspace(0, len(maps["groups"]) - 1, SHOWN).round().astype(int))
    networks = maps["networks"]
    methods = [
        {"title": title, "places": {n: _unit_square(np.array(found[key])[rows]) for n, found in networks.items()}}
        for key, title in _TITLES.items()
        if all(key in found for found in networks.values())
    ]
    colours: list[dict[str, Any]] = []
    told = dict(maps["properties"])
    if any(maps["groups"]):
        by = maps["grouped_by"]
        colours.append({"title": by, "groups": [maps["groups"][i] for i in rows]})
        told = {name: values for name, values in told.items() if not name.startswith(f"{by} ")}  # the same, one by one
    colours += [_coloured(name, [values[i] for i in rows]) for name, values in told.items()]
    text = json.dumps({"methods": methods, "colours": colours}, allow_nan=False, separators=(",", ":"))
    return Markup(text.replace("<", "\\u003c"))  # so that no name can end the element


def _coloured(name: str, values: Sequence[float]) -> dict[str, Any]:
    """A property by its numbers; a label, 0 or 1, by words."""
    known = {v for v in values if not math.isnan(v)}
    if known <= {0.0, 1.0}:
        return {"title": name, "groups": ["" if math.isnan(v) else "yes" if v else "no" for v in values]}
    low, high = (float(f"{np.nanquantile(values, q):.4g}") for q in (0.02, 0.98))
    told = [None if math.isnan(v) else float(f"{v:.4g}") for v in values]
    return {"title": name, "numbers": told, "range": [low, high]}


def _unit_square(points: np.ndarray) -> list[list[float]]:
    """Both axes by the same scale, so that distances stay what they are; the second one upwards."""
    middle = (points.max(axis=0) + points.min(axis=0)) / 2
    half = max(float(np.ptp(points, axis=0).max()) / 2, 1e-12)
    placed = 0.5 + 0.5 * (points - middle) / half * [1, -1]
    return [[round(float(x), 4), round(float(y), 4)] for x, y in placed]
