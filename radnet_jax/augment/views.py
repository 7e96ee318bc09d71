"""From stored pixels to what a model sees: several random views, one random view, or the view for evaluation.

The functions are compiled as a whole, and may be called inside of a larger `jit`. The colour changes and the blur stand
in a branch, taken where at least one example asks for them: XLA's CPU compiler fuses all that is in one piece and then
computes the crop again for each tap of the blur, 3 times the work; it does not fuse across a branch.
"""

from __future__ import annotations

import functools
import math

import jax
from jax import lax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key, Num

from radnet_jax.augment import draws, geometry, intensity
from radnet_jax.augment.recipes import Recipe
from radnet_jax.preprocessing import Adapter, standardise, to_unit


@functools.partial(jax.jit, static_argnames=("adapter", "recipe", "n_views"))
def make_views(
    image: Num[Array, "b h w c"], adapter: Adapter, recipe: Recipe, key: Key[Array, ""], n_views: int
) -> Float[Array, "b v i j k"]:
    """Returns `n_views` independent random views of each image, standardised for the model.

    Args:
      image: stored pixels.
      adapter: the preprocessing contract; static.
      recipe: what is done; static.
      key: the key of this step, the same on all devices; draws are keyed by the row of the global batch and the view.
      n_views: views of each image; static.
    """
    views = _augment(image, adapter, recipe, key, n_views)
    return views.reshape(image.shape[0], n_views, *views.shape[1:])


@functools.partial(jax.jit, static_argnames=("adapter", "recipe"))
def augment_image(
    image: Num[Array, "b h w c"], adapter: Adapter, recipe: Recipe, key: Key[Array, ""]
) -> Float[Array, "b i j k"]:
    """Returns one random view of each image, the same as the first of `make_views`."""
    return _augment(image, adapter, recipe, key, 1)


@functools.partial(jax.jit, static_argnames="adapter")
def center(image: Num[Array, "b h w c"], adapter: Adapter) -> Float[Array, "b i j k"]:
    """Returns the view for evaluation: the whole image, resized to the model's input with the filter of the crops.

    The whole image and not a central crop of it: findings lie at the border of medical images too. A stored image of
    another aspect ratio is stretched.
    """
    x = to_unit(image, adapter)
    return standardise(_resize(x, adapter.model_input.size), adapter)


def _augment(
    image: Num[Array, "b h w c"], adapter: Adapter, recipe: Recipe, key: Key[Array, ""], n_views: int
) -> Float[Array, "n i j k"]:
    x, keys = _scaled(image, key, adapter, recipe, n_views)
    x = _placed(x, keys, adapter, recipe)
    if recipe.jitter or recipe.grayscale:
        x = _coloured(x, keys, recipe)
    if recipe.blur:
        x = _blurred(x, keys, recipe)
    return _finished(x, keys, adapter, recipe)


def _scaled(
    image: Num[Array, "b h w c"], key: Key[Array, ""], adapter: Adapter, recipe: Recipe, n_views: int
) -> tuple[Float[Array, "n h w u"], Key[Array, " n"]]:
    """Repeats the images batch-major, with a key for each view, and scales them to [0, 1] by their windows."""
    b = image.shape[0]
    keys = draws.row_keys(key, b, n_views)
    image = jnp.broadcast_to(image[:, None], (b, n_views, *image.shape[1:])).reshape(-1, *image.shape[1:])
    if not (recipe.window_shift or recipe.window_scale):
        x = to_unit(image, adapter)
    else:
        u = draws.uniform(keys, "window", (2,))[:, :, None, None, None]
        shift = recipe.window_shift * draws.between(u[:, 0], -1, 1)
        scale = jnp.exp(math.log1p(recipe.window_scale) * draws.between(u[:, 1], -1, 1))
        x = to_unit(image, adapter, shift=shift, scale=scale)
    if recipe.rotate:
        degrees = recipe.rotate * draws.between(draws.uniform(keys, "rotate"), -1, 1)
        x = lax.cond((degrees != 0).any(), geometry.rotate, lambda x, _: x, x, degrees)
    return x, keys


def _placed(x: Float[Array, "n h w u"], keys: Key[Array, " n"], adapter: Adapter, recipe: Recipe) -> Array:
    size, stored = adapter.model_input.size, (x.shape[1], x.shape[2])
    flip_h = draws.chance(keys, "hflip", recipe.hflip) if recipe.hflip else None
    flip_v = draws.chance(keys, "vflip", recipe.vflip) if recipe.vflip else None
    if recipe.crop != (1.0, 1.0):
        boxes = geometry.draw_boxes(keys, stored, recipe.crop, recipe.crop_ratio)
    elif recipe.hflip or recipe.vflip:
        boxes = geometry.whole_boxes(x.shape[0], stored)
    else:
        return _resize(x, size)
    return geometry.crop_and_resize(x, boxes, size, flip_h=flip_h, flip_v=flip_v)


def _resize(x: Float[Array, "n h w c"], size: tuple[int, int]) -> Float[Array, "n i j c"]:
    if x.shape[1:3] == tuple(size):
        return x
    return geometry.crop_and_resize(x, geometry.whole_boxes(x.shape[0], (x.shape[1], x.shape[2])), size)


def _coloured(x: Float[Array, "n h w c"], keys: Key[Array, " n"], recipe: Recipe) -> Float[Array, "n h w c"]:
    u = draws.uniform(keys, "jitter", (5,))
    jitter = u[:, 0] < recipe.jitter
    gray = draws.chance(keys, "grayscale", recipe.grayscale)

    def change(x: Float[Array, "n h w c"]) -> Float[Array, "n h w c"]:
        planes = intensity.split(x)
        operations = (
            (intensity.brightness, recipe.brightness),
            (intensity.contrast, recipe.contrast),
            (intensity.saturation, recipe.saturation),
        )
        for i, (operation, strength) in enumerate(operations, start=1):
            if strength:
                factor = jnp.maximum(1 + strength * draws.between(u[:, i], -1, 1), 0.0)
                planes = operation(planes, jnp.where(jitter, factor, 1.0))
        if recipe.hue:
            planes = intensity.hue(planes, jnp.where(jitter, recipe.hue * draws.between(u[:, 4], -1, 1), 0.0))
        return intensity.merge(intensity.grayscale(planes, gray) if recipe.grayscale else planes)

    return lax.cond((jitter | gray).any(), change, lambda x: x, x)


def _blurred(x: Float[Array, "n h w c"], keys: Key[Array, " n"], recipe: Recipe) -> Float[Array, "n h w c"]:
    u = draws.uniform(keys, "blur", (2,))
    apply = u[:, 0] < recipe.blur
    low, high = (sigma * min(x.shape[1:3]) / 224 for sigma in recipe.blur_sigma)
    sigma = jnp.where(apply, draws.between(u[:, 1], low, high), 0.0)
    # Beyond three sigma lie 0.3 % of the filter; SimCLR's filter goes to 5.5 at twice the cost.
    blur = functools.partial(intensity.gaussian_blur, sigma=sigma, radius=math.ceil(3 * high))
    return lax.cond(apply.any(), blur, lambda x: x, x)


def _finished(x: Float[Array, "n h w u"], keys: Key[Array, " n"], adapter: Adapter, recipe: Recipe) -> Array:
    if recipe.noise:
        u = draws.uniform(keys, "noise", (2,))
        std = jnp.where(u[:, 0] < recipe.noise, recipe.noise_std * u[:, 1], 0.0)
        x = intensity.gaussian_noise(draws.named(keys, "noise pixels"), x, std)
    return standardise(x, adapter)
