"""BatchNorm: the formula on each part of the batch, nn.BatchNorm with one part, and every backbone that has it."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from radnet_jax import sharding
from radnet_jax.models.norm import BatchNorm
from tests.models.test_contract import SMALLEST, small

PARAMS = {"scale": jnp.asarray([0.5, 1.0, 2.0]), "bias": jnp.asarray([-1.0, 0.0, 3.0])}
STATS = {"mean": jnp.asarray([0.1, 0.2, 0.3]), "var": jnp.asarray([1.0, 2.0, 3.0])}
VARIABLES = {"params": PARAMS, "batch_stats": STATS}


def maps(rows=64):
    x = np.random.default_rng(0).normal(2, 3, (rows, 4, 5, 3))
    return (x * np.linspace(1, 2, rows)[:, None, None, None]).astype(np.float32)  # no two parts are alike


def trained(net, x):
    """Output, new statistics and gradients."""

    def total(params, x):
        y, updates = net.apply({"params": params, "batch_stats": STATS}, x, mutable=["batch_stats"])
        return jnp.sum(jnp.sin(y.astype(jnp.float32))), (y, updates["batch_stats"])

    return jax.jit(jax.value_and_grad(total, (0, 1), has_aux=True))(PARAMS, x)


@pytest.mark.parametrize("shape", [(64, 4, 5, 3), (64, 3)])
@pytest.mark.parametrize("groups", [1, 2, 8])
def test_each_part_is_normalised_by_its_own_statistics(groups, shape):
    x = maps()[:, : shape[1], 0] if len(shape) == 4 else maps()[:, 0, 0]
    (_, (y, stats)), _ = trained(BatchNorm(use_running_average=False, groups=groups), x)
    for part, out in zip(np.split(x.astype(np.float64), groups), np.split(np.asarray(y), groups)):
        axes = tuple(range(part.ndim - 1))
        want = (part - part.mean(axes)) / np.sqrt(part.var(axes) + 1e-5) * PARAMS["scale"] + PARAMS["bias"]
        np.testing.assert_allclose(out, want, atol=1e-5)
    first = np.split(x.astype(np.float64), groups)[0]
    np.testing.assert_allclose(stats["mean"], 0.9 * STATS["mean"] + 0.1 * first.mean(axes), rtol=1e-5)
    np.testing.assert_allclose(stats["var"], 0.9 * STATS["var"] + 0.1 * first.var(axes), rtol=1e-5)


def test_parts_are_torchs_chunks():
    torch = pytest.importorskip("torch")
    x = maps()
    (_, (y, stats)), (_, dx) = trained(BatchNorm(use_running_average=False, groups=4), x)
    for i in range(4):
        norm = torch.nn.BatchNorm2d(3, momentum=0.1)
        with torch.no_grad():
            for ours, theirs in ((PARAMS["scale"], norm.weight), (PARAMS["bias"], norm.bias)):
                theirs.copy_(torch.from_numpy(np.array(ours)))
            norm.running_mean.copy_(torch.from_numpy(np.array(STATS["mean"])))
            norm.running_var.copy_(torch.from_numpy(np.array(STATS["var"])))
        part = torch.from_numpy(x[16 * i : 16 * i + 16].transpose(0, 3, 1, 2).copy()).requires_grad_()
        out = norm(part)
        torch.sin(out).sum().backward()
        np.testing.assert_allclose(y[16 * i : 16 * i + 16].transpose(0, 3, 1, 2), out.detach(), atol=1e-5)
        np.testing.assert_allclose(dx[16 * i : 16 * i + 16].transpose(0, 3, 1, 2), part.grad, atol=1e-5)
        if i == 0:
            np.testing.assert_allclose(stats["mean"], norm.running_mean, rtol=1e-5)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_one_part_is_linens_batch_norm(dtype):
    x = maps().astype(dtype)
    ours = BatchNorm(use_running_average=False, dtype=dtype)
    linen = nn.BatchNorm(use_running_average=False, momentum=0.9, dtype=dtype)
    got, want = trained(ours, x), trained(linen, x)
    assert jax.tree.structure(got) == jax.tree.structure(want)
    assert got[0][1][0].dtype == dtype
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want)):
        np.testing.assert_allclose(np.asarray(a, np.float32), np.asarray(b, np.float32), rtol=1e-5, atol=1e-5)
    initial = [jax.eval_shape(lambda n=n: n.init(jax.random.key(0), x)) for n in (ours, linen)]
    assert initial[0] == initial[1]


def test_eval_mode_knows_no_parts():
    x = maps(3)  # which 8 does not divide
    got = BatchNorm(use_running_average=True, groups=8).apply(VARIABLES, x)
    want = (x - STATS["mean"]) / np.sqrt(STATS["var"] + 1e-5) * PARAMS["scale"] + PARAMS["bias"]
    np.testing.assert_allclose(got, want, atol=1e-5)


@pytest.mark.parametrize("groups", [1, 2, 8, 16])
def test_devices_change_neither_values_nor_the_layout(groups):
    net = BatchNorm(use_running_average=False, groups=groups)
    x = maps()
    mesh = sharding.make_mesh(8)
    divided = jax.device_put(x, sharding.batch_sharding(mesh))
    got, want = trained(net, divided), trained(net, x)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want)):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)
    forward = jax.jit(lambda x: net.apply(VARIABLES, x, mutable=["batch_stats"])[0])
    compiled = forward.lower(divided).compile()
    assert compiled.output_shardings.spec == sharding.batch_sharding(mesh).spec
    sent = sharding.collectives(compiled.as_text())
    assert set(sent) == (set() if groups % 8 == 0 else {"all-reduce"})


@pytest.mark.parametrize("name", [*SMALLEST, "resnet50"])
def test_every_kind_of_backbone_with_statistics_takes_groups(name):
    def shapes(rows, **kwargs):
        net = small(name, **kwargs)
        x = jnp.zeros((rows, 64, 64, 3))
        variables = jax.eval_shape(lambda: net.init(jax.random.key(0), x[:1], train=False))
        rngs = {"dropout": jax.random.key(1)}
        run = functools.partial(net.apply, train=True, mutable=["batch_stats"], rngs=rngs)
        return jax.eval_shape(run, variables, x)[1]

    if not shapes(3):
        pytest.skip("no BatchNorm")
    assert shapes(4, groups=2) == shapes(4)
    with pytest.raises(TypeError, match="reshape"):
        shapes(3, groups=2)
