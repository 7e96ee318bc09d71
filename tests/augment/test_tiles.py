"""Tiles of puzzles: where they come from, their order, their own colours, and the same draws on any devices."""

import jax
import numpy as np
import pytest

from radnet_jax import sharding
from radnet_jax.augment import AUGMENTATIONS
from radnet_jax.augment.recipes import Recipe
from radnet_jax.augment.tiles import make_tiles
from radnet_jax.errors import UserError
from tests.augment import contracts

KEY = jax.random.key(5)
PLAIN = Recipe(tile_crop=(1.0, 1.0))


def ramps(n, side):
    """Images whose first two channels are the row and the column of a pixel."""
    image = np.zeros((n, side, side, 3), np.uint8)
    at = np.arange(side)
    image[..., 0], image[..., 1], image[..., 2] = at[:, None], at[None, :], 128
    return image


def unit(tiles, adapter):
    return np.asarray(tiles) * adapter.model_input.std + adapter.model_input.mean


def test_the_tiles_of_an_image_are_one_of_each_part_in_an_order_of_their_own():
    adapter = contracts.photo(stored=(255, 255), size=(224, 224))
    tiles = unit(make_tiles(ramps(6, 255), adapter, PLAIN, KEY), adapter)
    assert tiles.shape == (6, 9, 64, 64, 3)
    rows, columns = tiles[..., 0] * 255, tiles[..., 1] * 255
    np.testing.assert_allclose(np.diff(rows, axis=2), 1, atol=0.01)  # neither turned nor resized
    np.testing.assert_allclose(np.diff(columns, axis=3), 1, atol=0.01)
    first = np.stack([rows[:, :, 0, 0], columns[:, :, 0, 0]], axis=-1)
    part = np.floor((first + 0.01) / 85).astype(int)
    within = first - 85 * part
    assert within.min() >= -0.01
    assert within.max() <= 85 - 64 + 0.01
    numbers = part[..., 0] * 3 + part[..., 1]
    assert (np.sort(numbers, axis=1) == np.arange(9)).all()
    assert len({tuple(order) for order in numbers}) == 6
    assert len(np.unique(np.round(within).reshape(-1, 2), axis=0)) > 40
    assert within.reshape(-1, 2).min() < 3
    assert within.reshape(-1, 2).max() > 18


def test_the_crop_is_drawn_for_each_image_and_covers_the_area_that_is_asked_for():
    adapter = contracts.photo(stored=(120, 120), size=(112, 112))
    image = ramps(8, 120)
    slopes = {}
    for crop in ((1.0, 1.0), (0.25, 0.25)):
        tiles = unit(make_tiles(image, adapter, Recipe(tile_crop=crop, crop_ratio=(1.0, 1.0)), KEY), adapter)
        slopes[crop] = np.diff(tiles[..., 0], axis=2).mean()
    assert slopes[0.25, 0.25] == pytest.approx(slopes[1.0, 1.0] / 2, rel=0.02)
    tiles = unit(make_tiles(image, adapter, Recipe(tile_crop=(0.3, 1.0)), KEY), adapter)
    assert np.diff(tiles[..., 0], axis=2).mean(axis=(1, 2, 3)).std() > 1e-4


def test_each_tile_has_its_own_colours():
    adapter = contracts.photo(stored=(40, 40), size=(36, 36))
    gray = np.full((4, 40, 40, 3), 128, np.uint8)
    tiles = unit(make_tiles(gray, adapter, Recipe(jitter=1.0, brightness=0.5), KEY), adapter)
    assert len(np.unique(tiles.mean(axis=(2, 3, 4)).round(4))) == 36
    assert tiles.std(axis=(2, 3, 4)).max() < 1e-5
    blurred = make_tiles(ramps(4, 40), adapter, Recipe(blur=1.0), KEY)
    assert np.isfinite(blurred).all()


@pytest.mark.parametrize("name", ["insdis", "infomin", "byol"])
def test_the_same_tiles_on_any_devices_and_in_any_form(name):
    adapter, recipe = contracts.photo(stored=(32, 32), size=(24, 24)), AUGMENTATIONS.build(name)
    image = np.random.default_rng(0).integers(0, 255, (16, 32, 32, 3)).astype(np.uint8)
    tiles = np.asarray(make_tiles(image, adapter, recipe, KEY))
    assert tiles.shape == (16, 9, 7, 7, 3)
    for form in ("each", "batch"):
        np.testing.assert_allclose(make_tiles(image, adapter, recipe, KEY, form=form), tiles, atol=1e-5)
    mesh = sharding.make_mesh(8)
    put = jax.device_put(image, sharding.batch_sharding(mesh))
    np.testing.assert_allclose(make_tiles(put, adapter, recipe, KEY, mesh=mesh), tiles, atol=1e-5)
    np.testing.assert_allclose(make_tiles(image[:3], adapter, recipe, KEY), tiles[:3], atol=1e-5)
    assert np.abs(tiles - np.asarray(make_tiles(image, adapter, recipe, jax.random.key(6)))).max() > 0.1


def test_hu_windows_vary_by_image_and_tiles_come_of_ct():
    adapter = contracts.ct(stored=(20, 20), size=(16, 16))
    image = np.full((4, 20, 20, 1), 40, np.int16)
    tiles = np.asarray(make_tiles(image, adapter, Recipe(window_shift=0.2), KEY))
    assert tiles.shape == (4, 9, 5, 5, 3)
    assert tiles.std(axis=(1, 2, 3, 4)).max() < 1e-5
    assert len(np.unique(tiles[:, 0, 0, 0, 0].round(5))) == 4


def test_an_input_whose_tiles_vanish_is_refused():
    adapter = contracts.photo(stored=(16, 16), size=(12, 12))
    with pytest.raises(UserError, match="too small to be cut into tiles"):
        make_tiles(np.zeros((2, 16, 16, 3), np.uint8), adapter, PLAIN, KEY)
