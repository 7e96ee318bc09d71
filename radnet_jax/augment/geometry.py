"""Where pixels come from: crops, flips and affine maps of a batch, each example with its own, image and mask alike.

Images are planes [n c h w] (channels before rows: loops over 3 channels in the innermost place are not vectorised),
masks [n h w]. Coordinates are in pixels, rows before columns; a box is (top, left, height, width).
"""

from __future__ import annotations

import math

import jax
from jax import lax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Shaped
import numpy as np

from radnet_jax.augment import forms


def whole_boxes(rows: int, size: tuple[int, int]) -> Float[Array, "n 4"]:
    """Returns boxes that hold the whole image."""
    return jnp.broadcast_to(jnp.asarray([0.0, 0.0, *size], jnp.float32), (rows, 4))


def crop_and_resize(
    x: Float[Array, "n c h w"],
    boxes: Float[Array, "n 4"],
    size: tuple[int, int],
    *,
    flip_h: Bool[Array, " n"] | None = None,
    flip_v: Bool[Array, " n"] | None = None,
    largest: tuple[float, float] | None = None,
    form: str | None = None,
) -> Float[Array, "n c i j"]:
    """Resizes the box of each image to `size` with an antialiased triangle filter, and flips it.

    Equal to `jax.image.scale_and_translate(method="linear", antialias=True)` for each image: the filter may see pixels
    just outside of its box, none outside of the image.

    Args:
      x: images.
      boxes: top, left, height, width in pixels, inside of the image, not empty.
      size: height and width of the result.
      flip_h: mirror left and right.
      flip_v: mirror top and bottom.
      largest: no box is higher or wider than this; the image's own size by default.
      form: "taps" sums the few rows that each row of the result is made of, then the columns likewise, between two
        transpositions (gathered pixel by pixel the columns take 3 times as long on CPU, as a product with a matrix 4
        times); "matrix" multiplies with a matrix of weights on either side.
    """
    shape = (x.shape[2], x.shape[3])
    limits = largest or (float(shape[0]), float(shape[1]))
    filters = [
        _Filter(boxes[:, axis], boxes[:, axis + 2], shape[axis], size[axis], limits[axis], flip)
        for axis, flip in ((0, flip_v), (1, flip_h))
    ]
    if forms.choose("resample", form) == "matrix":
        rows, columns = (f.matrix().astype(x.dtype) for f in filters)
        # Three passes of bfloat16 or one of TF32: the weights' error stays under a thousandth.
        precision = lax.Precision.HIGH if x.dtype == jnp.float32 else None
        y = jnp.einsum("nih,nchw->nciw", rows, x, precision=precision)
        return jnp.einsum("njw,nciw->ncij", columns, y, precision=precision)
    always = (boxes[:, 2:] > 0).all()
    for f in filters:
        x = forms.apart(always, f.sum_of_rows, x)
        x = forms.apart(always, lambda x: x.swapaxes(2, 3), x)
    return x


class _Filter:
    """The weights that resample one axis: each pixel of the result is a weighted mean around its centre."""

    def __init__(
        self,
        start: Float[Array, " n"],
        length: Float[Array, " n"],
        size: int,
        out: int,
        limit: float,
        flip: Bool[Array, " n"] | None,
    ):
        i = jnp.arange(out, dtype=jnp.float32)[None]
        if flip is not None:
            i = jnp.where(flip[:, None], out - 1 - i, i)
        self.centres = start[:, None] + (i + 0.5) * (length / out)[:, None] - 0.5
        self.radius = jnp.maximum(length / out, 1.0)[:, None]
        self.size = size
        self.taps = math.ceil(2 * max(limit / out, 1.0))  # integers in an open interval of the widest filter

    def matrix(self) -> Float[Array, "n out size"]:
        position = jnp.arange(self.size, dtype=jnp.float32)
        weights = jnp.maximum(0.0, 1.0 - jnp.abs(position - self.centres[:, :, None]) / self.radius[:, :, None])
        return weights / weights.sum(axis=2, keepdims=True)

    def sum_of_rows(self, x: Float[Array, "n c size w"]) -> Float[Array, "n c out w"]:
        first = jnp.floor(self.centres - self.radius).astype(jnp.int32) + 1
        index = first[:, :, None] + jnp.arange(self.taps)
        weights = jnp.maximum(0.0, 1.0 - jnp.abs(index - self.centres[:, :, None]) / self.radius[:, :, None])
        weights = jnp.where((index >= 0) & (index < self.size), weights, 0.0)
        weights = weights / weights.sum(axis=2, keepdims=True)
        index = jnp.clip(index, 0, self.size - 1)
        total = jnp.zeros((), jnp.float32)
        for t in range(self.taps):
            total = total + weights[:, None, :, t, None] * _rows(x, index[:, :, t])
        return total.astype(x.dtype)


def _rows(x: Shaped[Array, "n c h w"], index: Int[Array, "n i"]) -> Shaped[Array, "n c i w"]:
    return jax.vmap(lambda image, rows: image.at[:, rows].get(mode="promise_in_bounds"))(x, index)


def resize(x: Float[Array, "n c h w"], size: tuple[int, int]) -> Float[Array, "n c i j"]:
    """Resizes whole images with the filter of `crop_and_resize`; all rows share their weights, which are constants."""
    for axis in (0, 1):
        if x.shape[2] != size[axis]:
            x = _resize_rows(x, size[axis])
        x = x.swapaxes(2, 3)
    return x


def _resize_rows(x: Float[Array, "n c h w"], out: int) -> Float[Array, "n c i w"]:
    size = x.shape[2]
    radius = max(size / out, 1.0)
    centres = (np.arange(out) + 0.5) * (size / out) - 0.5
    index = (np.floor(centres - radius).astype(int) + 1)[:, None] + np.arange(math.ceil(2 * radius))
    weights = np.maximum(0.0, 1.0 - np.abs(index - centres[:, None]) / radius) * ((index >= 0) & (index < size))
    weights = (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)
    index = np.clip(index, 0, size - 1)
    total = jnp.zeros((), jnp.float32)
    for t in range(index.shape[1]):
        total = total + weights[:, t, None] * x[:, :, index[:, t]]
    return total.astype(x.dtype)


def crop_mask(
    mask: Shaped[Array, "n h w"],
    boxes: Float[Array, "n 4"],
    size: tuple[int, int],
    *,
    flip_h: Bool[Array, " n"] | None = None,
    flip_v: Bool[Array, " n"] | None = None,
) -> Shaped[Array, "n i j"]:
    """Takes the nearest value of a mask for each pixel that `crop_and_resize` gives for the image."""
    index = []
    for axis, flip in ((0, flip_v), (1, flip_h)):
        f = _Filter(boxes[:, axis], boxes[:, axis + 2], mask.shape[1 + axis], size[axis], 1.0, flip)
        index.append(jnp.clip(jnp.floor(f.centres + 0.5).astype(jnp.int32), 0, mask.shape[1 + axis] - 1))
    return jax.vmap(lambda m, i, j: m[i[:, None], j[None, :]])(mask, *index)


def affine_matrices(
    degrees: Float[Array, " n"],
    zoom: Float[Array, " n"],
    shear: Float[Array, " n"],
    translate: Float[Array, "n 2"],
    size: tuple[int, int],
) -> Float[Array, "n 2 3"]:
    """Returns maps from a pixel of the result, (row, column, 1), to where it comes from.

    The image is sheared, zoomed and rotated about its centre, then moved.

    Args:
      degrees: counter-clockwise as seen.
      zoom: factor; over 1 magnifies.
      shear: columns moved by this many times the row's distance from the centre.
      translate: moved down and right, as a fraction of height and width.
      size: height and width of the images.
    """
    angle = jnp.deg2rad(degrees)
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    centre = jnp.asarray([(size[0] - 1) / 2, (size[1] - 1) / 2])
    moved = centre + translate * jnp.asarray(size, jnp.float32)
    # The inverses: [[1, 0], [-shear, 1]] [[cos, sin], [-sin, cos]] / zoom
    rows = jnp.stack([cos, sin], axis=1)
    columns = jnp.stack([-sin - shear * cos, cos - shear * sin], axis=1)
    linear = jnp.stack([rows, columns], axis=1) / zoom[:, None, None]
    offset = centre - (linear * moved[:, None, :]).sum(axis=2)
    return jnp.concatenate([linear, offset[:, :, None]], axis=2)


def _sources(matrices: Float[Array, "n 2 3"], h: int, w: int) -> tuple[Float[Array, "n h w"], Float[Array, "n h w"]]:
    i = jnp.arange(h, dtype=jnp.float32)[:, None]
    j = jnp.arange(w, dtype=jnp.float32)[None, :]
    m = matrices[:, :, :, None, None]
    return m[:, 0, 0] * i + m[:, 0, 1] * j + m[:, 0, 2], m[:, 1, 0] * i + m[:, 1, 1] * j + m[:, 1, 2]


def affine(
    x: Float[Array, "n c h w"], matrices: Float[Array, "n 2 3"], outside: Float[Array, "n c"]
) -> Float[Array, "n c h w"]:
    """Moves each image by its map (see `affine_matrices`), bilinear, with the value `outside` around the image."""
    n, c, h, w = x.shape
    x, dtype = x - outside[:, :, None, None], x.dtype
    y, z = _sources(matrices, h, w)
    top, left = jnp.floor(y), jnp.floor(z)

    def corner(i: Float[Array, "n h w"], j: Float[Array, "n h w"]) -> Float[Array, "n c h w"]:
        weight = (1 - jnp.abs(y - i)) * (1 - jnp.abs(z - j))
        weight = jnp.where((i >= 0) & (i < h) & (j >= 0) & (j < w), weight, 0.0)
        flat = (jnp.clip(i, 0, h - 1) * w + jnp.clip(j, 0, w - 1)).astype(jnp.int32)
        pixels = jax.vmap(lambda image, at: image.at[:, at].get(mode="promise_in_bounds"))(x.reshape(n, c, h * w), flat)
        return pixels * weight[:, None]

    total = corner(top, left) + corner(top, left + 1) + corner(top + 1, left) + corner(top + 1, left + 1)
    return (total + outside[:, :, None, None]).astype(dtype)


def affine_mask(
    mask: Shaped[Array, "n h w"], matrices: Float[Array, "n 2 3"], *, outside: int
) -> Shaped[Array, "n h w"]:
    """Moves each mask by its map, nearest value; `outside` where the image has no pixel."""
    n, h, w = mask.shape
    i, j = (jnp.floor(v + 0.5) for v in _sources(matrices, h, w))
    flat = (jnp.clip(i, 0, h - 1) * w + jnp.clip(j, 0, w - 1)).astype(jnp.int32)
    values = jax.vmap(lambda m, at: m.at[at].get(mode="promise_in_bounds"))(mask.reshape(n, h * w), flat)
    inside = (i >= 0) & (i < h) & (j >= 0) & (j < w)
    return jnp.where(inside, values, jnp.asarray(outside, mask.dtype))


def erase(x: Float[Array, "n c h w"], boxes: Float[Array, "n 4"], value: float) -> Float[Array, "n c h w"]:
    """Writes a value over the pixels whose centre lies in the box (DeVries & Taylor 2017; Zhong et al. 2017)."""
    _, _, h, w = x.shape
    i = jnp.arange(h, dtype=jnp.float32)[:, None] + 0.5
    j = jnp.arange(w, dtype=jnp.float32)[None, :] + 0.5
    top, left, height, width = (boxes[:, k, None, None] for k in range(4))
    inside = (i >= top) & (i < top + height) & (j >= left) & (j < left + width)
    return jnp.where(inside[:, None], jnp.asarray(value, x.dtype), x)


def ten_crop(x: Float[Array, "n c h w"], size: tuple[int, int]) -> Float[Array, "n t c i j"]:
    """Returns the four corners and the centre of each image, and the mirror image of each (Krizhevsky et al. 2012).

    Raises:
      ValueError: for images that are smaller than the crops.
    """
    (h, w), (i, j) = x.shape[2:], size
    if i > h or j > w:
        raise ValueError(f"ten_crop: crops of {i} x {j} from images of {h} x {w}")
    starts = [(0, 0), (0, w - j), (h - i, 0), (h - i, w - j), (round((h - i) / 2), round((w - j) / 2))]
    crops = jnp.stack([x[:, :, top : top + i, left : left + j] for top, left in starts], axis=1)
    return jnp.concatenate([crops, crops[..., ::-1]], axis=1)
