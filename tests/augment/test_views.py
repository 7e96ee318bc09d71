"""Recipes from stored pixels to the model: the contract, independent draws, the same draws on any devices."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from radnet_jax import sharding
from radnet_jax.augment import AUGMENTATIONS
from radnet_jax.augment.recipes import Recipe, check
from radnet_jax.augment.views import augment_image, center, make_views
from radnet_jax.errors import UserError
from radnet_jax.preprocessing import standardise, to_unit
from tests.augment import contracts

KEY = jax.random.key(3)
RNG = np.random.default_rng(0)


def stored(adapter, n=16, same=False):
    s = adapter.stored
    low, high = (-200, 300) if s.unit == "HU" else (0, 255)
    image = RNG.integers(low, high, (n, *s.size, s.channels)).astype(s.dtype)
    return np.repeat(image[:1], n, 0) if same else image


DATA = {
    "simclr": contracts.photo(),
    "finetune_natural": contracts.photo(),
    "chest_xray": contracts.photo(modality="XR", channels=1),
    "finetune_chest_xray": contracts.photo(modality="XR", channels=1),
    "ct": contracts.ct(),
    "finetune_ct": contracts.ct(),
    "none": contracts.ct(),
}


def test_every_recipe_is_tested():
    assert sorted(DATA) == AUGMENTATIONS.names()


@pytest.mark.parametrize("name", sorted(DATA))
def test_recipes_give_standardised_views_in_range(name):
    adapter, recipe = DATA[name], AUGMENTATIONS.build(name)
    check(recipe, adapter)
    views = np.asarray(make_views(stored(adapter), adapter, recipe, KEY, 2))
    assert views.shape == (16, 2, 16, 16, 3)
    assert views.dtype == np.float32
    unit = views * adapter.model_input.std + adapter.model_input.mean
    assert unit.min() >= -1e-5
    assert unit.max() <= 1 + 1e-5
    assert unit.std() > 0.05
    equal = [np.allclose(views[i, 0], views[i, 1]) for i in range(16)]
    assert all(equal) if name == "none" else not any(equal)
    if adapter.stored.channels == 1:  # the channels of one image are augmented alike
        np.testing.assert_allclose(unit[..., 0], unit[..., 2], atol=1e-5)


# One operation at a time, so that a draw shared by all rows can't hide behind another one.
OPERATIONS = {
    "crop": dict(crop=(0.2, 1.0)),
    "hflip": dict(hflip=0.5),
    "vflip": dict(vflip=0.5),
    "brightness": dict(jitter=1.0, brightness=0.5),
    "contrast": dict(jitter=1.0, contrast=0.5),
    "saturation": dict(jitter=1.0, saturation=0.5),
    "hue": dict(jitter=1.0, hue=0.3),
    "grayscale": dict(grayscale=0.5),
    "blur": dict(blur=1.0, blur_sigma=(1.0, 20.0)),
    "noise": dict(noise=1.0, noise_std=0.2),
    "rotate": dict(rotate=30.0),
    "window": dict(window_shift=0.2, window_scale=0.3),
}


@pytest.mark.parametrize("name", sorted(OPERATIONS))
def test_each_example_and_view_has_its_own_draw(name):
    adapter = DATA["ct" if name == "window" else "simclr"]
    image = stored(adapter, n=12, same=True)
    views = np.asarray(make_views(image, adapter, Recipe(**OPERATIONS[name]), KEY, 2)).reshape(24, -1)
    distinct = len(np.unique(views.round(4), axis=0))
    assert distinct == (2 if name in ("hflip", "vflip", "grayscale") else 24)


def test_flips_and_grayscale_have_their_probability_and_form():
    adapter = contracts.photo(stored=(16, 16))
    image = stored(adapter, n=400, same=True)
    plain = np.asarray(center(image[:1], adapter))[0]
    for recipe, form in ((Recipe(hflip=0.3), plain[:, ::-1]), (Recipe(vflip=0.3), plain[::-1])):
        views = np.asarray(augment_image(image, adapter, recipe, KEY))
        done = [np.allclose(v, form, atol=1e-4) for v in views]
        assert all(d or np.allclose(v, plain, atol=1e-4) for d, v in zip(done, views))
        assert 0.2 < np.mean(done) < 0.4


def test_window_jitter_moves_and_scales_the_window():
    adapter = contracts.ct(stored=(16, 16))
    image = np.full((200, 16, 16, 1), 40, np.int16)
    image[:, 8:] = 90
    views = np.asarray(augment_image(image, adapter, Recipe(window_shift=0.1, window_scale=0.25), KEY))
    unit = views[:, [0, 15], 0, 0] * 0.25 + 0.5
    scale = (50 / 400) / (unit[:, 1] - unit[:, 0])  # two known values give the window back
    shift = (0.5 - unit[:, 0]) * scale
    assert 1 / 1.25 <= scale.min() < 0.84
    assert 1.2 < scale.max() <= 1.25 + 1e-4
    assert -0.1 - 1e-4 <= shift.min() < -0.09
    assert 0.09 < shift.max() <= 0.1 + 1e-4


def test_draws_follow_the_step_key_and_the_row_only():
    adapter, recipe = DATA["ct"], AUGMENTATIONS.build("ct")
    image = stored(adapter)
    views = make_views(image, adapter, recipe, KEY, 2)
    np.testing.assert_array_equal(make_views(image, adapter, recipe, KEY, 2), views)
    assert not np.allclose(make_views(image, adapter, recipe, jax.random.key(4), 2), views)
    np.testing.assert_allclose(make_views(image[:4], adapter, recipe, KEY, 2), views[:4], atol=1e-5)
    np.testing.assert_allclose(augment_image(image, adapter, recipe, KEY), views[:, 0], atol=1e-5)


@pytest.mark.parametrize("name", ["simclr", "ct", "chest_xray"])
def test_eight_devices_make_the_same_views_each_its_own(name):
    adapter, recipe = DATA[name], AUGMENTATIONS.build(name)
    image = jnp.asarray(stored(adapter))
    mesh = sharding.make_mesh(8)
    sharded = jax.device_put(image, sharding.batch_sharding(mesh))
    got = make_views(sharded, adapter, recipe, KEY, 2)
    np.testing.assert_allclose(got, make_views(image, adapter, recipe, KEY, 2), atol=2e-4)
    assert got.sharding.is_equivalent_to(sharding.batch_sharding(mesh), 5)
    compiled = make_views.lower(sharded, adapter, recipe, KEY, 2).compile().as_text()
    results = re.findall(r"= (.+?) (?:all-gather|all-to-all|collective-permute|all-reduce)(?:-start)?\(", compiled)
    moved = re.findall(r"\w+\[[\d,]*\]", " ".join(results))
    assert set(moved) == {"pred[]"}  # "does any example ask for it", and no pixels


def test_the_view_for_evaluation_is_the_whole_image():
    adapter = contracts.ct(windows=((40.0, 400.0), (-600.0, 1500.0), (400.0, 1800.0)))
    image = stored(adapter, n=3)
    got = center(image, adapter)
    unit = to_unit(image, adapter)
    want = jax.image.resize(unit, (3, 16, 16, 3), "linear", antialias=True)
    np.testing.assert_allclose(got, standardise(want, adapter), atol=1e-4)
    np.testing.assert_allclose(augment_image(image, adapter, Recipe(), KEY), got, atol=1e-5)


def test_recipes_can_be_overridden_and_are_hashable():
    recipe = AUGMENTATIONS.build("ct", dict(crop=[0.5, 1.0], blur=0.0))
    assert recipe.crop == (0.5, 1.0)
    assert recipe == dataclasses.replace(AUGMENTATIONS.build("ct"), crop=(0.5, 1.0), blur=0.0)
    assert hash(recipe) == hash(dataclasses.replace(recipe))


def test_what_the_data_can_not_have_is_refused():
    with pytest.raises(UserError, match="colours"):
        check(AUGMENTATIONS.build("simclr"), DATA["ct"])
    with pytest.raises(UserError, match="windows"):
        check(AUGMENTATIONS.build("ct"), DATA["simclr"])
    for bad in (dict(hflip=1.5), dict(crop=(0.0, 1.0)), dict(crop=(0.5, 0.2)), dict(crops=(0.5, 1.0))):
        with pytest.raises(UserError):
            AUGMENTATIONS.build("ct", bad)
