"""Projector and head: layers, where norms stand, and where the loss starts."""

import jax
import jax.numpy as jnp
import numpy as np

from radnet_jax.losses.classification import softmax_cross_entropy
from radnet_jax.models.heads import LinearHead, Projector


def features(width=12):
    return jnp.asarray(np.random.default_rng(0).standard_normal((32, width)) + 1, jnp.float32)


def initial(net, x):
    return jax.jit(lambda x: net.init(jax.random.key(0), x, train=False))(x)


def test_the_default_projector_is_simclrs():
    variables = initial(Projector(), features())
    assert jax.tree.map(jnp.shape, variables["params"]) == {
        "linear1": {"kernel": (12, 12)},
        "norm1": {"bias": (12,), "scale": (12,)},
        "linear2": {"kernel": (12, 128)},
        "norm2": {"scale": (128,)},
    }


def test_layers_without_norm_have_a_bias():
    net = Projector(layers=3, hidden=5, out=4, norm=False, last_norm=False)
    variables = initial(net, features())
    assert jax.tree.map(jnp.shape, variables) == {
        "params": {
            "linear1": {"kernel": (12, 5), "bias": (5,)},
            "linear2": {"kernel": (5, 5), "bias": (5,)},
            "linear3": {"kernel": (5, 4), "bias": (4,)},
        }
    }


def test_the_projector_equals_its_formula():
    net = Projector(hidden=6, out=4)
    x = features()
    variables = initial(net, x)
    z, _ = jax.jit(lambda v, x: net.apply(v, x, train=True, mutable=["batch_stats"]))(variables, x)
    weights = jax.tree.map(np.asarray, variables["params"])

    def norm(y):
        return (y - y.mean(0)) / np.sqrt(y.var(0) + 1e-5)

    want = norm(np.maximum(norm(np.asarray(x) @ weights["linear1"]["kernel"]), 0) @ weights["linear2"]["kernel"])
    np.testing.assert_allclose(z, want, atol=1e-4)


def test_the_head_starts_at_chance():
    head = LinearHead(out=5)
    x = features()
    logits = head.apply(head.init(jax.random.key(0), x), x)
    labels = jax.nn.one_hot(jnp.arange(32) % 5, 5)
    assert logits.shape == (32, 5)
    assert abs(softmax_cross_entropy(logits, labels) - np.log(5)) < 0.02
