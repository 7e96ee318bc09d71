"""Learning rates by step."""

import numpy as np
import optax
import pytest

from radnet_jax.errors import UserError
from radnet_jax.schedules import make_schedule, scale_lr


def test_warmup_cosine_rises_and_falls():
    schedule = make_schedule("warmup_cosine", base_lr=2.0, total_steps=20, warmup_steps=4, end_lr=0.2)
    rates = np.array([schedule(step) for step in range(25)])
    np.testing.assert_allclose(rates[:5], [0.5, 1.0, 1.5, 2.0, 2.0], rtol=1e-6)
    cosine = optax.cosine_decay_schedule(2.0, 16, alpha=0.1)
    np.testing.assert_allclose(rates[4:20], [cosine(step) for step in range(16)], rtol=1e-5)
    np.testing.assert_allclose(rates[20:], 0.2, rtol=1e-6)


def test_without_warmup_it_starts_at_the_top():
    assert make_schedule("warmup_cosine", base_lr=0.3, total_steps=2)(0) == pytest.approx(0.3)


def test_constant_stays():
    assert make_schedule("constant", base_lr=0.3)(1000) == pytest.approx(0.3)


@pytest.mark.parametrize("warmup", [10, -1])
def test_a_warmup_that_does_not_fit_is_refused(warmup):
    with pytest.raises(UserError, match="warm-up"):
        make_schedule("warmup_cosine", base_lr=1.0, total_steps=10, warmup_steps=warmup)


def test_misspelt_names_and_arguments_are_refused():
    with pytest.raises(UserError, match='did you mean "warmup_cosine"'):
        make_schedule("warmup_cosin", base_lr=1.0, total_steps=10)
    with pytest.raises(UserError, match='did you mean "end_lr"'):
        make_schedule("warmup_cosine", base_lr=1.0, total_steps=10, endlr=0.1)


def test_scaling_with_the_batch():
    assert scale_lr(0.3, 4096, rule="linear") == pytest.approx(4.8)
    assert scale_lr(1.2, 1024, rule="sqrt") == pytest.approx(0.075 * 32)  # SimCLR, appendix B.1
    assert scale_lr(0.3, 4096, rule="none") == 0.3
    with pytest.raises(UserError, match="scaling"):
        scale_lr(0.3, 4096, rule="cubic")


def test_steps_fall_at_fractions_of_the_run():
    schedule = make_schedule("steps", base_lr=0.3, total_steps=200, drops=(0.6, 0.8), warmup_steps=10)
    rates = np.array([schedule(step) for step in (0, 4, 9, 10, 119, 120, 159, 160, 250)])
    np.testing.assert_allclose(rates, [0.03, 0.15, 0.3, 0.3, 0.3, 0.03, 0.03, 0.003, 0.003], rtol=1e-5)
    assert make_schedule("steps", base_lr=0.3, total_steps=5)(4) == pytest.approx(0.3)


@pytest.mark.parametrize(
    "wrong", [dict(drops=(0.8, 0.6)), dict(drops=(1.0,)), dict(factor=0.0), dict(drops=(0.1,), warmup_steps=10)]
)
def test_steps_that_do_not_fit_are_refused(wrong):
    with pytest.raises(UserError):
        make_schedule("steps", base_lr=1.0, total_steps=100, **wrong)
