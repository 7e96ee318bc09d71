"""Memory banks: rows in and out, and what the compiler makes of a divided one: each device keeps to its own rows."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from radnet_jax import clustering, sharding
from radnet_jax.models import MODELS
from radnet_jax.objectives import OBJECTIVES, bank
from radnet_jax.step import compiled_init, compiled_step


def test_rows_are_read_and_written_by_example():
    rows = jnp.arange(12.0).reshape(4, 3)
    np.testing.assert_array_equal(bank.read(rows, jnp.asarray([2, 0])), rows[jnp.asarray([2, 0])])
    new = bank.write(rows, jnp.asarray([3, -1, 1, 9]), -jnp.ones((4, 3)))
    np.testing.assert_array_equal(new, rows.at[jnp.asarray([1, 3])].set(-1.0))


def test_a_bank_has_rows_for_any_number_of_devices_and_random_directions():
    assert [bank.rows(n) for n in (1, 1024, 1025, 2**20)] == [1024, 1024, 2048, 2**20]
    assert bank.rows(12_000_000) % 2**14 == 0
    assert clustering._blocks(bank.rows(12_000_000), 3000) == bank.rows(12_000_000) // 4096  # 5592 rows would fit
    rows = np.asarray(bank.random_unit(jax.random.key(0), 5000, 16))
    assert rows.shape == (5120, 16)
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, rtol=1e-5)
    assert np.abs(rows.mean(axis=0)).max() < 0.02
    half = bank.random_unit(jax.random.key(0), 5000, 16, "bfloat16")
    assert half.nbytes == rows.nbytes // 2
    np.testing.assert_allclose(bank.read(half, jnp.arange(5120)).astype(jnp.float32), rows, rtol=2**-8)
    written = bank.write(half, jnp.asarray([7]), rows[:1])
    np.testing.assert_array_equal(bank.read(written, jnp.asarray([7, 8])), bank.read(half, jnp.asarray([0, 8])))


def exchange(rows, index, drawn, values):
    """What a step does with a bank."""
    own, others = bank.read(rows, index), bank.read(rows, drawn)
    return bank.write(rows, index, 0.5 * own + 0.5 * values), own, others


def compiled(num_examples, mesh, *, dim=128, batch=256, draws=1024):
    shape = jax.eval_shape(lambda: bank.random_unit(jax.random.key(0), num_examples, dim, "bfloat16"))
    rows = jax.ShapeDtypeStruct(shape.shape, shape.dtype, sharding=sharding.batch_sharding(mesh))
    index = jax.ShapeDtypeStruct((batch,), jnp.int32, sharding=sharding.batch_sharding(mesh))
    drawn = jax.ShapeDtypeStruct((draws,), jnp.int32, sharding=sharding.replicated(mesh))
    values = jax.ShapeDtypeStruct((batch, dim), jnp.bfloat16, sharding=sharding.batch_sharding(mesh))
    out = (sharding.batch_sharding(mesh), sharding.batch_sharding(mesh), sharding.replicated(mesh))
    step = jax.jit(exchange, donate_argnums=0, out_shardings=out)
    return step.lower(rows, index, drawn, values).compile()


def test_only_the_rows_that_are_asked_for_travel():
    num_examples, draws = 65536, 1024
    step = compiled(num_examples, sharding.make_mesh(8), draws=draws)
    share = num_examples * 128 * 2 // 8
    sent = sharding.collectives(step.as_text())
    largest = max(size for sizes in sent.values() for size in sizes)
    assert draws * 128 * 2 <= largest <= draws * 128 * 4 < share / 2  # 16 bits are summed as 32
    memory = step.memory_analysis()
    assert memory.alias_size_in_bytes == share  # written in place
    assert memory.temp_size_in_bytes < share / 2


def test_a_divided_bank_reads_and_writes_as_a_whole_one():
    mesh, rng = sharding.make_mesh(8), np.random.default_rng(0)
    rows = rng.standard_normal((1024, 4)).astype(np.float32)
    index, drawn = rng.permutation(1000)[:16], rng.integers(0, 1000, 64)
    values = rng.standard_normal((16, 4)).astype(np.float32)
    put = functools.partial(jax.device_put, device=sharding.batch_sharding(mesh))
    divided = jax.jit(exchange)(put(rows), put(index), drawn, put(values))
    new = rows.copy()
    new[index] = 0.5 * rows[index] + 0.5 * values
    for got, expected in zip(divided, (new, rows[index], rows[drawn]), strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-6)


def test_twelve_million_examples_take_384_megabytes_of_each_of_eight_devices():
    num_examples, draws, mesh = 12_000_000, 65536, sharding.make_mesh(8)
    objective = OBJECTIVES.build(
        "insdis",
        {"draws": draws, "bank_dtype": "bfloat16"},
        backbone=MODELS.build("resnet10", {"base_width": 4}),
        num_examples=num_examples,
        batch_size=64,
    )
    tx = optax.sgd(0.1)
    batch = {
        "image": jax.ShapeDtypeStruct((64, 16, 16, 3), jnp.float32, sharding=sharding.batch_sharding(mesh)),
        "index": jax.ShapeDtypeStruct((64,), jnp.int32, sharding=sharding.batch_sharding(mesh)),
    }
    shapes = jax.eval_shape(compiled_init(objective, tx, mesh), 0, batch)
    placed = jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), shapes, sharding.shardings(shapes, mesh, ())
    )
    step = compiled_step(objective, tx, mesh).lower(placed, batch, 0, 0).compile()
    share = bank.rows(num_examples) * 128 * 2 // 8
    assert share == pytest.approx(384e6, rel=1e-3)
    memory = step.memory_analysis()
    assert share < memory.argument_size_in_bytes < 1.01 * share
    assert memory.alias_size_in_bytes > 0.999 * share
    sent = sharding.collectives(step.as_text())
    assert max(size for sizes in sent.values() for size in sizes) <= draws * 128 * 4 < share / 10
    assert memory.temp_size_in_bytes < share / 2
