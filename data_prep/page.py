"""Parts that the pages of a build and of an audit share: one HTML file each that works offline, in the house style."""

from __future__ import annotations

from importlib import resources
import os
from pathlib import Path
from typing import Any

from markupsafe import Markup

from radnet_jax import __version__, pages


def write_page(path: Path, template: str, **context: Any) -> None:
    """Renders a template of this package to `path`, which appears whole or not at all."""
    environment = pages.environment("data_prep")
    own = resources.files("data_prep").joinpath("templates", "pages.css").read_text("utf-8")
    css = Markup(pages.house_style() + own)
    unfinished = path.with_name(path.name + ".unfinished")
    unfinished.write_text(environment.get_template(template).render(css=css, version=__version__, **context), "utf-8")
    os.replace(unfinished, path)


def number(n: float | int | None) -> str:
    """1234567 as 1,234,567; a length without zeros at its end."""
    if n is None:
        return "–"
    return f"{n:,}" if isinstance(n, int) else f"{n:,.3f}".rstrip("0").rstrip(".")


def percent(part: float, whole: float) -> str:
    """A share such as 12.3 %, 12 % or < 0.1 %."""
    if not whole:
        return "–"
    share = 100 * part / whole
    return "< 0.1 %" if 0 < share < 0.1 else f"{share:.1f} %".replace(".0 %", " %")
