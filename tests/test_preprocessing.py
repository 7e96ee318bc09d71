import dataclasses
import json

import jax.numpy as jnp
import numpy as np
import pytest

from radnet_jax.errors import UserError
from radnet_jax.preprocessing import ModelInput, StoredPixels, make_adapter, standardise, to_unit

CT = StoredPixels("CT", "HU", (-1024.0, 3071.0), (8, 8), 1, "pad_area", "int16")
PHOTO = StoredPixels("photo", "none", (0.0, 255.0), (8, 8), 3, "stretch_area", "uint8")
CT_INPUT = ModelInput("CT", 3, (8, 8), ((40.0, 400.0),), None, (0.3, 0.4, 0.5), (0.2, 0.25, 0.5))
PHOTO_INPUT = ModelInput("photo", 3, (8, 8), (), (0.0, 255.0), (0.5,) * 3, (0.5,) * 3)


@pytest.mark.parametrize("value", [CT, PHOTO, CT_INPUT, PHOTO_INPUT])
def test_round_trip_through_json(value):
    assert type(value).from_json(json.loads(json.dumps(value.to_json()))) == value


@pytest.mark.parametrize("asarray", [np.asarray, jnp.asarray])
def test_window_and_standardisation_follow_the_formula(asarray):
    hu = np.array([-1024, -160, -60, 40, 140, 240, 3000], np.int16).reshape(1, 1, -1, 1)
    adapter = make_adapter(CT, CT_INPUT)
    unit = to_unit(asarray(hu), adapter)
    np.testing.assert_allclose(np.asarray(unit).ravel(), [0, 0, 0.25, 0.5, 0.75, 1, 1], atol=1e-6)
    out = np.asarray(standardise(unit, adapter))
    assert out.shape == (1, 1, 7, 3)
    np.testing.assert_allclose(out[0, 0, 3], (0.5 - np.array([0.3, 0.4, 0.5])) / [0.2, 0.25, 0.5], rtol=1e-5)


def test_several_windows_are_channels():
    model_input = dataclasses.replace(CT_INPUT, windows=((0.0, 100.0), (0.0, 1000.0), (-500.0, 1000.0)))
    unit = to_unit(np.full((1, 1, 1, 1), 25, np.int16), make_adapter(CT, model_input))
    np.testing.assert_allclose(unit.ravel(), [0.75, 0.525, 1.0], atol=1e-6)


def test_an_undeclared_crossing_names_both_sides():
    with pytest.raises(UserError, match=r"undeclared crossing.*CT.*photo"):
        make_adapter(CT, PHOTO_INPUT)


def test_a_declared_crossing_is_recorded():
    adapter = make_adapter(CT, PHOTO_INPUT, {"windows": [[40, 400]], "channels": "repeat"})
    assert adapter.crossing
    assert adapter.windows == ((40, 400),)
    unit = to_unit(np.full((1, 2, 2, 1), 40, np.int16), adapter)
    np.testing.assert_allclose(standardise(unit, adapter), np.zeros((1, 2, 2, 3)), atol=1e-6)


@pytest.mark.parametrize(
    ("stored", "model_input", "declared", "message"),
    [
        (CT, PHOTO_INPUT, {"windows": (), "channels": "repeat"}, "HU values need a window"),
        (PHOTO, CT_INPUT, {"windows": ((0, 1),), "channels": "mean"}, "needs HU values"),
        (CT, PHOTO_INPUT, {"windows": ((0, 1),), "channels": "keep"}, "channels do not fit"),
        (CT, PHOTO_INPUT, {"channels": "repeat"}, "two fields, windows and channels; got channels"),
        (PHOTO, dataclasses.replace(PHOTO_INPUT, size=(16, 16)), None, "smaller than the model's input"),
        (dataclasses.replace(PHOTO, value_range=(0.0, 1.0)), PHOTO_INPUT, None, "another value range"),
    ],
)
def test_impossible_crossings_are_refused(stored, model_input, declared, message):
    with pytest.raises(UserError, match=message):
        make_adapter(stored, model_input, declared)


def test_unknown_words_are_refused():
    with pytest.raises(UserError, match="unknown modality"):
        dataclasses.replace(CT, modality="XRAY")


@pytest.mark.parametrize(
    "changes", [dict(size=(0, 4)), dict(size=(4,)), dict(size=(4.5, 4)), dict(std=(0.2, 0.0, 0.2))]
)
def test_a_model_input_of_no_size_or_spread_is_refused(changes):
    with pytest.raises(UserError, match=f"model input {next(iter(changes))}"):
        dataclasses.replace(PHOTO_INPUT, **changes)


def test_an_image_by_itself_goes_from_its_minimum_to_its_maximum():
    stored = StoredPixels("CT", "HU", (-1024.0, 3071.0), (4, 4), 1, "pad_area", "int16")
    model_input = ModelInput("CT", 3, (4, 4), (), "image", (0.0,) * 3, (1.0,) * 3)
    adapter = make_adapter(stored, model_input)
    images = np.random.default_rng(0).integers(-1000, 2000, (3, 4, 4, 1)).astype(np.int16)
    images[2] = 7  # constant: black, not a division by zero
    for namespace in (np, jnp):
        unit = np.asarray(to_unit(namespace.asarray(images), adapter))
        flat = images.reshape(3, -1).astype(float)
        low, high = flat.min(1), flat.max(1)
        want = (flat - low[:, None]) / np.maximum(high - low, 1e-6)[:, None]
        np.testing.assert_allclose(unit.reshape(3, -1), want, atol=1e-6)
    assert ModelInput.from_json(json.loads(json.dumps(model_input.to_json()))) == model_input
    with pytest.raises(UserError, match="value range"):
        ModelInput("CT", 3, (4, 4), (), "slice", (0.0,) * 3, (1.0,) * 3)
