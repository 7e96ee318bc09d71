"""What a recipe does to your images: a picture of them and of random views.

    python -m radnet_jax.show --data=DATASET --recipe=ct --out=views.png
    python -m radnet_jax.show --data=DATASET --recipe=byol --set=crop=0.3,1 --set=blur=0 --out=views.png

A row for each image: the view for evaluation, random views, and the local views of recipes that have them. Masks are
drawn as outlines, in another colour for each class; white is unknown. With a recipe whose groups share their draws all
rows are of one group.
"""

from __future__ import annotations

import ast
from collections.abc import Sequence
import dataclasses
from pathlib import Path
import sys
from typing import Any

import cv2
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, UInt8
import numpy as np

from data_prep.flags import Flags
from radnet_jax import rng
from radnet_jax.augment import AUGMENTATIONS, recipes
from radnet_jax.augment.views import augment_image, center, make_local_views, make_views
from radnet_jax.data.dataset import Split, open_split
from radnet_jax.errors import UserError
from radnet_jax.preprocessing import UNKNOWN_MASK, Adapter, ModelInput, make_adapter

_WINDOW = (0.0, 2000.0)  # of CT, as in configs/common.py
_GAP = 4  # pixels between pictures
_COLOURS = ((255, 80, 80), (80, 220, 80), (90, 140, 255), (255, 210, 60), (220, 90, 230), (70, 220, 220))


def picture(
    split: Split, recipe: recipes.Recipe, *, images: int, views: int, size: int, window: tuple[float, float], seed: int
) -> UInt8[np.ndarray, "h w 3"]:
    """Returns the picture: a row for each of `images` examples that are spread over the split.

    Args:
      split: of a built dataset.
      recipe: what is done.
      images: rows.
      views: random views in each row.
      size: side of a view in pixels, at most that of the stored images; 0 takes those, or 224.
      window: centre and width in HU, for CT.
      seed: other draws for another seed.

    Raises:
      UserError: a recipe that asks for what the data can't have, or a size over that of the stored images.
    """
    adapter = _adapter(split, size, window)
    recipes.check(recipe, adapter)
    recipe = dataclasses.replace(recipe, groups=min(recipe.groups, 1))  # the images stand for one group
    rows = np.linspace(0, len(split) - 1, min(images, len(split))).astype(int)
    examples = [split[int(i)] for i in rows]
    image = jnp.asarray(np.stack([e["image"] for e in examples]))
    mask = jnp.asarray(np.stack([e["segmentation"] for e in examples])) if split.card.segmentation else None
    if mask is None:
        made = make_views(image, adapter, recipe, rng.stream(seed, "augment", 0), views)
        columns = [_tiles(center(image, adapter), adapter, None)]
        columns += [_tiles(made[:, v], adapter, None) for v in range(views)]
    else:  # a mask belongs to one view, as in fine-tuning: each column is another step
        columns = []
        for v, done in enumerate([recipes.Recipe(), *[recipe] * views]):
            view, moved = augment_image(image, adapter, done, rng.stream(seed, "augment", v), mask)
            columns.append(_tiles(view, adapter, moved))
    if recipe.local_views:
        local = make_local_views(image, adapter, recipe, rng.stream(seed, "augment", 0), views)
        columns += [_tiles(local[:, v], adapter, None) for v in range(recipe.local_views)]
    return _grid(columns)


def _adapter(split: Split, size: int, window: tuple[float, float]) -> Adapter:
    stored = split.card.stored
    side = size or min(*stored.size, 224)
    hu = stored.unit == "HU"
    channels = 3 if not hu else 1
    see = ModelInput(
        stored.modality,
        channels,
        (side, side),
        (window,) if hu else (),
        None if hu else stored.value_range,
        (0.5,) * channels,
        (0.5,) * channels,
    )
    return make_adapter(stored, see)


def _tiles(
    view: Float[Array, "n h w c"], adapter: Adapter, mask: Int[Array, "n h w"] | None
) -> UInt8[np.ndarray, "n h w 3"]:
    """Undoes the standardisation, so that 0 is black and 1 is white, and draws the outlines of masks."""
    x = np.asarray(view, np.float64) * np.asarray(adapter.model_input.std) + np.asarray(adapter.model_input.mean)
    tiles = np.ascontiguousarray(np.broadcast_to(x.clip(0, 1) * 255, (*x.shape[:3], 3)).round().astype(np.uint8))
    for tile, classes in zip(tiles, np.asarray(mask) if mask is not None else ()):
        for value in sorted(set(np.unique(classes).tolist()) - {0}):
            colour = (255, 255, 255) if value == UNKNOWN_MASK else _COLOURS[(value - 1) % len(_COLOURS)]
            outlines, _ = cv2.findContours((classes == value).astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
            cv2.drawContours(tile, outlines, -1, colour, 1)
    return tiles


def _grid(columns: list[UInt8[np.ndarray, "n h w 3"]]) -> UInt8[np.ndarray, "h w 3"]:
    height = max(c.shape[1] for c in columns)
    width = sum(c.shape[2] + _GAP for c in columns) + _GAP
    grid = np.full((len(columns[0]) * (height + _GAP) + _GAP, width, 3), 128, np.uint8)
    left = _GAP
    for column in columns:
        _, h, w, _ = column.shape
        for i, tile in enumerate(column):
            top = _GAP + i * (height + _GAP)
            grid[top : top + h, left : left + w] = tile
        left += w + _GAP
    return grid


def _fields(settings: Sequence[str]) -> dict[str, Any]:
    """Reads `name=value` settings of a recipe; values are numbers, words, or numbers with commas."""
    out: dict[str, Any] = {}
    for setting in settings:
        name, equals, value = setting.partition("=")
        if not equals or not name or not value:
            raise UserError("--set", got=repr(setting), expected="field=value, such as blur=0.5 or crop=0.3,1")
        try:
            out[name] = ast.literal_eval(value)
        except (SyntaxError, ValueError):
            out[name] = value
    return out


def _flags() -> Flags:
    flags = Flags("python -m radnet_jax.show", description=(__doc__ or "").partition("\n")[0], allow_abbrev=False)
    flags.add_argument("--data", required=True, metavar="DATASET", help="folder of a built dataset")
    flags.add_argument("--recipe", required=True, metavar="NAME", help=f"one of {', '.join(AUGMENTATIONS.names())}")
    flags.add_argument("--out", required=True, metavar="PNG", help="where the picture is written")
    flags.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE", help="changes the recipe")
    flags.add_argument("--split", default="train", help="of the dataset (default train)")
    flags.add_argument("--images", type=int, default=6, help="rows (default 6)")
    flags.add_argument("--views", type=int, default=6, help="random views in each row (default 6)")
    flags.add_argument("--size", type=int, default=0, help="side of a view (default: of the records, at most 224)")
    flags.add_argument("--window", default="", metavar="CENTRE,WIDTH", help="in HU, for CT (default 0,2000)")
    flags.add_argument("--seed", type=int, default=0, help="another seed, other draws (default 0)")
    return flags


def _window(text: str) -> tuple[float, float]:
    try:
        centre, width = (float(v) for v in text.split(",")) if text else _WINDOW
    except ValueError as error:
        raise UserError("--window", got=repr(text), expected="centre and width, such as 40,400") from error
    if not width > 0:
        raise UserError("--window", got=repr(text), expected="a width over 0")
    return centre, width


def run(arguments: Sequence[str] | None = None) -> Path:
    """Runs the command line; returns where the picture is."""
    args = _flags().parse_args(arguments)
    for name, low in (("images", 1), ("views", 1), ("size", 0), ("seed", 0)):
        if getattr(args, name) < low:
            raise UserError(f"--{name}", got=getattr(args, name), expected=f"at least {low}")
    out = Path(args.out)
    if out.suffix.lower() != ".png":
        raise UserError("--out", got=str(out), expected="a name that ends in .png")
    if not out.resolve().parent.is_dir():
        raise UserError("--out", got=str(out), expected="a file in a folder that exists")
    recipe = AUGMENTATIONS.build(args.recipe, _fields(args.set))
    split = open_split(args.data, args.split)
    window = _window(args.window)
    drawn = picture(split, recipe, images=args.images, views=args.views, size=args.size, window=window, seed=args.seed)
    if not cv2.imwrite(str(out), drawn[..., ::-1]):
        raise UserError(f"{out} can't be written", fix="free space or permissions there")
    return out


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit code: 0, or 2 after one line on stderr for what the user can mend."""
    try:
        out = run(arguments)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"{out}: each row is an image, as in evaluation and in random views")
    return 0


if __name__ == "__main__":
    sys.exit(main())
