"""The page over the analyses of a study: one table and one figure a task, and what was found, start by start."""

from __future__ import annotations

from collections.abc import Mapping
import math
from pathlib import Path
from typing import Any

from markupsafe import Markup

from radnet_jax import pages
from radnet_jax.analysis import figures, findings, page, study_findings
from radnet_jax.analysis.over_seeds import KEPT
from radnet_jax.evaluation.report.style import Gallery


def write(folder: Path, title: str, told: Mapping[str, Any]) -> Path:
    """Writes index.html and figures/*.svg; returns the path of the page.

    Args:
      folder: made if need be; the analyses' folders stand beside it.
      title: of the study.
      told: `study_findings.summarised`, with "who_knows".
    """
    environment = page.environment()
    gallery = Gallery()
    drawn = []
    for number, task in enumerate(told["tasks"]):
        series = {
            row["start"]: [
                {
                    k: tuple(v["cka"][end] for end in ("mean", "low", "high"))
                    for k, v in row["over_seeds"]["layers"].items()
                }
            ]
            for row in task["rows"]
        }
        layers = {tuple(one[0]) for one in series.values()}
        series[findings.RANDOM] = [
            {k: (v["random"], math.nan, math.nan) for k, v in row["over_seeds"]["layers"].items()}
            for row in task["rows"]
        ]
        drawing = figures.layers_figure(series, "debiased linear CKA before and after") if len(layers) == 1 else None
        drawn.append(gallery.show(f"task_{number}", drawing))
    rows = [row for task in told["tasks"] for row in task["rows"]]
    html = environment.get_template("study.html.j2").render(
        title=title,
        tasks=list(zip(told["tasks"], drawn, strict=True)),
        who_knows=told["who_knows"],
        domains=study_findings.DOMAINS,
        kept=KEPT,
        statistics=sorted({row["statistics"] for row in rows if row["domain"] != "none"}),
        generated=any(row["generated"] for row in rows),
        seeds=sorted({row["n"] for row in rows}),
        css=Markup(pages.house_style()),
    )
    return pages.write(folder, html, gallery.files)
