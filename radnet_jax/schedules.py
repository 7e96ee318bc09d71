"""Learning rates as functions of the step, and their scaling with the batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from radnet_jax.errors import UserError
from radnet_jax.registry import Registry

Schedule = Callable[[Int[Array, ""] | int], Float[Array, ""]]

SCHEDULES = Registry("schedule", "radnet_jax.schedules")


def make_schedule(name: str, **kwargs: Any) -> Schedule:
    """Returns the schedule called `name`; an unknown name or argument raises a UserError."""
    return SCHEDULES.build(name, kwargs)


@SCHEDULES.register("constant")
def constant(base_lr: float) -> Schedule:
    """Returns a schedule that stays at `base_lr`."""
    return lambda step: jnp.full((), base_lr, jnp.float32)


@SCHEDULES.register("warmup_cosine")
def warmup_cosine(base_lr: float, *, total_steps: int, warmup_steps: int = 0, end_lr: float = 0.0) -> Schedule:
    """Returns a linear rise to `base_lr`, then half a cosine down to `end_lr` at `total_steps` (SGDR, equation 5).

    The first update, step 0, already has the rate base_lr / warmup_steps: a rate of 0 would waste it. Steps after
    `total_steps` stay at `end_lr`.

    Args:
      base_lr: the highest rate, reached at step `warmup_steps`.
      total_steps: updates of the whole run.
      warmup_steps: updates of the rise, fewer than `total_steps`.
      end_lr: the last rate.
    """
    if not 0 <= warmup_steps < total_steps:
        raise UserError(
            "the warm-up does not fit into the run",
            got=f"warmup_steps={warmup_steps}, total_steps={total_steps}",
            expected="0 <= warmup_steps < total_steps",
            fix="lower the warm-up or train longer",
        )

    def schedule(step: Int[Array, ""] | int) -> Float[Array, ""]:
        step = jnp.asarray(step, jnp.float32)
        rise = base_lr * (step + 1) / max(warmup_steps, 1)
        progress = jnp.clip((step - warmup_steps) / (total_steps - warmup_steps), 0.0, 1.0)
        fall = end_lr + (base_lr - end_lr) * 0.5 * (1 + jnp.cos(jnp.pi * progress))
        return jnp.where(step < warmup_steps, rise, fall)

    return schedule


@SCHEDULES.register("steps")
def steps(
    base_lr: float, *, total_steps: int, drops: Sequence[float] = (), factor: float = 0.1, warmup_steps: int = 0
) -> Schedule:
    """Returns a linear rise to `base_lr`, which is multiplied by `factor` at each of some points of the run.

    Args:
      base_lr: the highest rate.
      total_steps: updates of the whole run.
      drops: fractions of the run, rising; the update at `round(drop * total_steps)` is the first with the lower rate.
      factor: more than 0, at most 1.
      warmup_steps: updates of the rise, as of `warmup_cosine`; over before the first drop.
    """
    at = [round(drop * total_steps) for drop in drops]
    if not all(0 < drop < 1 for drop in drops) or list(drops) != sorted(set(drops)):
        raise UserError("steps: drops", got=tuple(drops), expected="rising fractions of the run, between 0 and 1")
    if not 0 < factor <= 1:
        raise UserError("steps: factor", got=factor, expected="more than 0, at most 1")
    if not 0 <= warmup_steps < min([*at, total_steps]):
        raise UserError(
            "the warm-up does not end before the first drop",
            got=f"warmup_steps={warmup_steps}, first drop at step {min([*at, total_steps])}",
            fix="lower the warm-up or train longer",
        )

    def schedule(step: Int[Array, ""] | int) -> Float[Array, ""]:
        step = jnp.asarray(step, jnp.int32)
        done = sum((step >= first).astype(jnp.float32) for first in at)
        rise = jnp.minimum((step + 1) / max(warmup_steps, 1), 1.0)
        return base_lr * rise * jnp.asarray(factor, jnp.float32) ** done

    return schedule


@SCHEDULES.register("exponential")
def exponential(base_lr: float, *, total_steps: int, decay: float, epochs: int) -> Schedule:
    """Returns a rate that is multiplied by `decay` after each epoch: base_lr * decay ** epoch.

    Args:
      base_lr: of the first epoch.
      total_steps: updates of the whole run.
      decay: more than 0, at most 1.
      epochs: of the whole run: an epoch is total_steps / epochs updates.
    """
    if not 0 < decay <= 1:
        raise UserError("exponential: decay", got=decay, expected="more than 0, at most 1")
    if epochs < 1:
        raise UserError("exponential: epochs", got=epochs, expected="at least 1")

    def schedule(step: Int[Array, ""] | int) -> Float[Array, ""]:
        epoch = jnp.asarray(step, jnp.int32) * epochs // total_steps
        return base_lr * jnp.asarray(decay, jnp.float32) ** epoch.astype(jnp.float32)

    return schedule


def scale_lr(lr: float, batch_size: int, *, rule: str, reference: int = 256) -> float:
    """Scales a learning rate that was found at the batch size `reference` to `batch_size`.

    Args:
      lr: learning rate at `reference`.
      batch_size: global batch size.
      rule: "linear" (Goyal et al. 2017), "sqrt" (SimCLR, appendix B.1: better for small batches) or "none".
      reference: batch size to which `lr` belongs.
    """
    factors = {"linear": batch_size / reference, "sqrt": (batch_size / reference) ** 0.5, "none": 1.0}
    if rule not in factors:
        raise UserError("unknown learning-rate scaling", got=repr(rule), expected=f"one of {', '.join(factors)}")
    return lr * factors[rule]
