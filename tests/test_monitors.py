"""Collapse monitors against NumPy written from the papers, on any topology; the warning's rule, met and not met."""

import contextlib
import logging

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.spatial.distance import pdist

from radnet_jax import sharding, train
from radnet_jax.evaluation import ledger
from radnet_jax.models.heads import Projector
from radnet_jax.monitors import CollapseWarning, embedding_metrics
from radnet_jax.objectives.simclr import SimCLR
from tests import tiny


def embeddings(b=40, v=2, d=8, seed=0):
    """Embeddings of any length, views near each other, with a few directions that dominate."""
    rng = np.random.default_rng(seed)
    image = rng.normal(size=(b, 1, d)) * np.linspace(2, 0.1, d)
    return (3 * (image + 0.2 * rng.normal(size=(b, v, d)))).astype(np.float32)


def test_they_are_the_papers_formulas():
    z = embeddings()
    unit = z.astype(np.float64) / np.linalg.norm(z, axis=-1, keepdims=True)
    rows = unit.reshape(-1, 8)
    values = np.linalg.svd(rows, compute_uv=False)
    p = values / values.sum() + 1e-7
    expected = {
        "alignment": np.mean(np.sum((unit[:, 0] - unit[:, 1]) ** 2, axis=-1)),
        "uniformity": np.mean([np.log(np.mean(np.exp(-2 * pdist(unit[:, i]) ** 2))) for i in range(2)]),
        "effective_rank": np.exp(-np.sum(p * np.log(p))),
        "largest_direction": values[0] ** 2 / np.sum(values**2),
        "embedding_std": rows.std(axis=0).mean() * np.sqrt(8),
    }
    found = jax.jit(embedding_metrics)(z)
    assert set(found) == set(expected)
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, rel=1e-4), name
    assert 1 < expected["effective_rank"] < 8


def test_alignment_is_over_all_pairs_of_views():
    z = embeddings(v=4)
    unit = z / np.linalg.norm(z, axis=-1, keepdims=True)
    pairs = [np.sum((unit[:, i] - unit[:, j]) ** 2, axis=-1).mean() for i in range(4) for j in range(i)]
    assert embedding_metrics(z)["alignment"] == pytest.approx(np.mean(pairs), rel=1e-4)
    assert "alignment" not in embedding_metrics(z[:, :1])


def test_their_ranges():
    rng = np.random.default_rng(0)
    everywhere = embedding_metrics(rng.normal(size=(512, 2, 32)))
    assert everywhere["embedding_std"] == pytest.approx(1, abs=0.02)
    assert everywhere["effective_rank"] > 31
    assert everywhere["uniformity"] == pytest.approx(-4, abs=0.3)
    point = embedding_metrics(np.ones((64, 2, 32)) + 1e-3 * rng.normal(size=(64, 2, 32)))
    assert point["embedding_std"] < 0.01
    assert point["largest_direction"] > 0.999
    assert point["uniformity"] == pytest.approx(0, abs=1e-4)
    signs = rng.choice([-1.0, 1.0], size=(64, 2, 1))
    line = embedding_metrics(signs * np.ones(32) + 0.01 * rng.normal(size=(64, 2, 32)))
    assert line["embedding_std"] > 0.9  # which does not see it
    assert line["largest_direction"] > 0.999
    nothing = embedding_metrics(np.zeros((64, 2, 32)))
    assert (nothing["embedding_std"], nothing["largest_direction"]) == (0, 1)
    assert all(np.isfinite(v) for v in nothing.values())


@pytest.mark.parametrize("devices", [1, 8])
def test_they_are_the_same_on_any_number_of_devices_and_look_at_a_bounded_number(devices):
    mesh = sharding.make_mesh(devices)
    z = embeddings(b=1600, d=4)
    found = jax.jit(embedding_metrics)(sharding.put_batch({"z": z}, mesh)["z"])
    first = embedding_metrics(z[:512])
    for name in ("embedding_std", "effective_rank", "largest_direction", "uniformity"):
        assert found[name] == pytest.approx(float(first[name]), rel=1e-5), name
    assert found["alignment"] == pytest.approx(float(embedding_metrics(z)["alignment"]), rel=1e-5)


@contextlib.contextmanager
def heard():
    """The warnings that are logged inside."""
    messages = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: messages.append(record.getMessage())
    logging.getLogger("absl").addHandler(handler)
    try:
        yield messages
    finally:
        logging.getLogger("absl").removeHandler(handler)


def warned(rows, total=100, every=5):
    """The messages for rows of (embedding_std, largest_direction, effective_rank), one every 5 steps."""
    with heard() as messages:
        warning = CollapseWarning("simclr ct", total)
        for i, row in enumerate(rows, 1):
            warning.write(every * i, dict(zip(("embedding_std", "largest_direction", "effective_rank"), row)))
    return messages


HEALTHY, POINT, LINE, FEW = (0.8, 0.2, 20.0), (0.05, 0.99, 2.0), (0.9, 0.97, 30.0), (0.9, 0.5, 3.0)


@pytest.mark.parametrize(
    ("rows", "what"),
    [
        ([HEALTHY] * 20, None),
        ([POINT, POINT] + [HEALTHY] * 18, None),  # a network that was just initialised
        ([HEALTHY] * 3 + [POINT, POINT, HEALTHY] * 5, None),  # never three in a row
        ([POINT] * 20, "step 25: its embeddings are nearly one point"),
        ([HEALTHY] * 10 + [LINE] * 10, "step 65: its embeddings lie nearly on one line"),
        ([HEALTHY] * 10 + [FEW, POINT, FEW], "step 65: its embeddings have few directions"),
        ([HEALTHY] * 10 + [POINT] * 3 + [HEALTHY] * 3 + [POINT] * 4, "step 65"),
    ],
)
def test_the_warning_follows_its_rule_and_is_given_once(rows, what):
    messages = warned(rows)
    assert len(messages) == (what is not None)
    if what is not None:
        assert what in messages[0]
        assert "simclr ct looks collapsed" in messages[0]


def test_rows_of_an_objective_without_embeddings_say_nothing():
    CollapseWarning("classification", 10).write(5, {"loss": 1.0})


class Attraction(SimCLR):
    """Views attract each other and nothing holds images apart: the embeddings of all images become one."""

    def loss(self, params, state, batch, rng):
        _, aux = super().loss(params, state, batch, rng)
        z = aux.embedding / jnp.linalg.norm(aux.embedding, axis=-1, keepdims=True)
        return jnp.mean(jnp.sum((z[:, 0] - z[:, 1]) ** 2, axis=-1)), aux


@pytest.mark.parametrize(("objective", "collapses"), [(Attraction, True), (SimCLR, False)])
def test_a_network_that_collapses_is_told_of_and_one_that_learns_is_not(
    ct_dataset, tmp_path, monkeypatch, objective, collapses
):
    projector = Projector(layers=2, hidden=32, out=16, norm=False, last_norm=False)
    monkeypatch.setattr(train, "make_objective", lambda config, parts: objective(parts.backbone, projector, 0.5))
    config = tiny.config("configs/pretrain/simclr.py", "smoke,size=24", ct_dataset, total_steps=60, log_every=3)
    config = tiny.change(config, schedule=dict(name="constant", base_lr=3e-3), checkpoint=dict(every=60, keep=1))
    with heard() as messages:
        train.run(config, tmp_path)
    last = ledger.read_curves(tmp_path)[-1]
    assert (last["embedding_std"] < 0.1) == collapses
    collapsed = [m for m in messages if "looks collapsed" in m]
    assert len(collapsed) == collapses
    if collapses:
        assert last["loss"] < 0.05  # which looks like success
    else:
        assert last["loss"] < last["loss_at_chance"]
