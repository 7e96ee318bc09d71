"""Properties of images made by hand, and what can be read of them."""

from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest
from scipy.stats import false_discovery_control, spearmanr
from sklearn.linear_model import Ridge

from radnet_jax.analysis import decoding, properties
from radnet_jax.data.dataset import open_split


def test_shares_of_tissue():
    image = np.full((10, 10, 1), -1000, np.int16)
    image[2:8, 2:8] = 40  # 36 pixels of body
    image[3, 3:7] = 800
    image[4, 3:5] = 200
    found = properties.of_image(image, unit="HU")
    assert found["air_share"] == pytest.approx(0.64)
    assert found["body_share"] == pytest.approx(0.36)
    assert found["bone_share"] == pytest.approx(0.04)
    assert found["enhanced_share"] == pytest.approx(0.02)
    assert found["soft_tissue_share"] == pytest.approx(0.30)
    assert found["mean"] == pytest.approx((30 * 40 + 4 * 800 + 2 * 200) / 36)
    assert np.isnan(properties.of_image(np.full((8, 8, 1), -1000, np.int16), unit="HU")["mean"])


def stripes(period, *, across=False):
    wave = np.tile(np.cos(2 * np.pi * np.arange(32) / period), (32, 1))
    return (100 + 50 * (wave if across else wave.T))[..., None]


def test_frequencies_and_orientation():
    fine, coarse = (properties.of_image(stripes(p), unit="none") for p in (4, 16))
    assert fine["high_frequencies"] == pytest.approx(1)
    assert coarse["high_frequencies"] == pytest.approx(0, abs=1e-12)
    assert fine["sharpness"] > coarse["sharpness"] + 1
    # The Laplacian of cos(2 pi i / 4) along one axis: 2 - 2 cos(pi / 2) = 2 times it, so squared 4 times its variance.
    assert fine["sharpness"] == pytest.approx(np.log10(4), abs=0.02)
    assert coarse["edges_along"] == pytest.approx(1)
    assert properties.of_image(stripes(16, across=True), unit="none")["edges_along"] == pytest.approx(-1)
    assert coarse["oriented"] == pytest.approx(1)
    noise = np.random.default_rng(0).uniform(0, 255, (64, 64, 3))
    assert properties.of_image(noise, unit="none")["oriented"] < 0.1


def test_a_scaled_image_is_as_sharp():
    image = np.random.default_rng(0).uniform(0, 100, (32, 32, 1))
    one, other = (properties.of_image(x, unit="none") for x in (image, 2 * image + 7))
    for name in ("sharpness", "high_frequencies", "edges_along", "oriented"):
        assert one[name] == pytest.approx(other[name])


def test_of_a_dataset(ct_dataset):
    split = open_split(ct_dataset, "test")
    rows = np.arange(len(split))
    found = properties.of_split(split, rows)
    manifest = split.manifest().to_pylist()
    for name in split.card.labels:
        assert found[f"label {name}"].tolist() == [float(r["label"] == split.card.labels.index(name)) for r in manifest]
    for row, position in zip(manifest, found["position"]):
        numbers = sorted(r["slice"] for r in manifest if r["series"] == row["series"])
        assert position == pytest.approx(numbers.index(row["slice"]) / (len(numbers) - 1))
    known = properties.usable(found | {"nothing": 0 * found["mean"]}, least=10)
    assert "nothing" not in known
    assert "mean" in known


def test_place_in_the_scan():
    """By the order of the slices, whatever their numbers and the order of the records; not known of a single slice."""
    series = ["x", "x", "x", "one", "lost", "lost", None]
    table = pa.table({"series": series, "slice": [30, 10, 11, 5, 3, None, None]})
    assert properties._positions(table) == pytest.approx([1, 0, 0.5, *[np.nan] * 4], nan_ok=True)
    assert properties._positions(pa.table({"series": series})) is None  # X-rays have no slices


class Labelled:
    """A split of photographs with two findings, of which the second is not always known."""

    card = SimpleNamespace(stored=SimpleNamespace(unit="none"), labels=("nodule", "mass"), task="multi_label")

    def __getitem__(self, row):
        return {"image": np.random.default_rng(row).uniform(0, 255, (8, 8, 1))}

    def manifest(self):
        return pa.table({"patient": ["p", "q", "r"]})

    def all_labels(self):
        return np.array([[1, 0], [0, 1], [1, 1.0]]), np.array([[1, 1], [1, 0], [1, 1.0]])


def test_given_labels():
    found = properties.of_split(Labelled(), np.array([2, 0, 1]))
    assert found["label nodule"].tolist() == [1, 1, 0]
    assert found["label mass"] == pytest.approx([1, 0, np.nan], nan_ok=True)
    assert "position" not in found
    assert found["mean"][1] == pytest.approx(Labelled()[0]["image"].mean())
    two_classes = Labelled()
    two_classes.card = SimpleNamespace(**vars(Labelled.card) | dict(task="single_label"))
    assert [k for k in properties.of_split(two_classes, np.array([0])) if "label" in k] == ["label mass"]


def test_ridge_is_that_of_scikit_learn():
    draws = np.random.default_rng(0)
    for d in (5, 60):  # both forms
        x, y = draws.standard_normal((40, d)) * 3 + 1, draws.standard_normal((40, 2))
        fitting = np.arange(40) < 30
        z = (x - x[fitting].mean(axis=0)) / x[fitting].std(axis=0) / d**0.5
        found = decoding._ridge(x, y, fitting, ~fitting)
        for strength, got in zip(decoding.STRENGTHS, found, strict=True):
            expected = Ridge(alpha=strength * 30).fit(z[fitting], y[fitting]).predict(z[~fitting])
            assert got == pytest.approx(expected, rel=1e-6)


def test_what_can_be_read_and_what_can_not():
    draws = np.random.default_rng(0)
    x = draws.standard_normal((400, 10))
    groups = np.arange(400) % 20
    there = x @ draws.standard_normal(10) + draws.standard_normal(400)
    half = np.where(np.arange(400) % 2, there, np.nan)
    found = decoding.decodability(x, {"there": there, "half": half, "not": draws.standard_normal(400)}, groups)
    assert found["there"].low < 1 - 1 / np.var(there) < found["there"].high
    assert found["half"].r2 == pytest.approx(found["there"].r2, abs=0.05)
    assert found["not"].low < 0.02
    assert found["not"].r2 < 0.02


def test_a_patient_is_not_in_both_halves():
    """Features that say who the patient is: of a property that is the patient's alone nothing can be read of others."""
    draws = np.random.default_rng(0)
    who = np.repeat(np.arange(20), 10)
    x = np.eye(20)[who] + 0.01 * draws.standard_normal((200, 20))
    found = decoding.decodability(x, {"his": draws.standard_normal(20)[who]}, who)
    assert found["his"].r2 < 0.1


def test_units_and_multiplicity():
    draws = np.random.default_rng(0)
    x = draws.standard_normal((300, 50))
    x[:, 7] = -np.exp(x[:, 7])
    targets = {"followed": -x[:, 7] + 0.1 * draws.standard_normal(300), "noise": draws.standard_normal(300)}
    found = decoding.unit_correlations(x, targets, np.arange(300))
    assert found["followed"]["unit"] == 7
    assert found["followed"]["strongest"] == pytest.approx(spearmanr(x[:, 7], targets["followed"]).statistic)
    assert found["followed"]["share"] == pytest.approx(1 / 50)
    assert found["noise"]["share"] == 0
    p = np.array([[spearmanr(x[:, j], y).pvalue for y in targets.values()] for j in range(50)])
    adjusted = false_discovery_control(p, method="bh", axis=None).reshape(p.shape)
    assert [found[name]["share"] for name in targets] == (adjusted < 0.05).mean(axis=0).tolist()
    few = decoding.unit_correlations(x, {"noise": 0.4 * x[:, 3] + targets["noise"]}, np.arange(300) % 10)
    assert few["noise"]["share"] == 0  # ten patients, whatever the images
    seldom = {"noise": np.where(np.arange(300) < 12, targets["noise"], np.nan)}  # known of twelve patients only
    p = [spearmanr(x[:12, j], targets["noise"][:12]).pvalue for j in range(50)]
    expected = np.mean(false_discovery_control(p, method="bh") < 0.05)
    assert decoding.unit_correlations(x, seldom, np.arange(300))["noise"]["share"] == expected == 0


def test_of_noise_hardly_any_unit_follows():
    """40 properties of noise, 40 units: uncorrected a twentieth of 1600 would; corrected seldom any in a whole run."""
    draws = np.random.default_rng(1)
    some = 0
    for _ in range(20):
        x, noise = draws.standard_normal((60, 40)), draws.standard_normal((40, 60))
        found = decoding.unit_correlations(x, {str(i): y for i, y in enumerate(noise)}, np.arange(60))
        some += any(v["share"] > 0 for v in found.values())
    assert some <= 4  # of 20 runs one is expected; more than 4 once in 400
