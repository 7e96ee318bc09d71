"""Memory banks: arrays with a row for each training example, divided over the devices by rows.

Written as if one device held all of it. XLA divides reading and writing of single rows by itself: each device looks for
the rows that it has, and only those that were asked for travel. `tests/objectives/test_bank.py` checks it.

A bank of bfloat16 holds its bits, as uint16: a bank is only moved, never computed with, and a compiler for a device
without bfloat16, such as XLA's for CPUs, would convert all of it to float32 and back to write a row.
"""

from __future__ import annotations

import jax
from jax import lax
import jax.numpy as jnp
from jaxtyping import Array, Int, Num

from radnet_jax.errors import UserError

DTYPES = ("float32", "bfloat16")
_MULTIPLE = 1024  # of rows, so that a bank has the same shape on any number of devices that divides it
_BITS = jnp.uint16  # bfloat16 is kept as its bits


def rows(num_examples: int) -> int:
    """Returns the rows of a bank for so many examples; those after the last stay as they were made.

    A large bank has a multiple of 16 times as many, at most 2 % more, so that clustering finds blocks of the size it
    looks for: 12 million rows are a prime number of the smaller ones.
    """
    multiple = _MULTIPLE * (16 if num_examples > 2**20 else 1)
    return -(-num_examples // multiple) * multiple


def zeros(num_examples: int, dim: int, dtype: str = "float32") -> Num[Array, "n d"]:
    """Returns a bank in which nothing was written yet, float32 or bfloat16."""
    return _encoded(jnp.zeros((rows(num_examples), dim), dtype))


def random_unit(rng: Array, num_examples: int, dim: int, dtype: str = "float32") -> Num[Array, "n d"]:
    """Returns a bank of random directions, uniform on the sphere, float32 or bfloat16."""
    x = jax.random.normal(rng, (rows(num_examples), dim))
    return _encoded((x / jnp.linalg.norm(x, axis=-1, keepdims=True)).astype(dtype))


def read(bank: Num[Array, "n ..."], index: Int[Array, " *b"]) -> Num[Array, "*b ..."]:
    """Returns the rows of these examples."""
    found = bank[index]
    return lax.bitcast_convert_type(found, jnp.bfloat16) if bank.dtype == _BITS else found


def write(bank: Num[Array, "n ..."], index: Int[Array, " b"], values: Num[Array, "b ..."]) -> Num[Array, "n ..."]:
    """Returns the bank with the rows of these examples in place; a negative or too large index writes nothing.

    Nor does a row that is not finite, so that a step that was stopped leaves no such mark. The same example twice in a
    batch, as a mixture's epochs may bring, leaves one of its two rows: the last on a CPU, on a GPU the same in each run
    with `--deterministic` only.
    """
    sound = jnp.isfinite(values.astype(jnp.float32)).reshape(len(values), -1).all(axis=1)
    index = jnp.where((index < 0) | ~sound, len(bank), index)
    values = _encoded(values.astype(jnp.bfloat16 if bank.dtype == _BITS else bank.dtype))
    return bank.at[index].set(values, mode="drop")


def _encoded(x: Num[Array, "n ..."]) -> Num[Array, "n ..."]:
    return lax.bitcast_convert_type(x, _BITS) if x.dtype == jnp.bfloat16 else x


def check(name: str, num_examples: int, batch_size: int) -> None:
    """Refuses a bank of fewer examples than a batch has: it would hold an example twice."""
    if num_examples < batch_size:
        raise UserError(
            f"{name}: the memory bank has fewer rows than a batch",
            got=f"{num_examples} examples, batch_size {batch_size}",
            fix=f"set --config.batch_size to at most {num_examples}",
        )


def check_dtype(name: str, dtype: str) -> None:
    """Refuses a bank of numbers of another type."""
    if dtype not in DTYPES:
        raise UserError(f"{name}: bank_dtype", got=repr(dtype), expected=" or ".join(DTYPES))


def check_clusters(what: str, clusters: int, num_examples: int) -> None:
    """Refuses fewer clusters than two, and more than there are examples."""
    if not isinstance(clusters, int) or not 2 <= clusters <= num_examples:
        raise UserError(what, got=clusters, expected=f"2 to {num_examples}, the examples of the train split")
