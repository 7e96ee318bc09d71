"""DINO: views of an image agree on a distribution over many outputs, centred and sharpened by the teacher's side."""

from __future__ import annotations

import jax
from jax import lax
import jax.numpy as jnp
from jaxtyping import Array, Float


def dino(
    student: Float[Array, "b v k"],
    teacher: Float[Array, "b t k"],
    centre: Float[Array, " k"],
    *,
    student_temperature: float,
    teacher_temperature: float | Float[Array, ""],
) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
    """Mean over the examples and over the pairs of a teacher's view and another view of the student's cross entropy.

    Caron et al. 2021, equation 3 and algorithm 1: -sum over k of p_t log p_s, with p_s the softmax of the student's
    outputs over its temperature, and p_t that of the teacher's outputs less the centre over its own, without gradient.
    Float32.

    Args:
      student: outputs for all views; the first t are those that the teacher sees.
      teacher: outputs for the global views.
      centre: running mean of the teacher's outputs, see `new_centre`.
      student_temperature: more than 0.
      teacher_temperature: more than 0; a lower one sharpens.

    Returns:
      The loss and, without gradient, `loss_at_chance`, log k, and `teacher_entropy`: mean entropy of p_t, log k where
      it says nothing (a collapse that centring alone leads to).
    """
    targets = teacher.shape[1]
    outputs, middle = (lax.stop_gradient(x).astype(jnp.float32) for x in (teacher, centre))
    logits = (outputs - middle) / teacher_temperature
    p, log_p = jax.nn.softmax(logits), jax.nn.log_softmax(logits)
    log_q = jax.nn.log_softmax(student.astype(jnp.float32) / student_temperature)
    # Of the views t and s of one example; a view is not compared with itself.
    entropies = -jnp.einsum("btk,bvk->btv", p, log_q, precision=lax.Precision.HIGHEST)
    pairs = jnp.arange(targets)[:, None] != jnp.arange(student.shape[1])
    loss = jnp.sum(jnp.where(pairs, entropies, 0.0)) / (len(student) * pairs.sum())
    metrics = {
        "loss_at_chance": jnp.log(jnp.float32(student.shape[-1])),
        "teacher_entropy": lax.stop_gradient(-jnp.sum(p * log_p, axis=-1).mean()),
    }
    return loss, metrics


def new_centre(centre: Float[Array, " k"], teacher: Float[Array, "b t k"], *, momentum: float) -> Float[Array, " k"]:
    """Returns momentum x centre + (1 - momentum) x the mean of the teacher's outputs (equation 4)."""
    mean = lax.stop_gradient(teacher).astype(jnp.float32).mean(axis=(0, 1))
    return momentum * centre + (1 - momentum) * mean
