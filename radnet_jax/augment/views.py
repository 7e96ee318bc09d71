"""From stored pixels to what a model sees: several random views, one random view with its mask, views for evaluation.

All draws of a batch are made first, then applied. With a mesh each device works on its own rows and nothing passes
between devices.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int, Key, Num

from radnet_jax import sharding
from radnet_jax.augment import colour, draws, filters, forms, geometry, rand_augment
from radnet_jax.augment.recipe import Chance, Recipe
from radnet_jax.errors import UserError
from radnet_jax.preprocessing import UNKNOWN_MASK, Adapter, standardise, to_unit

CENTRE = 4  # number of the central one of `ten_crops`

Draws = Mapping[str, Array]


def make_views(
    image: Num[Array, "b h w c"],
    adapter: Adapter,
    recipe: Recipe,
    key: Key[Array, ""],
    n_views: int,
    *,
    mesh: Mesh | None = None,
    form: str | None = None,
) -> Float[Array, "b v i j k"]:
    """Returns `n_views` independent random views of each image, standardised for the model.

    Args:
      image: stored pixels.
      adapter: the preprocessing contract; static.
      recipe: what is done; static.
      key: the key of this step, the same on all devices; draws are keyed by the row of the global batch and the view.
      n_views: views of each image; static.
      mesh: over which the rows lie; static.
      form: "each" row by itself or the whole "batch", see `forms`; static.
    """
    size = adapter.model_input.size
    return _views(image, None, key, adapter, recipe, range(n_views), size, recipe.crop, mesh, form)[0]


def make_local_views(
    image: Num[Array, "b h w c"],
    adapter: Adapter,
    recipe: Recipe,
    key: Key[Array, ""],
    n_views: int,
    *,
    mesh: Mesh | None = None,
    form: str | None = None,
) -> Float[Array, "b l i j k"]:
    """Returns the recipe's local views of each image: smaller crops, shown at a smaller size.

    Args as of `make_views`; `n_views` is the number of global views, whose draws these do not repeat.

    Raises:
      UserError: for a recipe without local views.
    """
    if not recipe.local_views:
        raise UserError(
            "the augmentation makes no local views, and the objective needs them",
            fix='choose "swav_multicrop" or "dino", or set augment.local_views',
        )
    size = tuple(max(round(recipe.local_size * side), 1) for side in adapter.model_input.size)
    numbers = range(n_views, n_views + recipe.local_views)
    return _views(image, None, key, adapter, recipe, numbers, size, recipe.local_crop, mesh, form)[0]


def augment_image(
    image: Num[Array, "b h w c"],
    adapter: Adapter,
    recipe: Recipe,
    key: Key[Array, ""],
    segmentation: Int[Array, "b h w"] | None = None,
    *,
    mesh: Mesh | None = None,
    form: str | None = None,
) -> tuple[Float[Array, "b i j k"], Int[Array, "b i j"] | None]:
    """Returns one random view of each image, the same as the first of `make_views`, and its mask moved alike.

    Args as of `make_views`.
      segmentation: classes of the pixels; moved without interpolation, 255 (unknown) where the image has no pixel.
    """
    size = adapter.model_input.size
    views, masks = _views(image, segmentation, key, adapter, recipe, range(1), size, recipe.crop, mesh, form)
    return views[:, 0], None if masks is None else masks[:, 0]


@functools.partial(jax.jit, static_argnames="adapter")
def center(image: Num[Array, "b h w c"], adapter: Adapter) -> Float[Array, "b i j k"]:
    """Returns the view for evaluation: the whole image, resized to the model's input with the filter of the crops.

    The whole image and not a central crop of it: findings lie at the border of medical images too. A stored image of
    another aspect ratio is stretched.
    """
    x = geometry.resize(_planes(to_unit(image, adapter)), adapter.model_input.size)
    return standardise(_channels_last(x), adapter)


@functools.partial(jax.jit, static_argnames="adapter")
def ten_crops(image: Num[Array, "b h w c"], adapter: Adapter) -> Float[Array, "b t i j k"]:
    """Returns ten views for evaluation: the image resized to 256 / 224 of the model's input, its corners and centre,
    and their mirror images. Scores of the ten are averaged (Krizhevsky et al. 2012; 256 and 224 px are usual).
    """
    size = adapter.model_input.size
    x = geometry.resize(_planes(to_unit(image, adapter)), (round(size[0] * 256 / 224), round(size[1] * 256 / 224)))
    x = geometry.ten_crop(x, size)
    return standardise(x.transpose(0, 1, 3, 4, 2), adapter)


def _planes(x: Float[Array, "n h w c"]) -> Float[Array, "n c h w"]:
    return x.transpose(0, 3, 1, 2)


def _channels_last(x: Float[Array, "n c h w"]) -> Float[Array, "n h w c"]:
    return x.transpose(0, 2, 3, 1)


@functools.partial(jax.jit, static_argnames=("adapter", "recipe", "numbers", "size", "crop", "mesh", "form"))
def _views(
    image: Array,
    mask: Array | None,
    key: Array,
    adapter: Adapter,
    recipe: Recipe,
    numbers: range,
    size: tuple[int, int],
    crop: tuple[float, float],
    mesh: Mesh | None,
    form: str | None,
) -> tuple[Array, Array | None]:
    """Returns the views [b v i j k] with these numbers, and their masks [b v i j]."""
    keys = draws.row_keys(key, image.shape[0], numbers, recipe.groups)
    stage: Callable[..., tuple[Array, Array | None]] = functools.partial(
        _stage, adapter=adapter, recipe=recipe, numbers=numbers, size=size, crop=crop, form=forms.choose("rows", form)
    )
    if mesh is not None:
        stage = sharding.by_row(stage, mesh)
    return stage(image, mask, keys)


def _stage(
    image: Array,
    mask: Array | None,
    keys: Key[Array, "b v"],
    *,
    adapter: Adapter,
    recipe: Recipe,
    numbers: range,
    size: tuple[int, int],
    crop: tuple[float, float],
    form: str,
) -> tuple[Array, Array | None]:
    b, v = keys.shape
    plan = draw(keys.reshape(b * v), jnp.tile(jnp.asarray(numbers), b), recipe, adapter, size, crop)

    def some(rows: Int[Array, " m"]) -> tuple[Array, Array | None]:
        drawn = jax.tree.map(lambda values: values[rows], plan)
        some_masks = None if mask is None else mask[rows // v]
        return apply(lambda: image[rows // v], some_masks, drawn, recipe, adapter, size, crop)

    x, masks = forms.each_row(some, b * v) if form == "each" else some(jnp.arange(b * v))
    return x.reshape(b, v, *x.shape[1:]), None if masks is None else masks.reshape(b, v, *masks.shape[1:])


def draw(
    keys: Key[Array, " n"],
    numbers: Int[Array, " n"],
    recipe: Recipe,
    adapter: Adapter,
    size: tuple[int, int],
    crop: tuple[float, float],
    scale: int = 0,
) -> Draws:
    """Returns all that is drawn for each row: parameters, and whether an operation is done; what is left out is absent.

    Args:
      keys: of the rows.
      numbers: which view of its image each row is.
      recipe: what is done.
      adapter: the preprocessing contract.
      size: of the views.
      crop: range of the crop's area.
      scale: side of the view whose pixels these are, for the blur; the shorter one by default.
    """
    stored = adapter.stored.size
    out: dict[str, Any] = {}

    def uniform(name: str, low: float = 0.0, high: float = 1.0, shape: tuple[int, ...] = ()) -> Array:
        return draws.between(draws.uniform(keys, name, shape), low, high)

    def chance(name: str, chances: Chance) -> None:
        values = jnp.asarray(chances if isinstance(chances, tuple) else (chances,), jnp.float32)
        if any(chances) if isinstance(chances, tuple) else chances:
            probability = values[jnp.minimum(numbers, len(values) - 1)]
            out[name] = draws.chance(keys, name, probability)

    if recipe.window_shift or recipe.window_scale:
        out["window_shift"] = recipe.window_shift * uniform("window_shift", -1, 1)
        out["window_scale"] = draws.factor(uniform("window_scale"), recipe.window_scale)
    if recipe.moves:
        chance("affine", recipe.affine)
        out["matrices"] = geometry.affine_matrices(
            recipe.rotate * uniform("rotate", -1, 1),
            draws.factor(uniform("zoom"), recipe.zoom),
            recipe.shear * uniform("shear", -1, 1),
            recipe.translate * uniform("translate", -1, 1, (2,)),
            stored,
        )
    chance("hflip", recipe.hflip)
    chance("vflip", recipe.vflip)
    if crop != (1.0, 1.0):
        out["boxes"], _ = draws.boxes(keys, "crop", stored, crop, recipe.crop_ratio)
        if recipe.resized_crop != 1.0:
            chance("resized_crop", recipe.resized_crop)
            cropped = out.pop("resized_crop", jnp.zeros(len(keys), bool))
            out["boxes"] = jnp.where(cropped[:, None], out["boxes"], geometry.whole_boxes(len(keys), stored))
    elif "hflip" in out or "vflip" in out:
        out["boxes"] = geometry.whole_boxes(len(keys), stored)
    chance("jitter", recipe.jitter)
    if "jitter" in out:
        for name in recipe.colours:
            strength = getattr(recipe, name)
            bounds = (-strength, strength) if name == "hue" else (max(1 - strength, 0.0), 1 + strength)
            out[name] = uniform(name, *bounds)
        out["order"] = draws.permutations(keys, "order", len(recipe.colours))
    chance("grayscale", recipe.grayscale)
    chance("gamma", recipe.gamma)
    if "gamma" in out:
        out["exponent"] = draws.factor(uniform("exponent"), recipe.gamma_strength)
    chance("sharpness", recipe.sharpness)
    chance("blur", recipe.blur)
    if "blur" in out:
        out["sigma"] = uniform("sigma", *_sigmas(recipe, scale or min(size)))
    if recipe.rand_augment:
        out |= _draw_rand_augment(keys, recipe)
    chance("solarize", recipe.solarize)
    for name, most in (("noise", recipe.noise_std), ("rician", recipe.rician_std)):
        chance(name, getattr(recipe, name))
        if name in out:
            out[f"{name}_std"] = most * uniform(f"{name}_std")
            out[f"{name}_keys"] = draws.named(keys, f"{name} pixels")
    chance("erase", recipe.erase)
    if "erase" in out:
        out["hole"], fits = draws.boxes(keys, "hole", size, recipe.erase_area, recipe.erase_ratio)
        out["erase"] &= fits
    return out


def _draw_rand_augment(keys: Key[Array, " n"], recipe: Recipe) -> dict[str, Array]:
    shape = (recipe.rand_augment,)
    operation = draws.uniform(keys, "rand_augment", shape) * len(rand_augment.OPERATIONS)
    level = recipe.rand_magnitude + recipe.rand_spread * draws.normal(keys, "rand_augment level", shape)
    return {
        "rand_operation": jnp.floor(operation).astype(jnp.int32),
        "rand_level": jnp.clip(level, 0.0, 10.0) / 10,
        "rand_sign": jnp.where(draws.uniform(keys, "rand_augment sign", shape) < 0.5, -1.0, 1.0),
        "rand_done": draws.uniform(keys, "rand_augment done", shape) < 0.5,
    }


def _sigmas(recipe: Recipe, scale: int) -> tuple[float, float]:
    low, high = recipe.blur_sigma
    return low * scale / 224, high * scale / 224


def apply(
    image: Callable[[], Num[Array, "n h w c"]],
    mask: Int[Array, "n h w"] | None,
    drawn: Draws,
    recipe: Recipe,
    adapter: Adapter,
    size: tuple[int, int],
    crop: tuple[float, float],
) -> tuple[Float[Array, "n i j k"], Int[Array, "n i j"] | None]:
    """Does to each image what was drawn for it (see `draw`), and to its mask what moves pixels."""
    x, mask = place(image, mask, drawn, recipe, adapter, size, crop)
    return recolour(x, drawn, recipe, adapter), mask


def place(
    image: Callable[[], Num[Array, "n h w c"]],
    mask: Int[Array, "n h w"] | None,
    drawn: Draws,
    recipe: Recipe,
    adapter: Adapter,
    size: tuple[int, int],
    crop: tuple[float, float],
) -> tuple[Float[Array, "n c i j"], Int[Array, "n i j"] | None]:
    """Does the first half of `apply`: windows and what moves pixels; gives planes in [0, 1].

    The images come as a function that picks them: a row picked inside of the first operation isn't copied before it.
    """
    x = _unit(image, drawn, recipe, adapter)
    if "affine" in drawn:
        matrices = drawn["matrices"]
        # What a window makes of the lowest value that is stored: black, or as gray as the air of the image.
        lowest = jnp.full((len(x), 1, 1, adapter.stored.channels), adapter.stored.value_range[0])
        air = _planes(to_unit(lowest, adapter, **_windows(drawn)))[:, :, 0, 0]
        x = forms.sometimes(drawn["affine"], lambda x: geometry.affine(x, matrices, air), x)
        if mask is not None:
            move = functools.partial(geometry.affine_mask, matrices=matrices, outside=UNKNOWN_MASK)
            mask = forms.sometimes(drawn["affine"], move, mask)
    if "boxes" in drawn:
        flips: dict[str, Any] = dict(flip_h=drawn.get("hflip"), flip_v=drawn.get("vflip"))
        whole = recipe.resized_crop != 1.0
        largest = None if whole else draws.largest_box(adapter.stored.size, crop, recipe.crop_ratio)
        x = geometry.crop_and_resize(x, drawn["boxes"], size, largest=largest, **flips)
    else:
        flips = {}
        x = geometry.resize(x, size)
    if mask is not None:
        boxes = drawn.get("boxes", geometry.whole_boxes(len(mask), adapter.stored.size))
        mask = geometry.crop_mask(mask, boxes, size, **flips)
    return x, mask


def recolour(
    x: Float[Array, "n c i j"], drawn: Draws, recipe: Recipe, adapter: Adapter, scale: int = 0
) -> Float[Array, "n i j k"]:
    """Does the second half of `apply`: changes of values, of the rows that drew them, and standardises.

    `scale` as of `draw`.
    """
    changed = _intensities(x, drawn, recipe, adapter, scale or min(x.shape[2:]))
    return standardise(_channels_last(changed).astype(jnp.float32), adapter).astype(recipe.dtype)


def _unit(image: Callable[[], Array], drawn: Draws, recipe: Recipe, adapter: Adapter) -> Float[Array, "n c h w"]:
    """Scales stored values to [0, 1] by their windows, channels first."""

    def scaled() -> Array:
        return _planes(to_unit(image(), adapter, **_windows(drawn))).astype(recipe.dtype)

    return forms.apart((drawn["boxes"][:, 2:] > 0).all(), scaled) if "boxes" in drawn else scaled()


def _windows(drawn: Draws) -> dict[str, Array]:
    if "window_shift" not in drawn:
        return {}
    return {k: drawn[f"window_{k}"][:, None, None, None] for k in ("shift", "scale")}


def _intensities(x: Float[Array, "n c h w"], drawn: Draws, recipe: Recipe, adapter: Adapter, scale: int) -> Array:
    """Changes values, not places; each change is computed for the rows that drew it."""
    largest = _sigmas(recipe, scale)[1]
    radius = recipe.blur_radius or math.ceil(3 * largest)  # beyond three sigma lie 0.3 % of the filter
    mean = sum(adapter.model_input.mean) / len(adapter.model_input.mean)
    strengths = {name: drawn[name] for name in recipe.colours if name in drawn}
    changes = {
        "jitter": lambda x: colour.jitter(x, strengths, drawn["order"]),
        "grayscale": colour.grayscale,
        "gamma": lambda x: colour.gamma(x, drawn["exponent"]),
        "sharpness": lambda x: filters.sharpen(x, recipe.sharpness_factor),
        "blur": lambda x: filters.gaussian_blur(x, drawn["sigma"], radius=radius),
        "solarize": colour.solarize,
        "noise": lambda x: filters.gaussian_noise(drawn["noise_keys"], x, drawn["noise_std"]),
        "rician": lambda x: filters.rician_noise(drawn["rician_keys"], x, drawn["rician_std"]),
        "erase": lambda x: geometry.erase(x, drawn["hole"], mean),
    }
    for name, change in changes.items():
        if name == "solarize" and "rand_operation" in drawn:
            operation, level, sign, done = (drawn[f"rand_{what}"] for what in ("operation", "level", "sign", "done"))
            x = rand_augment.apply(x, operation, level, sign, done, _means(x, adapter))
        if name in drawn:
            x = forms.sometimes(drawn[name], change, x)
    return x


def _means(x: Float[Array, "n c h w"], adapter: Adapter) -> Float[Array, "n c"]:
    """The mean that the model's input is standardised by, of each channel of the data."""
    mean = jnp.asarray(adapter.model_input.mean, jnp.float32)
    mean = mean if len(mean) == x.shape[1] else jnp.full(x.shape[1], mean.mean())
    return jnp.broadcast_to(mean, x.shape[:2]).astype(x.dtype)
