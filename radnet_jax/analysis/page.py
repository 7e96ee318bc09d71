"""The page of an analysis: one HTML file that works offline, its figures as SVG files beside it."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from importlib import resources
import math
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup
import numpy as np

from radnet_jax import pages
from radnet_jax.analysis import figures, findings, scatter, seen
from radnet_jax.analysis.networks import STATISTICS
from radnet_jax.analysis.over_seeds import KEPT
from radnet_jax.evaluation.report.style import Gallery

MEASURES = {
    "cka": "CKA",
    "maps_cka_all": "CKA of maps, all images",
    "rbf_cka": "RBF-CKA",
    "rbf_cka_all": "RBF-CKA, all images",
    "svcca": "SVCCA",
    "pwcca": "PWCCA",
    "procrustes": "Procrustes",
    "rsa": "RSA",
    "neighbours": "neighbours",
}


def environment() -> jinja2.Environment:
    """Returns the templates of analyses, with the filters that numbers go through."""
    made = pages.environment("radnet_jax.analysis")
    made.filters["number"] = _number
    made.filters["short"] = lambda value: _number(value, 2)
    return made


def write(
    folder: Path, result: Mapping[str, Any], filters: Mapping[str, np.ndarray | None], pictures: seen.Looked | None
) -> Path:
    """Writes index.html and figures/*.svg; returns the path of the page.

    Args:
      folder: made if need be.
      result: what the run found.
      filters: of the first layer of "a" and "b", [h w 3 o]; None where they can't be drawn.
      pictures: of what units see; None leaves every patient's pixels out.
    """
    gallery = Gallery()
    own = resources.files("radnet_jax.analysis").joinpath("templates")
    roles = _roles(result)
    css = pages.house_style() + own.joinpath("analysis.css").read_text("utf-8")
    page = (
        environment()
        .get_template("analysis.html.j2")
        .render(
            result=result,
            css=Markup(css),
            findings=result["found"],
            measures=MEASURES,
            kept=KEPT,
            tables=list({pair["what"]: pair for pair in reversed(result["pairs"])}.values())[::-1],
            roles=roles,
            sides=findings.sides(result["continued"]),
            statistics=STATISTICS,
            pictures=None if pictures is None else {"strips": _base64(pictures.strips), "maps": _base64(pictures.maps)},
            scatter=scatter.script_data(result),
            scatter_script=Markup(own.joinpath("scatter.js").read_text("utf-8")),
            **_figures(result, filters, roles, gallery),
        )
    )
    return pages.write(folder, page, gallery.files)


def _roles(result: Mapping[str, Any]) -> dict[str, str]:
    """What the page calls the networks that it looks at one by one."""
    both = {"a": "before (a)", "b": "after (b)"} if result["continued"] else {"a": "a", "b": "b"}
    return {**both, "random": "a random network"}


def _figures(
    result: Mapping[str, Any],
    filters: Mapping[str, np.ndarray | None],
    roles: Mapping[str, str],
    gallery: Gallery,
) -> dict[str, Any]:
    a, b = result["a"], result["b"]
    drawn: dict[str, Any] = {
        "map": figures.map_figure(
            result["map"]["debiased"], list(a["layers"]), list(b["layers"]), (a["name"], b["name"])
        ),
        "same": None,
        "changes": None,
    }
    if result["pairs"]:
        series: dict[str, list[Any]] = {}
        moved: dict[str, list[Any]] = {}
        for pair, change in zip(result["pairs"], result["weights"], strict=True):
            found = {k: (v["cka"], v["low"], v["high"]) for k, v in pair["layers"].items()}
            series.setdefault(pair["what"], []).append(found)
            if pair["what"] == result["pairs"][0]["what"]:
                blocks = {k: (v["relative"], math.nan, math.nan) for k, v in change["blocks"].items()}
                moved.setdefault(pair["what"], []).append(blocks)
        drawn["same"] = figures.layers_figure(series, "debiased linear CKA")
        told = "change" if result["continued"] else "difference"
        drawn["changes"] = figures.layers_figure(moved, f"{told} of the weights by their size")
    last = {roles[k]: list(layers.values())[-1]["read"] for k, layers in result["read"]["networks"].items()}
    drawn["read"] = figures.layers_figure(
        {k: [{p: (v["r2"], v["low"], v["high"]) for p, v in found.items()}] for k, found in last.items()},
        "R² of the last block, cross-validated",
    )
    drawn["spectrum"] = figures.spectrum_figure({roles[k]: v for k, v in result["spectra"].items()})
    for name in ("a", "b"):
        found = result["maps"]["networks"][name]
        drawn[f"pca_{name}"] = figures.pca_figure(
            np.array(found["points"]), result["maps"]["groups"], tuple(found["share"])
        )
        drawn[f"filters_{name}"] = None if (kernels := filters[name]) is None else figures.filters_figure(kernels)
    return {f"{name}_figure": gallery.show(name, drawing) for name, drawing in drawn.items()}


def _base64(pictures: Any) -> Any:
    """The same lists and dicts, with the PNGs as the page has them."""
    if isinstance(pictures, bytes):
        return base64.b64encode(pictures).decode()
    if isinstance(pictures, list):
        return [_base64(p) for p in pictures]
    return {k: _base64(p) for k, p in pictures.items()}


def _number(value: float, digits: int = 3) -> str:
    return "–" if math.isnan(value) else f"{value:.{digits}f}".replace("-", "−")
