"""Area averages against their definition in exact arithmetic, and against OpenCV."""

from fractions import Fraction

import cv2
import numpy as np
import pytest

from data_prep.ingest.image import _averages_exactly, fit, resize


def _by_definition(image, height, width):
    """Each new pixel is the integral of the image over its area, divided by the area; in fractions."""

    def weights(length, reduced):
        step = Fraction(length, reduced)
        return [
            [max(Fraction(0), min(Fraction(i + 1), (j + 1) * step) - max(Fraction(i), j * step)) for i in range(length)]
            for j in range(reduced)
        ]

    rows, columns = np.array(weights(image.shape[0], height)), np.array(weights(image.shape[1], width))
    area = Fraction(image.shape[0], height) * Fraction(image.shape[1], width)
    return (rows @ image.astype(object) @ columns.T) / area


@pytest.mark.parametrize(
    "shape", [(32, 32, 14, 14), (30, 20, 12, 16), (24, 16, 8, 8), (20, 20, 20, 5), (24, 24, 9, 16)]
)
@pytest.mark.parametrize(
    ("low", "high", "dtype"), [(-1024, 3072, np.int16), (0, 256, np.uint8), (-32768, -1, np.int16)]
)
def test_area_averages_by_their_definition(shape, low, high, dtype):
    rows, columns, height, width = shape
    image = np.random.default_rng(0).integers(low, high, (rows, columns)).astype(dtype)
    exact = _by_definition(image, height, width)
    assert _averages_exactly(image[..., None], (height, width))
    got = resize(image[..., None], (height, width))
    assert got.dtype == dtype
    # a value within 2^-10 of a half may go either way: float32 holds no more of a quotient
    assert max(abs(Fraction(int(g)) - e) for g, e in zip(got.ravel(), exact.ravel())) <= Fraction(1, 2) + Fraction(
        1, 1024
    )


@pytest.mark.parametrize(("side", "reduced"), [(512, 224), (512, 72), (512, 256), (500, 224), (96, 72), (513, 224)])
def test_the_same_as_opencv(side, reduced):
    image = np.random.default_rng(0).integers(-1024, 3072, (side, side, 1)).astype(np.int16)
    expected = cv2.resize(image.astype(np.float32), (reduced, reduced), interpolation=cv2.INTER_AREA)
    np.testing.assert_array_equal(resize(image, (reduced, reduced))[..., 0], np.rint(expected))


def test_what_float32_does_not_hold_exactly_goes_another_way():
    image = np.full((512, 512, 1), 30_000, np.int16)
    assert not _averages_exactly(image, (72, 72))  # 64 * 64 * 30,000 > 2^24
    assert (resize(image, (72, 72)) == 30_000).all()
    assert not _averages_exactly(image, (600, 600))
    assert not _averages_exactly(image, (223, 223))  # one block


def test_a_square_image_is_not_padded():
    image = np.arange(16, dtype=np.int16).reshape(4, 4, 1)
    np.testing.assert_array_equal(fit(image, (4, 4), "pad_area", -1024), image)
    assert fit(image[:2], (4, 4), "pad_area", -1024)[[0, 3]].max() == -1024
