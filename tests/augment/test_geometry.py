"""Crops, flips, affine maps and masks against plain references, image by image."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage

from radnet_jax.augment import geometry

RNG = np.random.default_rng(0)
BLACK = np.zeros((1, 2), np.float32)


def boxes(n, size):
    """Boxes of any size down to two pixels, some touching the border."""
    extent = RNG.uniform(2, size, (n, 2))
    extent[0] = size
    start = (np.asarray(size) - extent) * RNG.uniform(size=(n, 2))
    start[1] = 0
    return np.concatenate([start, extent], 1).astype(np.float32)


def scaled(x, b, out, flip_h, flip_v):
    """The library's own resampling, one image at a time; x is [n c h w]."""
    scale = np.asarray(out) / b[:, 2:]

    def one(image, scale, start):
        shape = (image.shape[0], *out)
        return jax.image.scale_and_translate(
            image, shape, (1, 2), scale, -start * scale, method="linear", antialias=True
        )

    want = np.array(jax.jit(jax.vmap(one))(x, scale, b[:, :2]))
    want[flip_h] = want[flip_h][..., ::-1]
    want[flip_v] = want[flip_v][:, :, ::-1]
    return want


@pytest.mark.parametrize("form", ["taps", "matrix"])
@pytest.mark.parametrize(("size", "out"), [((20, 23), (16, 12)), ((12, 12), (16, 16)), ((40, 37), (16, 16))])
def test_crops_equal_scale_and_translate(form, size, out):
    x = RNG.uniform(size=(6, 3, *size)).astype(np.float32)
    b = boxes(6, size)
    flip_h, flip_v = np.arange(6) % 2 == 1, np.arange(6) >= 4
    got = jax.jit(lambda *a: geometry.crop_and_resize(*a, out, flip_h=flip_h, flip_v=flip_v, form=form))(x, b)
    np.testing.assert_allclose(got, scaled(x, b, out, flip_h, flip_v), atol=2e-5)


@pytest.mark.parametrize("form", ["taps", "matrix"])
def test_crops_of_known_largest_size_and_of_bfloat16(form):
    x = RNG.uniform(size=(4, 1, 40, 40)).astype(np.float32)
    b = np.concatenate([RNG.uniform(0, 20, (4, 2)), RNG.uniform(5, 20, (4, 2))], 1).astype(np.float32)
    no = np.zeros(4, bool)
    want = scaled(x, b, (16, 16), no, no)
    got = geometry.crop_and_resize(x, b, (16, 16), largest=(20.0, 20.0), form=form)
    np.testing.assert_allclose(got, want, atol=2e-5)
    got = geometry.crop_and_resize(jnp.asarray(x, jnp.bfloat16), b, (16, 16), form=form)
    assert got.dtype == jnp.bfloat16
    np.testing.assert_allclose(got.astype(np.float32), want, atol=0.012)


def test_the_whole_box_at_the_same_size_changes_nothing():
    x = RNG.uniform(size=(2, 1, 9, 7)).astype(np.float32)
    got = jax.jit(lambda x: geometry.crop_and_resize(x, geometry.whole_boxes(2, (9, 7)), (9, 7)))(x)
    np.testing.assert_allclose(got, x, atol=1e-6)


@pytest.mark.parametrize("out", [(16, 16), (9, 14), (30, 30)])
def test_whole_images_are_resized_with_the_same_filter(out):
    x = RNG.uniform(size=(2, 3, 20, 14)).astype(np.float32)
    want = jax.image.resize(x, (2, 3, *out), "linear", antialias=True)
    np.testing.assert_allclose(jax.jit(lambda x: geometry.resize(x, out))(x), want, atol=1e-5)


def matrices(degrees=0.0, zoom=1.0, shear=0.0, translate=(0.0, 0.0), size=(15, 12)):
    one = [np.full(1, v, np.float32) for v in (degrees, zoom, shear)]
    return np.asarray(geometry.affine_matrices(*one, np.asarray([translate], np.float32), size))


@pytest.mark.parametrize("degrees", [0.0, 10.0, -25.0, 90.0])
def test_rotation_equals_scipy(degrees):
    x = RNG.uniform(size=(1, 2, 15, 12)).astype(np.float32)
    got = jax.jit(geometry.affine)(x, matrices(degrees), BLACK)
    want = scipy.ndimage.rotate(x[0], degrees, (1, 2), reshape=False, order=1, mode="grid-constant", prefilter=False)
    np.testing.assert_allclose(got[0], want, atol=1e-4)


def test_affine_maps_equal_scipy():
    x = RNG.uniform(size=(1, 2, 15, 12)).astype(np.float32)
    m = matrices(20.0, 1.3, 0.2, (0.1, -0.15))
    outside = np.array([[0.0, 0.3]], np.float32)
    got = jax.jit(geometry.affine)(x, m, outside)
    for channel, value, result in zip(x[0], outside[0], got[0]):
        where = dict(order=1, mode="grid-constant", cval=value)
        want = scipy.ndimage.affine_transform(channel, m[0, :, :2], m[0, :, 2], **where)
        np.testing.assert_allclose(result, want, atol=1e-4)


def spot(**change):
    """Where a bright pixel 3 right of the centre of a 15 x 15 image goes, relative to the centre."""
    x = np.zeros((1, 1, 15, 15), np.float32)
    x[0, 0, 7, 10] = 1
    y = np.asarray(geometry.affine(x, matrices(size=(15, 15), **change), BLACK[:, :1]))[0, 0]
    return tuple(int(i) for i in np.array(np.unravel_index(y.argmax(), y.shape)) - 7)


def test_affine_maps_go_the_way_their_names_say():
    assert spot() == (0, 3)
    assert spot(degrees=90.0) == (-3, 0)  # counter-clockwise: from the right to above
    assert spot(zoom=2.0) == (0, 6)  # magnified
    assert spot(translate=(0.2, -0.2)) == (3, 0)  # down and left by a fifth of 15
    assert spot(degrees=-90.0, translate=(0.0, 0.2)) == (3, 3)  # turned first, then moved
    x = np.zeros((1, 1, 15, 15), np.float32)
    x[0, 0, 10, 7] = 1
    sheared = np.asarray(geometry.affine(x, matrices(shear=1.0, size=(15, 15)), BLACK[:, :1]))[0, 0]
    assert np.unravel_index(sheared.argmax(), sheared.shape) == (10, 10)


def test_masks_go_where_the_image_goes():
    """A mask that is an image of two values: where the moved image is sure of one, the moved mask has it."""
    shape = np.zeros((3, 30, 26), np.uint8)
    shape[:, 8:20, 5:18] = 1
    b = boxes(3, (30, 26))
    flips = dict(flip_h=np.array([True, False, True]), flip_v=np.array([False, True, True]))
    turned = np.repeat(matrices(20.0, 1.2, 0.1, (0.05, 0.0), (30, 26)), 3, 0)
    image = geometry.affine(shape[:, None].astype(np.float32), turned, np.zeros((3, 1), np.float32))
    mask = geometry.affine_mask(shape, turned, outside=255)
    sure = np.abs(np.asarray(image)[:, 0] - 0.5) > 0.45
    inside = np.asarray(mask) != 255
    np.testing.assert_array_equal(np.asarray(mask)[sure & inside], np.asarray(image)[:, 0].round()[sure & inside])
    image = np.asarray(geometry.crop_and_resize(shape[:, None].astype(np.float32), b, (16, 16), **flips))[:, 0]
    mask = np.asarray(geometry.crop_mask(shape, b, (16, 16), **flips))
    sure = np.abs(image - 0.5) > 0.49
    assert sure.mean() > 0.5
    np.testing.assert_array_equal(mask[sure], image.round()[sure])


def test_masks_take_the_nearest_value():
    mask = RNG.integers(0, 5, (2, 11, 13)).astype(np.uint8)
    b = np.array([[1.0, 2.0, 6.0, 9.0], [0.0, 0.0, 11.0, 13.0]], np.float32)
    got = geometry.crop_mask(mask, b, (8, 8))
    for m, (top, left, h, w), result in zip(mask, b, got):
        i = np.floor(top + (np.arange(8) + 0.5) * h / 8).astype(int)
        j = np.floor(left + (np.arange(8) + 0.5) * w / 8).astype(int)
        np.testing.assert_array_equal(result, m[i][:, j])
    turned = matrices(30.0, size=(11, 13))
    got = np.asarray(geometry.affine_mask(mask[:1], turned, outside=9))[0]
    want = scipy.ndimage.affine_transform(
        mask[0], turned[0, :, :2], turned[0, :, 2], order=0, mode="grid-constant", cval=9
    )
    assert (got == want).mean() > 0.97  # SciPy and we may round a half-way point to another side
    assert (got == 9).any()
    assert got.dtype == np.uint8


def test_erased_boxes_hold_the_value_and_nothing_else_changes():
    x = RNG.uniform(size=(2, 3, 10, 8)).astype(np.float32)
    b = np.array([[2.0, 1.0, 4.0, 3.0], [0.0, 0.0, 0.0, 0.0]], np.float32)
    want = x.copy()
    want[0, :, 2:6, 1:4] = 0.25
    np.testing.assert_array_equal(geometry.erase(x, b, 0.25), want)


def test_ten_crops_are_corners_centre_and_their_mirror_images():
    x = np.arange(7 * 9, dtype=np.float32).reshape(1, 1, 7, 9)
    got = np.asarray(geometry.ten_crop(x, (4, 4)))[0, :, 0]
    wanted = [x[0, 0, i : i + 4, j : j + 4] for i, j in ((0, 0), (0, 5), (3, 0), (3, 5), (2, 2))]
    np.testing.assert_array_equal(got, np.stack([*wanted, *(w[:, ::-1] for w in wanted)]))
    with pytest.raises(ValueError, match="from images"):
        geometry.ten_crop(x, (8, 4))
