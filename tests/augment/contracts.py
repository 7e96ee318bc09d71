"""Small contracts for the tests of this folder."""

from radnet_jax.preprocessing import ModelInput, StoredPixels, make_adapter


def ct(stored=(20, 20), size=(16, 16), windows=((40.0, 400.0),)):
    channels = 3 if len(windows) == 1 else len(windows)
    return make_adapter(
        StoredPixels("CT", "HU", (-1024.0, 3071.0), stored, 1, "pad_area", "int16"),
        ModelInput("CT", channels, size, windows, None, (0.5,) * channels, (0.25,) * channels),
    )


def photo(stored=(20, 20), size=(16, 16), modality="photo", channels=3):
    return make_adapter(
        StoredPixels(modality, "none", (0.0, 255.0), stored, channels, "pad_area", "uint8"),
        ModelInput(modality, 3, size, (), (0.0, 255.0), (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)),
    )
