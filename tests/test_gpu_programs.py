"""What the steps are made of on a GPU, as far as it can be known without one: the programs before they are compiled."""

import functools
import re

import jax
import jax.numpy as jnp
import pytest

from radnet_jax import sharding
from radnet_jax.initial import batch_shapes
from radnet_jax.parts import assemble, make_objective, make_recipe, make_tx
from radnet_jax.step import compiled_init, train_step
from tests import every_objective
from tests.models import test_contract, test_decoders

KEY = jax.eval_shape(lambda: jax.random.key(0))


def lowered(function, *args, patch):
    """A function as it would be given to the compiler for a GPU. It is jitted here: nobody else gets the trace."""
    patch.setattr(jax, "default_backend", lambda: "gpu")
    return jax.jit(function).trace(*args).lower(lowering_platforms=("cuda",)).as_text()


def sums_in_scatters(text):
    """Sums of floats into places that are known when it runs, and windowed maxima, whose gradient is one.

    --deterministic has XLA work through such a sum one entry after the other, for hours.
    """
    scatters = re.findall(r'"stablehlo\.scatter".*?stablehlo\.return', text, re.DOTALL)
    sums = [s for s in scatters if "stablehlo.add" in s and re.search(r"tensor<(f32|bf16)>", s)]
    return sums + re.findall(r"stablehlo\.select_and_scatter.*", text)


@pytest.mark.parametrize("name", every_objective.marked())
def test_no_step_sums_in_a_scatter(ct_dataset, monkeypatch, name):
    config = every_objective.config(name, ct_dataset)
    mesh = sharding.make_mesh(1)
    parts = assemble(config, mesh)
    objective, recipe, (tx, _) = make_objective(config, parts), make_recipe(config, parts), make_tx(config)
    batch = batch_shapes(config, parts, objective, recipe)
    state = jax.eval_shape(compiled_init(objective, tx, mesh), config.seed, batch)
    batch = {k: jax.ShapeDtypeStruct((config.batch_size, *x.shape[1:]), x.dtype) for k, x in batch.items()}
    step = functools.partial(train_step, objective=objective, tx=tx, mesh=mesh)
    text = lowered(step, state, batch, 0, 0, patch=monkeypatch)
    assert "stablehlo.dot_general" in text
    assert not sums_in_scatters(text)
    for phase in objective.phases:
        finish = functools.partial(objective.finish, phase=phase)
        assert not sums_in_scatters(lowered(lambda s, r, f=finish: f(s, rng=r), state, KEY, patch=monkeypatch))


def gradient_of(apply, variables):
    """A sum over all outputs, its gradient by the parameters, and the variables' shapes."""

    def run(variables):
        def loss(params):
            out, _ = apply({**variables, "params": params})
            return sum(jnp.sum(jnp.sin(y)) for y in jax.tree.leaves(out))

        return jax.grad(loss)(variables["params"])

    return run, variables


@pytest.mark.parametrize("name", test_contract.SMALLEST)
def test_no_backbone_sums_in_a_scatter(monkeypatch, name):
    net, x = test_contract.small(name), test_contract.images(32, 32, 3)
    variables = test_contract.shapes(net, x)[1]
    apply = functools.partial(net.apply, mutable=["batch_stats"])
    run = gradient_of(lambda v: apply(v, x, train=True), variables)
    assert not sums_in_scatters(lowered(*run, patch=monkeypatch))


@pytest.mark.parametrize("backbone", ["resnet10", "vit_tiny"])
@pytest.mark.parametrize("name", test_decoders.SMALL)
def test_no_decoder_sums_in_a_scatter(monkeypatch, name, backbone):
    if backbone == "vit_tiny" and name != "upernet":
        pytest.skip("refused")
    decoder, maps = test_decoders.make(name), test_decoders.maps_of(test_contract.small(backbone), (64, 64))
    maps = jax.tree.map(lambda m: jnp.zeros(m.shape, m.dtype), maps)
    _, variables = test_decoders.shapes(decoder, maps, (64, 64))
    apply = functools.partial(decoder.apply, mutable=["batch_stats"])
    run = gradient_of(lambda v: apply(v, maps, (64, 64), train=True), variables)
    assert not sums_in_scatters(lowered(*run, patch=monkeypatch))
