"""Pictures of predicted masks: the image as the model sees it, with the outlines of truth and prediction."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import cv2
from jaxtyping import Float, Num, UInt8
import numpy as np

from radnet_jax.data.dataset import Split
from radnet_jax.errors import UserError
from radnet_jax.evaluation.ledger import Predictions, Run
from radnet_jax.evaluation.segmentation import cases_of
from radnet_jax.preprocessing import UNKNOWN_MASK, ModelInput, StoredPixels, make_adapter, to_unit

TRUTH = (0, 158, 115)  # RGB; told apart by the colour-blind too (Okabe and Ito)
PREDICTION = (230, 159, 0)
_SIDE = 384  # pixels, at least, of a picture


def overlays(run: Run, split: Split, *, count: int = 4) -> list[tuple[str, bytes]]:
    """Returns (caption, PNG) of cases of a run's split, from the worst to the best by their mean Dice.

    The cases are spread evenly over that order, so that the bad ones are seen too. Of a volume the slice is shown whose
    truth, or, where that is empty, whose prediction is largest. Captions name no case and no patient.

    Args:
      run: a finished run of a segmentation.
      split: that it was judged on, with the records.
      count: of cases, at most.

    Raises:
      UserError: a run without masks, or a split that it was not judged on.
    """
    p = run.predictions.of(split.name)
    if p.masks is None:
        raise UserError(f"run {run.name!r} has no masks", expected="a run of a segmentation")
    cases = cases_of(split)
    if not len(p) or not set(p.case_id) <= set(cases):
        raise UserError(f"run {run.name!r} was not judged on split {split.name!r} of this dataset")
    ranked = _ranked(p)
    shown = [ranked[i] for i in np.unique(np.linspace(0, len(ranked) - 1, min(count, len(ranked))).round().astype(int))]
    out = []
    for place in shown:
        rows = cases[p.case_id[place]]
        number, mask = p.masks.largest(place)
        record = split[int(rows[number])]
        image = _seen(record["image"], run.record["adapter"])
        found = zip(p.masks.cases.regions, p.scores[place].tolist())
        dice = ", ".join(f"{name} {value:.3f}" if value == value else f"{name} empty" for name, value in found)
        where = f"slice {number + 1} of {len(rows)}, " if len(rows) > 1 else ""
        order = ranked.index(place) + 1
        caption = f"{split.name}, case {order} of {len(ranked)} by Dice ({where}Dice of the case: {dice})"
        out.append((caption, draw(image, record["segmentation"], mask)))
    return out


def draw(
    image: Float[np.ndarray, "h w c"], truth: UInt8[np.ndarray, "h w"], prediction: UInt8[np.ndarray, "h w"]
) -> bytes:
    """Returns a PNG of an image in [0, 1], truth outlined in green and prediction in orange.

    The image has three channels, or any number of which the first is shown. Each class has its own outline; where the
    two agree, the prediction's lies on the truth's. Unknown pixels are grayed.
    """
    scale = -(-_SIDE // max(min(image.shape[:2]), 1))
    shown = (image if image.shape[2] == 3 else np.repeat(image[..., :1], 3, axis=2)).clip(0, 1)
    canvas = np.ascontiguousarray((_larger(shown, scale) * 255).round().astype(np.uint8))
    unknown = _larger(truth == UNKNOWN_MASK, scale)
    canvas[unknown] = canvas[unknown] // 2 + 64
    for mask, colour in ((np.where(truth == UNKNOWN_MASK, 0, truth), TRUTH), (prediction, PREDICTION)):
        for value in np.unique(mask[mask > 0]):
            inside = _larger(mask == value, scale).astype(np.uint8)
            outlines, _ = cv2.findContours(inside, cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
            cv2.drawContours(canvas, outlines, -1, colour, 1)
    done, png = cv2.imencode(".png", canvas[..., ::-1])
    assert done, "an array of bytes can be encoded"
    return png.tobytes()


def _larger(x: Num[np.ndarray, "h w *c"], scale: int) -> Num[np.ndarray, "H W *c"]:
    return x.repeat(scale, axis=0).repeat(scale, axis=1)


def _ranked(p: Predictions) -> list[int]:
    """The cases from the worst to the best; those without a Dice are left out where others have one."""
    with_dice = ~np.isnan(p.scores).all(axis=1)
    rows = np.flatnonzero(with_dice) if with_dice.any() else np.arange(len(p))
    dice = [float(np.nanmean(p.scores[i])) if with_dice[i] else 0.0 for i in rows]
    return [int(rows[i]) for i in np.argsort(dice, kind="stable")]


def _seen(image: Num[np.ndarray, "h w c"], adapter: Mapping[str, Any]) -> Float[np.ndarray, "h w u"]:
    made = make_adapter(
        StoredPixels.from_json(adapter["stored"]),
        ModelInput.from_json(adapter["model_input"]),
        {"windows": adapter["windows"], "channels": adapter["channels"]},
    )
    return np.asarray(to_unit(image, made))
