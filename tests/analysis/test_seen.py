"""Units that look at a known place: which are chosen, the images that they answer to, and what is drawn of them."""

from types import SimpleNamespace

import cv2
import flax.linen as nn
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import spearmanr

from radnet_jax import sharding
from radnet_jax.analysis import networks, pictures, seen
from radnet_jax.analysis.networks import Network
from radnet_jax.preprocessing import ModelInput, StoredPixels, make_adapter

SIDE, IMAGES = 16, 12
STORED = StoredPixels("photo", "none", (0, 255), (SIDE, SIDE), 1, "none", "uint8")
ADAPTER = make_adapter(STORED, ModelInput("photo", 1, (SIDE, SIDE), (), (0, 255), (0.5,), (0.25,)))


class _Weighs(nn.Module):
    @nn.compact
    def __call__(self, x):
        kernel = self.param("kernel", nn.initializers.normal(), (SIDE, SIDE, 3))
        return jnp.einsum("nhw,hwd->nd", x[..., 0], kernel)[:, None, None]


class Weighs(nn.Module):
    """A network of one block, whose units are weighted sums of the pixels."""

    @nn.compact
    def __call__(self, image, *, train):
        return {"pooled": _Weighs(name="block1")(image)[:, 0, 0]}


def network(kernel):
    return Network("weighs", "id", {"name": "weighs"}, Weighs(), {"block1": {"kernel": kernel}}, {}, ADAPTER)


def corner(*, down):
    out = np.zeros((SIDE, SIDE))
    out[SIDE // 2 * down :][: SIDE // 2, : SIDE // 2] = 1 / 64
    return out


@pytest.fixture(scope="module")
def images():
    """Two of each patient; the upper left corner is the brighter the later, the lower left the other way round."""
    out = np.full((IMAGES, SIDE, SIDE, 1), 128, np.uint8)
    out[:, : SIDE // 2, : SIDE // 2, 0] = (20 * np.arange(IMAGES))[:, None, None]
    out[:, SIDE // 2 :, : SIDE // 2, 0] = (20 * (IMAGES - 1 - np.arange(IMAGES)))[:, None, None]
    return [{"image": image} for image in out]


@pytest.fixture(scope="module")
def looked(images, tmp_path_factory):
    """Unit 0 looks up before and down after, unit 1 down in both, unit 2 nowhere."""
    before = np.stack([corner(down=0), corner(down=1), np.zeros((SIDE, SIDE))], axis=2).astype(np.float32)
    after = np.stack([corner(down=1), corner(down=1), np.zeros((SIDE, SIDE))], axis=2).astype(np.float32)
    noise = np.random.default_rng(0).standard_normal((SIDE, SIDE, 3)).astype(np.float32)
    nets = {"a": network(before), "b": network(after)}
    x = np.stack([(image["image"][..., 0] / 255 - 0.5) / 0.25 for image in images])
    last = {name: np.einsum("nhw,hwd->nd", x, kernel) for name, kernel in (("a", before), ("b", after))}
    down = np.arange(IMAGES)[::-1].astype(float)
    down[0] = np.nan
    read = {"down": {"strongest": 0.9, "unit": 1, "share": 0.3}, "noise": {"strongest": 0.99, "unit": 2, "share": 0.0}}
    folder = tmp_path_factory.mktemp("run")
    (folder / "checkpoints").mkdir()
    return seen.look(
        nets,
        dict.fromkeys(nets, network(noise)),
        images,
        np.arange(IMAGES),
        np.arange(IMAGES) // 2,
        last,
        {"down": down, "noise": np.ones(IMAGES)},
        {"a": read, "b": read},
        continued=True,
        run=str(folder),
        mesh=sharding.make_mesh(),
        images=True,
    )


def test_which_units_are_looked_at(looked):
    first, second = looked.record["units"]
    assert (first["unit"], first["of"], first["follows"]) == (1, "a", "down")
    assert first["r"] == pytest.approx({"a": 1, "b": 1})
    assert first["kept"] == pytest.approx(1)
    assert (second["unit"], second["of"], second["follows"]) == (0, "b", "")  # it changed; unit 2 is constant
    assert second["kept"] == pytest.approx(-1)
    assert looked.record["classes"] == []


def decoded(png):
    return cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_COLOR)[..., ::-1].astype(int)


def test_the_images_that_units_answer_to(looked):
    """Six patients of two images: the better one of each, from the best on; below from the worst on."""
    for name, most in (("a", [11, 9, 7, 5, 3, 1]), ("b", [0, 2, 4, 6, 8, 10])):
        strip = decoded(looked.strips[1][name])
        assert strip.shape == (2 * SIDE + 2, 6 * (SIDE + 2) - 2, 3)
        least = [0, 2, 4, 6, 8, 10] if name == "a" else [11, 9, 7, 5, 3, 1]
        for row, expected in enumerate((most, least)):
            found = strip[row * (SIDE + 2), :: SIDE + 2, 0]  # the uppermost left pixel of each tile
            assert found == pytest.approx(20 * np.array(expected), abs=1)


def test_the_maps_lie_where_a_unit_looks(looked):
    maps = looked.maps[1]  # of unit 0, in the image that it answers most to after
    assert list(maps) == ["a", "b", "random"]
    for name, down in (("a", 0), ("b", 1)):
        gradient = decoded(maps[name]["gradient"])[..., 0]
        assert (gradient == np.where(corner(down=down) > 0, 0, 255)).all()
    assert decoded(maps["b"]["image"])[0, 0, 0] == 0
    raises = decoded(maps["b"]["input_x_gradient"])[-1, 0]
    assert raises.tolist() == [213, 94, 0]  # bright, where the unit wants it
    lowers = decoded(maps["a"]["input_x_gradient"])[0, 0]
    assert lowers.tolist() == [0, 114, 178]
    like = looked.record["maps_like_random"]
    assert set(like) == {"a", "b"}
    assert abs(like["b"]["gradient"]) < 0.3


def test_one_image_of_each_patient():
    values, patients = np.array([1.0, 9, 8, 2, 0]), np.array(["p", "q", "q", "r", "p"])
    assert seen.extremes(values, patients, 2) == ([1, 3], [4, 3])
    assert seen.extremes(values, patients, 9) == ([1, 3, 0], [4, 3, 2])


def test_units_of_networks_that_have_nothing_to_do_with_each_other():
    """Each network's own, a number of both twice; nothing changed, since nothing is the same."""
    draws = np.random.default_rng(0)
    last = {"a": draws.standard_normal((20, 4)), "b": draws.standard_normal((20, 4))}
    found = {p: {"strongest": s, "unit": u, "share": 0.5} for p, s, u in (("x", 0.5, 1), ("y", -0.9, 1), ("z", 0.1, 3))}
    chosen = seen.choose({"a": found, "b": found}, last, continued=False)
    assert chosen == [seen.Unit(n, of, p) for of in "ab" for n, p in ((1, "y"), (3, "z"))]
    related = seen.choose({"a": found, "b": found}, last, continued=True)
    kept = [spearmanr(last["a"][:, j], last["b"][:, j]).statistic for j in range(4)]
    rest = sorted((j for j in (0, 2)), key=lambda j: kept[j])
    assert related == [seen.Unit(1, "a", "y"), seen.Unit(3, "a", "z"), *(seen.Unit(j, "b", "") for j in rest)]


def test_whether_a_run_began_with_a_network(monkeypatch, tmp_path):
    (tmp_path / "checkpoints").mkdir()
    monkeypatch.setattr(networks.starts, "find_start", lambda path: SimpleNamespace(folder=path, id="an id"))
    meta = {}
    monkeypatch.setattr(networks, "load_meta", lambda folder: meta)
    assert not networks.began_with(str(tmp_path), str(tmp_path))  # at random
    meta["checkpoint"] = "id of another"
    assert not networks.began_with(str(tmp_path), str(tmp_path))
    meta["checkpoint"] = "an id"
    assert networks.began_with(str(tmp_path), str(tmp_path))


def test_a_large_picture_is_made_smaller():
    values = np.zeros((224, 112))
    values[:112] = -1
    drawn = pictures.draw(values, signed=True)
    assert drawn[0, 0].tolist() == [0, 114, 178]
    assert drawn[-1, 0].tolist() == [255, 255, 255]
    assert pictures._smaller(drawn).shape == (112, 56, 3)
    assert (pictures.draw(np.zeros((4, 4)), signed=False) == 255).all()
