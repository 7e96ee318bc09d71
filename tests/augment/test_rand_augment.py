"""RandAugment's operations against Pillow, which the published code calls, and how they are drawn."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from radnet_jax.augment import rand_augment
from radnet_jax.augment.rand_augment import MOVES, OPERATIONS, VALUES
from radnet_jax.augment.recipes import Recipe
from radnet_jax.augment.views import draw, make_views
from tests.augment import contracts

Image = pytest.importorskip("PIL.Image")
ImageEnhance, ImageOps = pytest.importorskip("PIL.ImageEnhance"), pytest.importorskip("PIL.ImageOps")
SIZE = (20, 24)
OUTSIDE = (124, 116, 104)


def images(seed=0):
    """Smooth ones in colour, so that half a pixel is no difference, one of them dark and one of few values."""
    rng = np.random.default_rng(seed)
    i, j = np.mgrid[: SIZE[0], : SIZE[1]]
    phases = rng.uniform(0, 2 * np.pi, (4, 3, 1, 1))
    waves = 0.5 + 0.45 * np.sin(0.25 * i + 0.2 * j + phases)
    waves[1] *= 0.4
    waves[2] = np.round(waves[2] * 3) / 3
    return np.round(waves * 255).astype(np.uint8)


def theirs(image, name, level, sign):
    """By Pillow, 8 bits; level 0 to 1 is a magnitude of 0 to 10."""
    picture = Image.fromarray(image.transpose(1, 2, 0))
    by, (height, width) = level * sign, SIZE
    moved = {
        "shear_x": (1, 0.3 * by, 0, 0, 1, 0),
        "shear_y": (1, 0, 0, 0.3 * by, 1, 0),
        "translate_x": (1, 0, 0.45 * by * width, 0, 1, 0),
        "translate_y": (1, 0, 0, 0, 1, 0.45 * by * height),
    }
    enhance = {"saturation": "Color", "contrast": "Contrast", "brightness": "Brightness", "sharpness": "Sharpness"}
    if name in moved:
        out = picture.transform(picture.size, Image.AFFINE, moved[name], Image.BILINEAR, fillcolor=OUTSIDE)
    elif name == "rotate":
        out = picture.rotate(30 * by, Image.BILINEAR, fillcolor=OUTSIDE)
    elif name in enhance:
        out = getattr(ImageEnhance, enhance[name])(picture).enhance(1.8 * level + 0.1)
    elif name == "posterize":
        out = ImageOps.posterize(picture, int(4 * level)) if int(4 * level) else picture.point(lambda value: 0)
    elif name == "solarize":
        out = ImageOps.solarize(picture, int(256 * level))
    elif name == "solarize_add":
        out = picture.point([min(255, v + int(110 * level)) if v < 128 else v for v in range(256)] * 3)
    else:
        out = getattr(ImageOps, name)(picture)
    return np.asarray(out).transpose(2, 0, 1)


def ours(x, names, levels, signs, form, done=None):
    number = np.array([[OPERATIONS.index(name) for name in row] for row in names])
    outside = np.tile(np.array(OUTSIDE, np.float32) / 255, (len(x), 1))
    done = np.ones(number.shape, bool) if done is None else done
    run = jax.jit(rand_augment.apply, static_argnames="form")
    drawn = [number, np.array(levels, np.float32), np.array(signs, np.float32), done, outside]
    if form == "select":
        return np.asarray(run(x, *drawn, form=form))
    return np.concatenate([run(x[i : i + 1], *(d[i : i + 1] for d in drawn), form=form) for i in range(len(x))])


@pytest.mark.parametrize("form", ["switch", "select"])
@pytest.mark.parametrize("level", [1.0, 0.93])
def test_operations_are_pillows(form, level):
    for k, name in enumerate(OPERATIONS):
        x, sign = images(k), (-1.0) ** k
        found = 255 * ours(x.astype(np.float32) / 255, [[name]] * 4, [[level]] * 4, [[sign]] * 4, form)
        wanted = np.stack([theirs(image, name, level, sign) for image in x]).astype(float)
        apart = np.abs(found - wanted)
        if name in MOVES:  # at the border Pillow repeats the outermost pixels by half of one
            assert np.mean(apart > 2) < 0.12, name
            assert np.median(apart) < 1, name
            assert np.mean(np.abs(x - wanted) > 2) > 0.5, name
        else:
            blended = ("contrast", "saturation", "sharpness")  # with what Pillow has rounded
            assert apart.max() <= (1.51 if name in blended else 1.01), name


def test_one_comes_after_the_other_where_it_is_done():
    x = images().astype(np.float32) / 255
    names, done = [["invert", "solarize_add"]] * 4, np.array([[True, True], [True, False], [False, True], [False] * 2])
    wanted = x.copy()
    wanted[:2] = 1 - wanted[:2]
    for i in (0, 2):
        wanted[i] = np.where(wanted[i] < 127.5 / 255, wanted[i] + 110 / 255, wanted[i])
    for form in ("switch", "select"):
        found = ours(x, names, [[1.0, 1.0]] * 4, [[1.0, 1.0]] * 4, form, done)
        np.testing.assert_allclose(found, wanted, atol=1e-5)


def test_channels_of_one_value_stay():
    flat = jnp.full((1, 1, 6, 6), 0.4)
    np.testing.assert_array_equal(rand_augment.autocontrast(flat), flat)
    np.testing.assert_allclose(rand_augment.equalize(flat), 0.4, atol=1e-6)


def test_all_operations_are_drawn_alike_often_with_their_magnitudes():
    recipe, n = Recipe(rand_augment=2), 3000
    keys = jax.random.split(jax.random.key(0), n)
    drawn = draw(keys, jnp.zeros(n, int), recipe, contracts.photo(), (16, 16), recipe.crop)
    counts = np.bincount(np.asarray(drawn["rand_operation"]).ravel(), minlength=len(OPERATIONS))
    assert len(counts) == len(MOVES) + len(VALUES) == 15
    assert ((counts - 2 * n / 15) ** 2 / (2 * n / 15)).sum() < 36.1  # chi-squared of 14 degrees, 0.1 %
    level = np.asarray(drawn["rand_level"])
    assert level.max() == 1
    assert abs(np.mean(level == 1) - 0.5) < 0.03
    assert abs(np.mean(level[level < 1]) - (1 - 0.05 * np.sqrt(2 / np.pi))) < 0.003  # half of a normal distribution
    assert abs(np.mean(drawn["rand_done"]) - 0.5) < 0.03
    assert abs(np.mean(drawn["rand_sign"])) < 0.06


def test_views_have_them_and_none_is_the_default():
    adapter = contracts.photo()
    image = np.random.default_rng(0).integers(0, 255, (8, 20, 20, 3)).astype(np.uint8)
    with_it, without = (
        np.asarray(make_views(image, adapter, Recipe(rand_augment=k), jax.random.key(0), 2)) for k in (2, 0)
    )
    changed = np.abs(with_it - without).max((2, 3, 4)) > 1e-3
    assert 0.4 < changed.mean() <= 1  # three of four draws change something, but some at their magnitude do not
