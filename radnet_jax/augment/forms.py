"""Which form of an operation each platform runs, and what keeps XLA's CPU compiler from spoiling it.

All forms of an operation give the same result. The choices for the CPU were measured (`benchmarks/augment.py`); those
for GPU and TPU were not yet: products with matrices and whole batches are the safe choice there.
"""

from __future__ import annotations

from collections.abc import Callable
import functools
from typing import Any

import jax
from jax import lax
from jax.experimental.layout import Layout, with_layout_constraint
import jax.numpy as jnp
from jaxtyping import Array, Bool, Shaped

from radnet_jax.errors import UserError, nearest

# rows: "each" works through the rows one by one, so that what a row didn't draw isn't computed and what it did stays in
# the cache; "batch" works on all at once. The other entries say how an operation is computed, see there.
FORMS = {
    "rows": {"cpu": "each", "gpu": "batch", "tpu": "batch"},
    "resample": {"cpu": "taps", "gpu": "matrix", "tpu": "matrix"},
    "blur": {"cpu": "shifts", "gpu": "matrix", "tpu": "matrix"},
    "order": {"cpu": "switch", "gpu": "select", "tpu": "select"},
}


def choose(operation: str, form: str | None = None) -> str:
    """Returns `form` where it is given, else the one for the platform of this process.

    Raises:
      UserError: for a form that the operation hasn't got.
    """
    forms = FORMS[operation]
    if form is None:
        return forms.get(jax.default_backend(), forms["gpu"])
    if form not in forms.values():
        valid = sorted(set(forms.values()))
        raise UserError(
            f"operation {operation!r} has no form {form!r}{nearest(form, valid)}", expected=" or ".join(valid)
        )
    return form


def apart(always: Bool[Array, ""], function: Callable[..., Any], *args: Any) -> Any:
    """Calls a function so that XLA's CPU compiler doesn't fuse it with its neighbours.

    It fuses all it can, and then computes a crop again for each tap of a blur, 10 times the work. It does not fuse
    across a branch, and removes `lax.optimization_barrier` beforehand.

    Args:
      always: True whatever happens, which the compiler can't know: a precondition of the caller, such as a positive
        size.
      function: gives arrays of row-major memory; without this the compiler moves transpositions about.
      *args: its arguments.
    """
    if jax.default_backend() != "cpu":
        return function(*args)
    out = jax.eval_shape(function, *args)
    nothing = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), out)
    return lax.cond(always, lambda *a: jax.tree.map(row_major, function(*a)), lambda *_: nothing, *args)


def row_major(x: Array) -> Array:
    """Has an array laid out in memory in the order of its axes."""
    return with_layout_constraint(x, Layout(major_to_minor=tuple(range(x.ndim))))


def sometimes(
    apply: Bool[Array, " n"], function: Callable[[Any], Any], x: Shaped[Array, "n ..."]
) -> Shaped[Array, "n ..."]:
    """Applies a function to the rows that drew it; on CPU nothing is computed where no row did."""

    def changed(x: Any) -> Any:
        y = function(x)
        return y if x.shape[0] == 1 else jnp.where(apply.reshape(-1, *(1,) * (x.ndim - 1)), y, x)

    if jax.default_backend() == "cpu":
        return lax.cond(apply.any(), lambda x: row_major(changed(x)), row_major, x)
    return changed(x) if x.shape[0] > 1 else jnp.where(apply[0], function(x), x)


def each_row(function: Callable[..., Any], rows: int) -> Any:
    """Calls `function(indices [1])` for each row by itself and puts the results together."""
    first = functools.partial(jax.tree.map, lambda y: y[0])
    return lax.map(lambda row: first(function(row[None])), jnp.arange(rows))
