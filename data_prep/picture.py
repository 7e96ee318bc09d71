"""A stored image as a person sees it: small, grey or colour, its masks outlined."""

from __future__ import annotations

import base64

import cv2
from jaxtyping import Num, UInt8
import numpy as np

from data_prep.phash import tone
from radnet_jax.preprocessing import UNKNOWN_MASK, StoredPixels

SIDE = 128  # greatest height and width
# Outlines of the structures of a mask, in turn: Okabe and Ito's palette, tellable apart with any colour vision.
OUTLINES = ((230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66), (213, 94, 0), (204, 121, 167))
_JPEG_QUALITY = 88


def picture(image: Num[np.ndarray, "h w c"], stored: StoredPixels, mask: UInt8[np.ndarray, "h w"] | None = None) -> str:
    """Returns an image as the source of an <img>: HU by the curve of `phash`, else by the range; masks are outlined."""
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
    colourless = stored.channels == 1 and mask is None
    kind, suffix, options = (
        ("png", ".png", [cv2.IMWRITE_PNG_COMPRESSION, 9])
        if stored.channels == 1
        else ("jpeg", ".jpg", [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])
    )
    ok, data = cv2.imencode(suffix, pixels[..., 0] if colourless else pixels, options)
    if not ok:
        raise RuntimeError("the picture can't be encoded")
    return f"data:image/{kind};base64,{base64.b64encode(data.tobytes()).decode()}"
