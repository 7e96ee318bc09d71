"""Optimizers against the papers' formulas in NumPy: exclusions, guards, freezing, clipping."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from radnet_jax.errors import UserError
from radnet_jax.optim import make_optimizer

RATES = [0.5, 1.0, 0.25]
EXCLUDED = {"backbone/norm/scale", "backbone/norm/bias", "head/bias"}


def schedule(step):
    return jnp.asarray(RATES)[step]


def tree():
    rng = np.random.default_rng(0)
    return {
        "backbone": {
            "conv": {"kernel": rng.standard_normal((3, 4)).astype(np.float32)},
            "zero": {"kernel": np.zeros((2, 2), np.float32)},
            "norm": {"scale": np.ones(4, np.float32), "bias": np.full(4, 0.5, np.float32)},
        },
        "head": {"kernel": rng.standard_normal((4, 2)).astype(np.float32), "bias": np.zeros(2, np.float32)},
    }


def gradients(step):
    rng = np.random.default_rng(step + 1)
    out = jax.tree.map(lambda x: rng.standard_normal(x.shape).astype(np.float32), tree())
    if step == 1:
        out["head"]["kernel"][:] = 0  # with no decay the update is zero too: the other guard
    return out


def train(tx, steps=3):
    params = jax.tree.map(jnp.asarray, tree())
    state = tx.init(params)
    update = jax.jit(tx.update)
    for step in range(steps):
        updates, state = update(gradients(step), state, params)
        params = optax.apply_updates(params, updates)
    return flat(params)


def flat(params):
    leaves = jax.tree_util.tree_leaves_with_path(params)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): np.asarray(x, np.float64) for path, x in leaves}


def reference(update, steps=3):
    """Runs `update(w, g, memory, lr, excluded, step) -> (w, memory)` on each tensor."""
    params = flat(tree())
    memory = {name: None for name in params}
    for step in range(steps):
        for name, g in flat(gradients(step)).items():
            w = params[name]
            params[name], memory[name] = update(w, g, memory[name], RATES[step], name in EXCLUDED, step)
    return params


def assert_equal(got, want):
    for name in want:
        np.testing.assert_allclose(got[name], want[name], rtol=2e-5, atol=1e-6, err_msg=name)


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_lars(decay):
    guarded = []

    def update(w, g, velocity, lr, excluded, step):
        if not excluded:
            g = g + decay * w
            norms = np.linalg.norm(w), np.linalg.norm(g)
            guarded.append(not all(norms))
            g = g * (0.02 * norms[0] / norms[1] if all(norms) else 1.0)
        velocity = (0 if velocity is None else 0.9 * velocity) + lr * g
        return w - velocity, velocity

    want = reference(update)
    assert any(guarded)
    tx = make_optimizer("lars", schedule, weight_decay=decay, momentum=0.9, trust_coefficient=0.02)
    assert_equal(train(tx), want)


def test_adamw():
    def update(w, g, moments, lr, excluded, step):
        m, v = (0.0, 0.0) if moments is None else moments
        m, v = 0.9 * m + 0.1 * g, 0.95 * v + 0.05 * g**2
        m_hat, v_hat = m / (1 - 0.9 ** (step + 1)), v / (1 - 0.95 ** (step + 1))
        decay = 0.0 if excluded else 0.1 * w
        return w - lr * (m_hat / (np.sqrt(v_hat) + 1e-8) + decay), (m, v)

    assert_equal(train(make_optimizer("adamw", schedule, weight_decay=0.1, b2=0.95)), reference(update))


def test_sgd():
    def update(w, g, velocity, lr, excluded, step):
        g = g if excluded else g + 0.1 * w
        velocity = (0 if velocity is None else 0.8 * velocity) + g
        return w - lr * velocity, velocity

    assert_equal(train(make_optimizer("sgd", schedule, weight_decay=0.1, momentum=0.8)), reference(update))


def test_frozen_parameters_stay_and_have_no_part_in_the_clipped_norm():
    def update(w, g, memory, lr, excluded, step):
        return w - lr * g, memory

    tx = make_optimizer("sgd", schedule, momentum=0.0, frozen=["^backbone/"], grad_clip=0.5)
    got, start = train(tx, steps=1), flat(tree())
    for name in start:
        if name.startswith("backbone/"):
            np.testing.assert_array_equal(got[name], start[name])
    moved = np.concatenate([(got[name] - start[name]).ravel() for name in start if name.startswith("head/")])
    assert np.linalg.norm(moved) == pytest.approx(RATES[0] * 0.5, rel=1e-5)


def deep():
    names = ("stem_conv", "stem_norm", "stage1_block1", "stage1_block2", "stage2_block1", "stage10_block1")
    return {
        "backbone": {n: {"kernel": np.ones(2, np.float32)} for n in names},
        "head": {"kernel": np.ones(2, np.float32)},
    }


def moved(tx):
    params = deep()
    updates, _ = tx.update(params, tx.init(params), params)  # a gradient of 1 everywhere
    return {name: float(-leaf[0] / RATES[0]) for name, leaf in flat(updates).items()}


def test_layer_decay_slows_the_layers_below():
    for frozen in ((), ("stem_conv",)):
        factors = moved(make_optimizer("sgd", schedule, momentum=0.0, layer_decay=0.5, frozen=frozen))
        assert factors == pytest.approx(
            {
                "backbone/stem_conv/kernel": 0.0 if frozen else 0.5**5,
                "backbone/stem_norm/kernel": 0.5**5,
                "backbone/stage1_block1/kernel": 0.5**4,
                "backbone/stage1_block2/kernel": 0.5**3,
                "backbone/stage2_block1/kernel": 0.5**2,
                "backbone/stage10_block1/kernel": 0.5,
                "head/kernel": 1.0,
            }
        )


def test_the_first_rate_that_matches_counts():
    tx = make_optimizer("sgd", schedule, momentum=0.0, rates=[["^head/", 10.0], ["stage1", 0.1], ["backbone", 0.5]])
    factors = moved(tx)
    assert factors["head/kernel"] == pytest.approx(10)
    assert factors["backbone/stage1_block2/kernel"] == pytest.approx(0.1)
    assert factors["backbone/stem_conv/kernel"] == pytest.approx(0.5)
    with pytest.raises(UserError, match="a pattern of rates matches no parameter; got 'haed'"):
        make_optimizer("sgd", schedule, rates=[["haed", 2.0]]).init(deep())
    with pytest.raises(UserError, match=r"layer_decay; got 1\.5"):
        make_optimizer("sgd", schedule, layer_decay=1.5)


def test_patterns_are_checked_against_the_parameters():
    for frozen, message in ((["projector/"], "matches no parameter"), ([".*"], "every parameter"), (["("], "regular")):
        with pytest.raises(UserError, match=message):
            make_optimizer("sgd", schedule, frozen=frozen).init(tree())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(weight_decay=-1e-4), "weight_decay; got -0.0001; expected 0 or more"),
        (dict(weight_decay=float("nan")), "weight_decay; got nan"),
        (dict(momentum=1.0), "momentum; got 1.0; expected 0 or more, less than 1"),
        (dict(rates="stem"), r"rates; got 'stem'; expected \(regex, factor\) pairs"),
        (dict(rates=[["stem", "low"]]), "rates"),
        (dict(layer_decay="half"), "layer_decay; got half"),
        (dict(grad_clip=float("nan")), "grad_clip; got nan"),
    ],
)
def test_numbers_that_no_optimizer_has_are_refused(changes, message):
    with pytest.raises(UserError, match=message):
        make_optimizer("sgd", schedule, **changes)


def test_unknown_names_and_arguments_are_refused():
    with pytest.raises(UserError, match='did you mean "adamw"'):
        make_optimizer("adam", schedule)
    with pytest.raises(UserError, match='"weight_decay"'):
        make_optimizer("lars", schedule, weigth_decay=0.1)


def test_constant_rates_stay_whatever_the_schedule():
    def moved(**options):
        tx = make_optimizer("sgd", schedule, momentum=0.9, weight_decay=0.1, grad_clip=0.5, **options)
        return train(tx)

    got = moved(constant=["^head/"], base_lr=0.3)
    scheduled = moved()
    held = train(make_optimizer("sgd", lambda step: 0.3, momentum=0.9, weight_decay=0.1, grad_clip=0.5))
    assert_equal(got, {name: (held if name.startswith("head/") else scheduled)[name] for name in got})
    assert np.abs(got["head/kernel"] - scheduled["head/kernel"]).max() > 1e-3


def test_constant_rates_of_no_parameter_are_refused():
    with pytest.raises(UserError, match="constant matches no parameter"):
        make_optimizer("sgd", schedule, constant=["projector/"], base_lr=0.1).init(tree())


def test_weight_decay_goes_to_its_last_value_by_a_cosine():
    def decay(step):
        return 0.4 + (0.1 - 0.4) * 0.5 * (1 + np.cos(np.pi * step / 4))

    tx = make_optimizer("adamw", schedule, weight_decay=0.1, last_weight_decay=0.4, total_steps=4)
    params = jax.tree.map(jnp.asarray, tree())
    state = tx.init(params)
    for step in range(3):
        updates, state = tx.update(jax.tree.map(jnp.zeros_like, params), state, params)
        want = -RATES[step] * decay(step) * np.float64(params["head"]["kernel"])
        np.testing.assert_allclose(updates["head"]["kernel"], want, rtol=1e-5, atol=1e-7)
        np.testing.assert_array_equal(updates["head"]["bias"], 0)
        params = optax.apply_updates(params, updates)
