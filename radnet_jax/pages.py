"""What every page that is written has in common: how its templates are read, the house style, and its files."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import resources
import os
from pathlib import Path

import jinja2

PAGE_FILE = "index.html"
_SHARED = "radnet_jax.evaluation"  # whose templates the other pages draw on


def environment(package: str) -> jinja2.Environment:
    """Returns a package's templates and the shared ones: escaped, without stray lines, refusing an unknown name."""
    return jinja2.Environment(
        loader=jinja2.ChoiceLoader([jinja2.PackageLoader(name, "templates") for name in (package, _SHARED)]),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )


def house_style() -> str:
    """Returns the style sheet of the report, which the other pages share."""
    return resources.files(_SHARED).joinpath("templates", "report.css").read_text("utf-8")


def write(folder: Path, page: str, figures: Mapping[str, str]) -> Path:
    """Writes index.html and its figures, those of an older page removed; returns the path of the page.

    Args:
      folder: made if need be.
      page: the HTML.
      figures: SVG by its path from the folder, figures/*.svg.
    """
    (folder / "figures").mkdir(parents=True, exist_ok=True)
    for old in (folder / "figures").glob("*.svg"):
        old.unlink()
    for path, svg in figures.items():
        (folder / path).write_text(svg, encoding="utf-8")
    temporary = folder / f".{PAGE_FILE}.tmp"
    temporary.write_text(page, encoding="utf-8")
    os.replace(temporary, folder / PAGE_FILE)
    return folder / PAGE_FILE
