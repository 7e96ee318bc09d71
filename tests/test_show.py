"""The picture of a recipe, and what its command line refuses."""

import cv2
import numpy as np
import pytest

from radnet_jax import show
from radnet_jax.errors import UserError


def test_a_row_for_each_image_and_a_column_for_each_view(ct_dataset, tmp_path):
    out = tmp_path / "views.png"
    arguments = [f"--data={ct_dataset}", "--recipe=ct", f"--out={out}", "--images=3", "--views=2", "--window=40,400"]
    assert show.main(arguments) == 0
    picture = cv2.imread(str(out))
    assert picture.shape == (3 * 28 + 4, 3 * 28 + 4, 3)  # 24 px and a gap of 4
    tiles = [picture[4 + 28 * i : 28 * (i + 1), 4 + 28 * j : 28 * (j + 1)] for i in range(3) for j in range(3)]
    assert all(tile.std() > 10 for tile in tiles)
    assert len({tile.tobytes() for tile in tiles}) == 9
    show.main([*arguments, "--set=local_views=2", "--set=local_size=0.5", "--set=blur=0,1"])
    assert cv2.imread(str(out)).shape == (3 * 28 + 4, 3 * 28 + 2 * 16 + 4, 3)


def test_masks_are_drawn_as_outlines():
    adapter = show._adapter(_Split(), 16, (0.0, 1.0))
    mask = np.zeros((1, 16, 16), np.uint8)
    mask[0, 4:10, 5:12] = 2
    mask[0, 15] = 255
    (tile,) = show._tiles(np.zeros((1, 16, 16, 3)), adapter, mask)
    assert tuple(tile[4, 5]) == show._COLOURS[1]
    assert tuple(tile[15, 3]) == (255, 255, 255)
    assert tuple(tile[7, 8]) == tuple(tile[1, 1]) == (128, 128, 128)  # 0 is the mean: half-way to white


class _Split:
    from radnet_jax.preprocessing import StoredPixels

    card = type("Card", (), {"stored": StoredPixels("XR", "none", (0.0, 255.0), (20, 20), 1, "pad_area", "uint8")})


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("--out=views.jpg", ".png"),
        ("--out=nowhere/views.png", "folder that exists"),
        ("--recipe=simclr", "changes colours"),
        ("--recipe=ctt", 'did you mean "ct"'),
        ("--set=blur", "field=value"),
        ("--set=blurr=1", 'did you mean "blur"'),
        ("--images=0", "at least 1"),
        ("--size=64", "smaller"),
        ("--window=40", "centre and width"),
        ("--split=nowhere", "no split"),
        ("--data=nowhere", "no dataset"),
    ],
)
def test_what_can_not_be_shown_is_one_line(argument, message, ct_dataset, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    arguments = [f"--data={ct_dataset}", "--recipe=ct", "--out=views.png", argument]
    assert show.main(arguments) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    with pytest.raises(UserError):
        show.run(arguments)
