"""Parts that the pages of a build and of an audit share: one HTML file each that works offline, in the house style."""

from __future__ import annotations

import base64
from importlib import resources
import os
from pathlib import Path
from typing import Any

import cv2
from jaxtyping import Num, UInt8
import jinja2
from markupsafe import Markup
import numpy as np

from data_prep.phash import tone
from data_prep.spec import UNKNOWN_MASK
from radnet_jax import __version__
from radnet_jax.preprocessing import StoredPixels

SIDE = 128  # greatest height and width of a picture on a page
# Outlines of the structures of a mask, in turn: Okabe and Ito's palette, tellable apart with any colour vision.
OUTLINES = ((230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66), (213, 94, 0), (204, 121, 167))


def write_page(path: Path, template: str, **context: Any) -> None:
    """Renders a template of this package to `path`, which appears whole or not at all."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("data_prep", "templates"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    house = resources.files("radnet_jax.evaluation").joinpath("templates", "report.css").read_text("utf-8")
    own = resources.files("data_prep").joinpath("templates", "pages.css").read_text("utf-8")
    css = Markup(house + own)
    unfinished = path.with_name(path.name + ".unfinished")
    unfinished.write_text(environment.get_template(template).render(css=css, version=__version__, **context), "utf-8")
    os.replace(unfinished, path)


def picture(image: Num[np.ndarray, "h w c"], stored: StoredPixels, mask: UInt8[np.ndarray, "h w"] | None = None) -> str:
    """A stored image as the source of an <img>: HU by the curve of `phash`, else by the range; masks are outlined."""
    if stored.channels == 3:
        low, high = stored.value_range
        shown = np.clip((image.astype(np.float32) - low) / (high - low), 0.0, 1.0)[..., ::-1]
    else:
        shown = np.repeat(tone(image, stored)[..., None], 3, axis=2)
    pixels = np.ascontiguousarray(np.rint(shown * 255), np.uint8)
    if mask is not None:
        for value in np.unique(mask):
            if 0 < value < UNKNOWN_MASK:
                outlines, _ = cv2.findContours(
                    (mask == value).astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE
                )
                colour = OUTLINES[(int(value) - 1) % len(OUTLINES)]
                cv2.drawContours(pixels, outlines, -1, colour[::-1], 1)
    if max(pixels.shape[:2]) > SIDE:
        scale = SIDE / max(pixels.shape[:2])
        pixels = np.asarray(cv2.resize(pixels, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA), np.uint8)
    if stored.channels == 1 and mask is None:
        pixels = pixels[..., 0]
    ok, data = cv2.imencode(".png", pixels, [cv2.IMWRITE_PNG_COMPRESSION, 9])
    if not ok:
        raise RuntimeError("PNG encoding failed")
    return "data:image/png;base64," + base64.b64encode(data.tobytes()).decode()


def number(n: float | int | None) -> str:
    """1234567 as 1,234,567; a length without zeros at its end."""
    if n is None:
        return "–"
    return f"{n:,}" if isinstance(n, int) else f"{n:,.3f}".rstrip("0").rstrip(".")


def percent(part: float, whole: float) -> str:
    """A share such as 12.3 % or < 0.1 %."""
    if not whole:
        return "–"
    share = 100 * part / whole
    return "< 0.1 %" if 0 < share < 0.1 else f"{share:.3g} %"
