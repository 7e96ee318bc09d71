"""Recipes from stored pixels to the model: the contract, independent draws, the same draws on any devices."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from radnet_jax import sharding
from radnet_jax.augment import AUGMENTATIONS, forms
from radnet_jax.augment.recipes import Recipe, check
from radnet_jax.augment.views import augment_image, center, make_local_views, make_views, ten_crops
from radnet_jax.errors import UserError
from radnet_jax.preprocessing import standardise, to_unit
from radnet_jax.step import prepare
from tests.augment import contracts

KEY = jax.random.key(3)
RNG = np.random.default_rng(0)
PHOTO, XRAY, CT = contracts.photo(), contracts.photo(modality="XR", channels=1), contracts.ct()
DATA = {
    "none": CT,
    "ct": CT,
    "finetune_ct": CT,
    "radnet_published_ct": CT,
    "chest_xray": XRAY,
    "finetune_chest_xray": XRAY,
    "finetune_segmentation": XRAY,
    "radnet_published_finetune_classification": XRAY,
    "radnet_published_finetune_segmentation": XRAY,
}


def stored(adapter, n=16, same=False):
    s = adapter.stored
    low, high = (-200, 300) if s.unit == "HU" else (0, 255)
    image = RNG.integers(low, high, (n, *s.size, s.channels)).astype(s.dtype)
    return np.repeat(image[:1], n, 0) if same else image


@pytest.mark.parametrize("name", AUGMENTATIONS.names())
def test_recipes_give_standardised_views_in_range(name):
    adapter, recipe = DATA.get(name, PHOTO), AUGMENTATIONS.build(name)
    check(recipe, adapter)
    views = np.asarray(make_views(stored(adapter), adapter, recipe, KEY, 2))
    assert views.shape == (16, 2, 16, 16, 3)
    assert views.dtype == np.float32
    unit = views * adapter.model_input.std + adapter.model_input.mean
    assert unit.min() >= -1e-5
    assert unit.max() <= 1 + 1e-5
    assert unit.std() > 0.04
    equal = [np.allclose(views[i, 0], views[i, 1]) for i in range(16)]
    if "published_finetune" in name:  # half of these views are left as they are
        assert not all(equal)
    else:
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
    "gamma": dict(gamma=1.0, gamma_strength=0.5),
    "sharpness": dict(sharpness=0.5),
    "blur": dict(blur=1.0, blur_sigma=(8.0, 40.0)),
    "solarize": dict(solarize=0.5),
    "rand_augment": dict(rand_augment=8, rand_magnitude=5.0, rand_spread=1.0),
    "noise": dict(noise=1.0, noise_std=0.2),
    "rician": dict(rician=1.0, rician_std=0.2),
    "erase": dict(erase=1.0, erase_area=(0.05, 0.6), erase_ratio=(0.3, 3.0)),
    "rotate": dict(rotate=30.0),
    "zoom": dict(zoom=0.5),
    "shear": dict(shear=0.3),
    "translate": dict(translate=0.3),
    "window": dict(window_shift=0.2, window_scale=0.3),
}
FIELDS_OF_NO_OPERATION = {"affine", "resized_crop", "jitter", "local_views", "groups", "dtype"}


def test_every_operation_is_tested():
    tested = {name for fields in OPERATIONS.values() for name in fields} | FIELDS_OF_NO_OPERATION
    described = {f.name for f in dataclasses.fields(Recipe)}
    details = {
        "crop_ratio",
        "sharpness_factor",
        "blur_radius",
        "local_size",
        "local_crop",
        "tile_crop",
    }  # the tiles: test_tiles.py
    assert described - details == tested


@pytest.mark.parametrize("name", sorted(OPERATIONS))
def test_each_example_and_view_has_its_own_draw(name):
    adapter = CT if name == "window" else PHOTO
    image = stored(adapter, n=12, same=True)
    views = np.asarray(make_views(image, adapter, Recipe(**OPERATIONS[name]), KEY, 2)).reshape(24, -1)
    distinct = len(np.unique(views.round(4), axis=0))
    assert distinct == (2 if name in ("hflip", "vflip", "grayscale", "sharpness", "solarize") else 24)


@pytest.mark.parametrize("name", sorted(OPERATIONS))
def test_rows_by_themselves_and_in_a_batch_give_the_same_views(name):
    adapter = CT if name == "window" else PHOTO
    image, recipe = stored(adapter, n=8), Recipe(**(dict(hflip=0.5) | OPERATIONS[name]))
    each = make_views(image, adapter, recipe, KEY, 2, form="each")
    np.testing.assert_allclose(make_views(image, adapter, recipe, KEY, 2, form="batch"), each, atol=2e-4)


@pytest.mark.parametrize("name", ["simclr", "ct", "chest_xray"])
def test_what_a_gpu_would_compute_is_the_same(name, monkeypatch):
    adapter, recipe = DATA.get(name, PHOTO), AUGMENTATIONS.build(name)
    image = stored(adapter, n=8)
    want = make_views(image, adapter, recipe, KEY, 2)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert (forms.choose("rows"), forms.choose("resample")) == ("batch", "matrix")
    traced_anew = dataclasses.replace(recipe, sharpness_factor=1.5)  # which no recipe here uses
    np.testing.assert_allclose(make_views(image, adapter, traced_anew, KEY, 2), want, atol=5e-4)


@pytest.mark.parametrize("form", ["each", "batch"])
def test_flips_have_their_probability_and_form(form):
    adapter = contracts.photo(stored=(16, 16))
    image = stored(adapter, n=400, same=True)
    plain = np.asarray(center(image[:1], adapter))[0]
    for recipe, flipped in ((Recipe(hflip=0.3), plain[:, ::-1]), (Recipe(vflip=0.3), plain[::-1])):
        views = np.asarray(augment_image(image, adapter, recipe, KEY, form=form)[0])
        done = [np.allclose(v, flipped, atol=1e-4) for v in views]
        assert all(d or np.allclose(v, plain, atol=1e-4) for d, v in zip(done, views))
        assert 0.2 < np.mean(done) < 0.4


def test_probabilities_differ_by_view():
    adapter = contracts.photo(stored=(16, 16))
    image, plain = stored(adapter, n=200), Recipe()
    views = np.asarray(make_views(image, adapter, Recipe(solarize=(0.0, 0.3, 1.0)), KEY, 4))
    unchanged = np.asarray(make_views(image, adapter, plain, KEY, 4))
    done = (np.abs(views - unchanged).max((2, 3, 4)) > 1e-3).mean(0)
    assert done[0] == 0
    assert 0.2 < done[1] < 0.4
    assert (done[2:] == 1).all()


def test_byol_blurs_the_first_view_and_solarizes_the_second():
    recipe = AUGMENTATIONS.build(
        "byol", dict(crop=(1.0, 1.0), hflip=0.0, jitter=0.0, grayscale=0.0, blur_sigma=(9.0, 10.0))
    )
    adapter = contracts.photo(stored=(16, 16))
    image = stored(adapter, n=100)
    views = np.asarray(make_views(image, adapter, recipe, KEY, 2))
    plain = np.asarray(center(image, adapter))[:, None]
    done = (np.abs(views - plain).max((2, 3, 4)) > 1e-3).mean(0)
    assert done[0] == 1
    assert 0.15 < done[1] < 0.45  # 28 %: either of the two


def test_window_jitter_moves_and_scales_the_window():
    adapter = contracts.ct(stored=(16, 16))
    image = np.full((200, 16, 16, 1), 40, np.int16)
    image[:, 8:] = 90
    views = np.asarray(augment_image(image, adapter, Recipe(window_shift=0.1, window_scale=0.25), KEY)[0])
    unit = views[:, [0, 15], 0, 0] * 0.25 + 0.5
    scale = (50 / 400) / (unit[:, 1] - unit[:, 0])  # two known values give the window back
    shift = (0.5 - unit[:, 0]) * scale
    assert 1 / 1.25 <= scale.min() < 0.84
    assert 1.2 < scale.max() <= 1.25 + 1e-4
    assert -0.1 - 1e-4 <= shift.min() < -0.09
    assert 0.09 < shift.max() <= 0.1 + 1e-4


def test_what_is_turned_into_the_image_is_as_dark_as_its_air():
    """A corner that rotation left without pixels would tell two views apart where the window moved."""
    recipe = Recipe(rotate=45.0, window_shift=0.3)
    image = np.full((40, 20, 20, 1), -1024, np.int16)
    wide = contracts.ct(windows=((-600.0, 1500.0),))
    views = np.asarray(augment_image(image, wide, recipe, KEY)[0])
    np.testing.assert_allclose(views, np.broadcast_to(views[:, :1, :1], views.shape), atol=1e-5)
    assert np.ptp(views[:, 0, 0, 0]) > 0.5


def test_draws_follow_the_step_key_and_the_row_only():
    recipe = AUGMENTATIONS.build("ct")
    image = stored(CT)
    views = make_views(image, CT, recipe, KEY, 2)
    np.testing.assert_array_equal(make_views(image, CT, recipe, KEY, 2), views)
    assert not np.allclose(make_views(image, CT, recipe, jax.random.key(4), 2), views)
    np.testing.assert_allclose(make_views(image[:4], CT, recipe, KEY, 2), views[:4], atol=1e-5)
    np.testing.assert_allclose(augment_image(image, CT, recipe, KEY)[0], views[:, 0], atol=1e-5)


@pytest.mark.parametrize("groups", [1, 4])
def test_groups_share_one_draw(groups):
    recipe = AUGMENTATIONS.build("radnet_published", dict(groups=groups))
    views = np.asarray(make_views(stored(PHOTO, n=16, same=True), PHOTO, recipe, KEY, 2))
    for v in range(2):
        assert len(np.unique(views[:, v].reshape(16, -1).round(4), axis=0)) == groups
    size = 16 // groups
    np.testing.assert_allclose(views[:size], np.broadcast_to(views[:1], views[:size].shape), atol=1e-5)
    assert not np.allclose(views[0, 0], views[0, 1])


def test_groups_that_do_not_divide_the_batch_are_refused():
    with pytest.raises(UserError, match="16 rows in 5 groups"):
        make_views(stored(PHOTO), PHOTO, Recipe(groups=5), KEY, 2)


# Every operation is in one of them.
EVERYTHING = {
    "simclr": AUGMENTATIONS.build("simclr", dict(solarize=0.5, sharpness=0.5, erase=0.5, vflip=0.5)),
    "ct": AUGMENTATIONS.build("ct", dict(shear=0.1, translate=0.1, zoom=0.1, gamma=0.5, gamma_strength=0.2)),
    "chest_xray": AUGMENTATIONS.build("chest_xray", dict(rician=0.5, rician_std=0.1, groups=4)),
}


@pytest.mark.parametrize("name", sorted(EVERYTHING))
@pytest.mark.parametrize("form", ["each", "batch"])
def test_eight_devices_make_the_same_views_and_send_nothing(name, form):
    adapter, recipe = DATA.get(name, PHOTO), EVERYTHING[name]
    image = jnp.asarray(stored(adapter))
    mesh = sharding.make_mesh(8)
    sharded = jax.device_put(image, sharding.batch_sharding(mesh))
    stage = jax.jit(lambda x: make_views(x, adapter, recipe, KEY, 2, mesh=mesh, form=form))
    got = stage(sharded)
    np.testing.assert_allclose(got, make_views(image, adapter, recipe, KEY, 2), atol=2e-4)
    assert got.sharding.is_equivalent_to(sharding.batch_sharding(mesh), 5)
    compiled = stage.lower(sharded).compile().as_text()
    assert not re.findall(r"(?:all-gather|all-to-all|collective-permute|all-reduce|reduce-scatter)\S*\(", compiled)


def test_eight_devices_make_the_same_local_views_and_masks():
    recipe = AUGMENTATIONS.build("swav_multicrop", dict(rotate=10.0))
    image, mask = stored(PHOTO), RNG.integers(0, 3, (16, 20, 20)).astype(np.uint8)
    mesh = sharding.make_mesh(8)
    put = lambda x: jax.device_put(x, sharding.batch_sharding(mesh))  # noqa: E731
    got = make_local_views(put(image), PHOTO, recipe, KEY, 2, mesh=mesh)
    np.testing.assert_allclose(got, make_local_views(image, PHOTO, recipe, KEY, 2), atol=2e-4)
    got = augment_image(put(image), PHOTO, recipe, KEY, put(mask), mesh=mesh)
    np.testing.assert_array_equal(got[1], augment_image(image, PHOTO, recipe, KEY, mask)[1])


def test_local_views_are_small_close_ups_with_draws_of_their_own():
    adapter = contracts.photo(stored=(112, 112), size=(112, 112))
    ramp = np.broadcast_to(np.arange(112, dtype=np.uint8)[:, None, None], (112, 112, 3))
    image = np.repeat(ramp[None], 8, 0)
    recipe = Recipe(crop=(1.0, 1.0), local_views=6, local_size=48 / 112, local_crop=(0.05, 0.14))
    views = np.asarray(make_local_views(image, adapter, recipe, KEY, 2))
    assert views.shape == (8, 6, 48, 48, 3)
    unit = views * adapter.model_input.std + adapter.model_input.mean
    height = (unit[:, :, -1, 0, 0] - unit[:, :, 0, 0, 0]) * 255 * 48 / 47 / 112  # of the box, from the slope
    assert 0.9 * np.sqrt(0.05 * 3 / 4) < height.min()
    assert height.max() < 1.1 * np.sqrt(0.14 * 4 / 3)
    assert len(np.unique(height.round(5))) == 48
    crop = Recipe(crop=(0.05, 0.14), local_views=6, local_size=1.0, local_crop=(0.05, 0.14))
    globals_ = np.asarray(make_views(image, adapter, crop, KEY, 2))
    locals_ = np.asarray(make_local_views(image, adapter, crop, KEY, 2))
    np.testing.assert_allclose(locals_, make_views(image, adapter, crop, KEY, 8)[:, 2:], atol=1e-4)
    assert not any(np.allclose(locals_[:, i], globals_[:, 0], atol=1e-3) for i in range(6))


def test_a_recipe_without_local_views_is_refused():
    with pytest.raises(UserError, match="swav_multicrop"):
        make_local_views(stored(PHOTO), PHOTO, AUGMENTATIONS.build("simclr"), KEY, 2)


def test_a_mask_moves_with_its_image_and_keeps_its_values():
    """The image shows the mask; after all that moves pixels and changes values they still fit."""
    adapter = contracts.photo(stored=(40, 40), size=(32, 32), modality="XR", channels=1)
    mask = np.zeros((24, 40, 40), np.uint8)
    for i in range(24):
        top, left = RNG.integers(5, 20, 2)
        mask[i, top : top + 14, left : left + 11] = 3
    image = np.where(mask[..., None] > 0, 230, 80).astype(np.uint8)
    recipe = AUGMENTATIONS.build("finetune_segmentation", dict(crop=(0.5, 1.0), vflip=0.5, shear=0.1, blur=0.0))
    views, moved = augment_image(image, adapter, recipe, KEY, mask)
    moved = np.asarray(moved)
    assert moved.dtype == np.uint8
    assert set(np.unique(moved)) == {0, 3, 255}
    unit = np.asarray(views)[..., 0] * 0.2 + 0.4
    for v, m in zip(unit, moved):
        bright, dark, outside = v[m == 3], v[m == 0], v[m == 255]
        assert np.median(bright) > np.median(dark) + 0.2
        middle = (np.median(bright) + np.median(dark)) / 2
        assert ((v > middle) == (m == 3))[m != 255].mean() > 0.94  # but for the edge's pixels and the noise
        assert len(outside) == 0 or np.median(outside) < np.median(dark)
    _, unmoved = augment_image(image, adapter, Recipe(), KEY, mask)
    nearest = (np.arange(32) * 1.25 + 0.625).astype(int)
    np.testing.assert_array_equal(unmoved, mask[:, nearest][:, :, nearest])


def test_the_view_for_evaluation_is_the_whole_image():
    adapter = contracts.ct(windows=((40.0, 400.0), (-600.0, 1500.0), (400.0, 1800.0)))
    image = stored(adapter, n=3)
    got = center(image, adapter)
    want = jax.image.resize(to_unit(image, adapter), (3, 16, 16, 3), "linear", antialias=True)
    np.testing.assert_allclose(got, standardise(want, adapter), atol=1e-4)
    np.testing.assert_allclose(augment_image(image, adapter, Recipe(), KEY)[0], got, atol=1e-5)


def test_ten_crops_for_evaluation():
    adapter = contracts.photo(stored=(64, 64), size=(56, 56))
    image = stored(adapter, n=2)
    crops = np.asarray(ten_crops(image, adapter))
    assert crops.shape == (2, 10, 56, 56, 3)
    whole = np.asarray(standardise(to_unit(image, adapter), adapter))  # 56 * 256 / 224 = 64: not resized
    np.testing.assert_allclose(crops[:, 0], whole[:, :56, :56], atol=1e-5)
    np.testing.assert_allclose(crops[:, 4], whole[:, 4:60, 4:60], atol=1e-5)
    np.testing.assert_allclose(crops[:, 5:], crops[:, :5, :, ::-1], atol=1e-6)


def test_bfloat16_views_are_close_to_float32():
    image = stored(XRAY, n=4)
    recipe = AUGMENTATIONS.build("chest_xray", dict(noise=0.0))
    want = np.asarray(make_views(image, XRAY, recipe, KEY, 2))
    got = make_views(image, XRAY, dataclasses.replace(recipe, dtype="bfloat16"), KEY, 2)
    assert got.dtype == jnp.bfloat16
    np.testing.assert_allclose(got.astype(np.float32), want, atol=0.1)  # of values with a range of 5


def test_an_unknown_form_is_refused():
    with pytest.raises(UserError, match='did you mean "matrix"'):
        forms.choose("resample", "matrices")


def test_the_stage_before_the_step_makes_what_an_objective_requires():
    recipe = AUGMENTATIONS.build("swav_multicrop")
    batch = {"image": stored(PHOTO), "index": np.arange(16), "segmentation": np.ones((16, 20, 20), np.uint8)}
    requires = frozenset({"views", "local_views", "image", "segmentation", "index"})
    out = prepare(batch, 0, 0, requires=requires, adapter=PHOTO, recipe=recipe)
    shapes = {k: x.shape for k, x in out.items()}
    assert shapes["views"] == (16, 2, 16, 16, 3)
    assert shapes["local_views"] == (16, 6, 7, 7, 3)
    assert shapes["image"] == (16, 16, 16, 3)
    assert shapes["segmentation"] == (16, 16, 16)
    np.testing.assert_array_equal(out["index"], np.arange(16))
    np.testing.assert_allclose(out["image"], out["views"][:, 0], atol=1e-5)
    assert set(prepare(batch, 0, 0, requires=frozenset({"views"}), adapter=PHOTO, recipe=recipe)) == {"views"}
