"""What every page that is written has in common: how its templates are read, and the house style."""

from __future__ import annotations

from importlib import resources

import jinja2


def environment(package: str) -> jinja2.Environment:
    """Returns the templates of a package: escaped, without stray lines, refusing a name that is not given."""
    return jinja2.Environment(
        loader=jinja2.PackageLoader(package, "templates"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )


def house_style() -> str:
    """Returns the style sheet of the report, which the other pages share."""
    return resources.files("radnet_jax.evaluation").joinpath("templates", "report.css").read_text("utf-8")
