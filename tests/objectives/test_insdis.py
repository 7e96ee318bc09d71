"""Instance discrimination: which rows of the bank are read, drawn and moved, and what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from radnet_jax.errors import UserError
from radnet_jax.objectives import insdis, networks
from tests.objectives import references
from tests.objectives.references import formulas
from tests.objectives.small import make, state_of, stepper, views

SMALL = dict(draws=12, projector_dim=6, num_examples=20, batch_size=8)
INDEX = jnp.asarray([3, 19, 0, 7, 8, 11, 4, 16])


def batch(seed=0):
    return {"image": views(seed)[:, 0], "index": INDEX}


@pytest.mark.parametrize(("dtype", "atol"), [("float32", 2e-5), ("bfloat16", 4e-3)])
def test_the_rows_of_the_batch_move_to_its_embeddings_after_the_loss(dtype, atol):
    objective = make("insdis", **SMALL, bank_dtype=dtype)
    state = state_of(objective, batch())
    rows = formulas.bank_rows(state)
    assert state.objective_state["bank"]["rows"].nbytes == 1024 * 6 * jnp.dtype(dtype).itemsize
    key = jax.random.key(5)
    loss, aux = jax.jit(objective.loss)(state.params, state, batch(), key)
    assert loss == pytest.approx(references.loss("insdis", objective, state, batch(), key), rel=1e-5)
    outputs, _ = networks.apply(
        objective.modules, state.params, state.model_state["batch_stats"], batch()["image"], train=True
    )
    z = np.asarray(networks.unit(outputs["projector"]))
    expected = rows.copy()
    for i, row in zip(np.asarray(INDEX), z, strict=True):
        mean = 0.5 * rows[i] + 0.5 * row
        expected[i] = mean / np.linalg.norm(mean)
    new = formulas.bank_rows(state.replace(objective_state=aux.objective_state))
    np.testing.assert_allclose(new, expected, atol=atol)
    others = np.setdiff1d(np.arange(len(rows)), INDEX)
    np.testing.assert_array_equal(new[others], rows[others])


def test_draws_are_real_examples_and_differ_by_step():
    several = [np.asarray(insdis.drawn(jax.random.key(i), 4000, 20)) for i in range(2)]
    assert all(set(x) == set(range(20)) for x in several)
    assert (several[0] != several[1]).any()
    counts = np.bincount(several[0])
    assert ((counts - 200) ** 2 / 200).sum() < 43.8  # chi-squared of 19 degrees, 0.1 %


def test_a_second_epoch_finds_what_the_first_has_left():
    objective = make("insdis", **SMALL)
    state, losses = state_of(objective, batch()), []
    for _ in range(6):
        state, metrics = stepper(objective)(state, batch())
        losses.append(float(metrics["loss"]))
    assert losses[-1] < losses[0]


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        (dict(draws=0), "draws"),
        (dict(batch_size=32), "fewer rows than a batch"),
        (dict(bank_dtype="int8"), "bank_dtype"),
        (dict(temperature=-1.0), "temperature"),
        (dict(momentum=1.5), "momentum"),
    ],
)
def test_what_cannot_work_is_refused(changes, match):
    with pytest.raises(UserError, match=match):
        make("insdis", **{**SMALL, **changes})
