"""Maps of a sample, and what the page's script is given of them."""

import json

import numpy as np
import pytest
from sklearn.decomposition import PCA

from radnet_jax.analysis import embedding, scatter
from radnet_jax.errors import UserError


def test_pca_of_scikit_learn():
    x = np.random.default_rng(0).standard_normal((40, 6)) * [5, 3, 1, 1, 1, 1] + 7
    fitted = PCA(2).fit(x)
    points, share = embedding.pca(x)
    assert np.abs(points) == pytest.approx(np.abs(fitted.transform(x)), abs=1e-9)
    assert share == pytest.approx(fitted.explained_variance_ratio_)
    points, share = embedding.pca(x[:, :1])
    assert points.shape == (40, 2)
    assert share == (1, 0)


def test_a_package_that_is_not_there(monkeypatch):
    embedding.check("pca")
    with pytest.raises(UserError, match='did you mean "tsne"'):
        embedding.check("tsn")
    monkeypatch.setattr(embedding.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"radnet_jax\[maps\]"):
        embedding.check("tsne")


def test_tsne_keeps_neighbours_and_repeats_itself():
    pytest.importorskip("openTSNE")
    x = np.random.default_rng(0).standard_normal((90, 10))
    x[:45] += 4
    found = embedding.tsne(x, seed=0)
    assert (found == embedding.tsne(x, seed=0)).all()
    distances = ((found[:, None] - found) ** 2).sum(axis=2)
    np.fill_diagonal(distances, np.inf)
    assert np.mean((distances.argmin(axis=1) < 45) == (np.arange(90) < 45)) > 0.95
    assert (embedding.tsne(np.ones((30, 3)), seed=0) == 0).all()


def result(n, **properties):
    points = np.random.default_rng(0).standard_normal((n, 2)).tolist()
    networks = {"a": {"points": points, "share": [0.5, 0.2]}, "b": {"points": points, "share": [0.5, 0.2]}}
    groups = ["</script><b>" if i % 2 else "" for i in range(n)]
    return {"maps": dict(groups=groups, grouped_by="label", properties=properties, networks=networks)}


def test_what_the_script_is_given():
    nan = float("nan")
    text = scatter.script_data(
        result(4, air=[0.123456, nan, 1, 2], yes=[0.0, 1.0, nan, 0.0], **{"label one": [1, 0, 1, 0]})
    )
    assert "</script" not in text
    data = json.loads(text)
    label, air, yes = data["colours"]  # and not "label one", which the first says
    assert label == {"title": "label", "groups": ["", "</script><b>"] * 2}
    assert air["numbers"] == [0.1235, None, 1, 2]
    assert 0.12 < air["range"][0] < air["range"][1] < 2
    assert yes["groups"] == ["no", "yes", "", "no"]
    (only,) = data["methods"]
    places = np.array(only["places"]["a"])
    assert places.min() >= 0
    assert places.max() <= 1
    points = np.array(result(4)["maps"]["networks"]["a"]["points"])
    scale = np.linalg.norm(places[0] - places[1]) / np.linalg.norm(points[0] - points[1])
    assert np.linalg.norm(places[2] - places[3]) == pytest.approx(
        scale * np.linalg.norm(points[2] - points[3]), rel=1e-2
    )


def test_so_many_images_and_no_more():
    data = json.loads(scatter.script_data(result(4000)))
    assert len(data["colours"][0]["groups"]) == len(data["methods"][0]["places"]["b"]) == scatter.SHOWN
