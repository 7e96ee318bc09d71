"""What an objective's step costs beside the passes through networks that it can't do without.

    python benchmarks/objectives.py                      # ResNet-18 of width 16 at 64 px, any machine
    python benchmarks/objectives.py --only=swav,pcl_v2 --batch=128

For each config of configs/pretrain: the compiled step as the loop runs it, against a bare loop over the same passes
(the same networks forward and back for what gets a gradient, forward only for targets, images of the same sizes and
numbers) with a mean of squares for the loss and the same optimizer. Steps alternate; `ratio` is the median over the
rounds of processor time of one step against the same round's bare one, 1.10 or less is wanted. Wall time is given too.

The passes are those that the objective asks for, found by watching its loss; `passes` lists them as network, images and
their size, with (-) where there is no gradient.
"""

from __future__ import annotations

from collections.abc import Callable
import dataclasses
import json
from pathlib import Path
import statistics
import tempfile
import time
from typing import Any
from unittest import mock

from absl import app, flags
import flax.linen as nn
import jax
import jax.numpy as jnp
from ml_collections import ConfigDict
import optax

from data_prep.build import build
from data_prep.phantom import write_ct
from radnet_jax import sharding, train
from radnet_jax.data.pipeline import train_batches
from radnet_jax.main import load_config
from radnet_jax.objectives import networks
from radnet_jax.parts import assemble, make_objective, make_recipe, make_tx
from radnet_jax.phases import Phases
from radnet_jax.step import MADE, compiled_prepare, compiled_step

ROOT = Path(__file__).parent.parent
_ONLY = flags.DEFINE_list("only", [], "Names of configs; all by default.")
_BATCH = flags.DEFINE_integer("batch", 64, "Examples a step.")
_SIZE = flags.DEFINE_integer("size", 64, "Pixels a side.")
_ROUNDS = flags.DEFINE_integer("rounds", 9, "Timed steps of each.")


@dataclasses.dataclass
class Pass:
    """An application of a chain of networks, or of a part of one network, as an objective asked for it.

    Attributes:
      name: of the networks.
      inputs: shapes and types.
      trained: whether its parameters get a gradient.
      call: (params, batch statistics, *inputs) -> output, new batch statistics.
    """

    name: str
    inputs: list[jax.ShapeDtypeStruct]
    trained: bool
    call: Callable[..., tuple[jax.Array, Any]]

    def __str__(self) -> str:
        shape = self.inputs[0].shape
        size = "x".join(map(str, shape[1:3] if len(shape) == 4 else shape[1:]))
        return f"{self.name} {shape[0]} of {size}{'' if self.trained else ' (-)'}"


def watched_passes(objective: Any, state: Any, batch: Any) -> list[Pass]:
    """Traces the loss and notes every pass; one is trained whose parameters come of those that get the gradient."""
    passes: list[Pass] = []
    online: dict[int, str] = {}  # leaves of the parameters, and of which network
    of_chain, of_part = networks.apply, nn.Module.apply
    within = [False]

    def chain(modules: Any, params: Any, batch_stats: Any, x: Any, *, train: bool) -> Any:
        weights = jax.tree.leaves({name: params[name] for name in modules})
        trained = all(isinstance(leaf, jax.core.Tracer) for leaf in weights)  # those of a target are plain arrays
        called = dict(modules)

        def call(weights: Any, stats: Any, x: Any) -> Any:
            outputs, new = of_chain(called, weights, stats, x, train=train)
            return outputs[next(reversed(called))], new

        passes.append(Pass("+".join(modules), [jax.ShapeDtypeStruct(x.shape, x.dtype)], trained, call))
        within[0] = True
        try:
            return of_chain(modules, params, batch_stats, x, train=train)
        finally:
            within[0] = False

    def part(module: Any, variables: Any, *args: Any, **kwargs: Any) -> Any:
        if not within[0]:  # MAE, which calls a part of its encoder for all patches and the rest for some
            names = {online.get(id(leaf)) for leaf in jax.tree.leaves(variables["params"])}
            (name,) = names
            places = [i for i, x in enumerate(args) if isinstance(x, jax.Array)]

            def call(weights: Any, stats: Any, *inputs: Any) -> Any:
                filled = [inputs[places.index(i)] if i in places else x for i, x in enumerate(args)]
                return of_part(module, {"params": weights[name]}, *filled, **kwargs), stats

            inputs = [jax.ShapeDtypeStruct(args[i].shape, args[i].dtype) for i in places]
            method = kwargs.get("method")
            passes.append(Pass(f"{name}.{method}" if method else str(name), inputs, True, call))
        return of_part(module, variables, *args, **kwargs)

    def loss(params: Any) -> Any:
        online.update((id(leaf), name) for name, network in params.items() for leaf in jax.tree.leaves(network))
        return objective.loss(params, state, batch, jax.random.key(0))[0]

    with mock.patch.object(networks, "apply", chain), mock.patch.object(nn.Module, "apply", part):
        jax.eval_shape(loss, state.params)
    return passes


def made_up(key: Any, like: jax.ShapeDtypeStruct) -> jax.Array:
    """Random numbers, or for whole ones places in a row: 0, 1, ..."""
    if jnp.issubdtype(like.dtype, jnp.integer):
        return jnp.broadcast_to(jnp.arange(like.shape[-1], dtype=like.dtype), like.shape)
    return jax.random.normal(key, like.shape, like.dtype)


def bare_step(passes: list[Pass], tx: optax.GradientTransformation) -> Callable[..., Any]:
    """Returns a jitted step over the passes alone: (params, targets, stats, opt_state, inputs) -> the same, new."""

    def loss(params: Any, targets: Any, stats: Any, inputs: list[Any]) -> Any:
        total, new, kept = jnp.zeros(()), stats, []
        for one, values in zip(passes, inputs, strict=True):
            last, new = one.call(params if one.trained else targets, new, *values)
            last = last.astype(jnp.float32)
            if one.trained:
                total += jnp.mean(last**2)
            else:
                kept.append(jax.lax.stop_gradient(last))  # an output, so that it is computed
        return total, (new, kept)

    def step(params: Any, targets: Any, stats: Any, opt_state: Any, inputs: list[Any]) -> Any:
        gradient, (new, kept) = jax.grad(loss, has_aux=True)(params, targets, stats, inputs)
        updates, opt_state = tx.update(gradient, opt_state, params)
        return optax.apply_updates(params, updates), new, opt_state, kept

    return jax.jit(step, donate_argnums=(0, 2, 3))


def timed(step: Callable[[], Any]) -> tuple[float, float]:
    """Returns seconds of the clock and of the processor."""
    wall, cpu = time.perf_counter(), time.process_time()
    jax.block_until_ready(step())
    return time.perf_counter() - wall, time.process_time() - cpu


def measure(name: str, dataset: Path) -> dict[str, Any]:
    config = load_config(ROOT / "configs" / "pretrain" / f"{name}.py", f"smoke,size={_SIZE.value}").to_dict()
    config["data"]["dir"] = str(dataset)
    config["batch_size"] = config["eval_batch_size"] = _BATCH.value
    config = ConfigDict(config).lock()
    parts = assemble(config, sharding.make_mesh(1))
    objective, recipe, (tx, _) = make_objective(config, parts), make_recipe(config, parts), make_tx(config)
    state = train.initial_state(config, parts, objective, tx, recipe)
    state, _ = Phases(config, parts, objective).run(state, 0)
    batches = train_batches(parts.split, seed=0, batch_size=_BATCH.value)
    raw = next(batches)
    batches.close()
    wanted = {"image"} | (objective.requires - MADE)
    prepare = compiled_prepare(objective.requires, parts.adapter, recipe, parts.mesh)
    batch = prepare(sharding.put_batch({k: raw[k] for k in wanted}, parts.mesh), 0, 0)

    passes = watched_passes(objective, state, batch)
    inputs = [[made_up(jax.random.key(i), like) for like in one.inputs] for i, one in enumerate(passes)]
    bare = bare_step(passes, tx)
    carry = [jax.tree.map(jnp.copy, x) for x in (state.params, state.model_state["batch_stats"], state.opt_state)]
    targets = jax.tree.map(jnp.copy, state.objective_state.get("target", {}).get("params", state.params))
    step = compiled_step(objective, tx, parts.mesh)
    held = [state]

    def ours() -> Any:
        held[0], metrics = step(held[0], batch, 0, 0)
        return held[0], metrics

    def alone() -> Any:
        carry[0], carry[1], carry[2], kept = bare(carry[0], targets, carry[1], carry[2], inputs)
        return carry, kept

    ours(), alone()
    rounds = [(timed(ours), timed(alone)) for _ in range(_ROUNDS.value)]
    return {
        "benchmark": "objectives",
        "config": name,
        "passes": [str(one) for one in passes],
        "ratio": round(statistics.median(o[1] / a[1] for o, a in rounds), 3),
        "ratio_of_wall_time": round(statistics.median(o[0] / a[0] for o, a in rounds), 3),
        "step_ms": round(1000 * statistics.median(o[0] for o, _ in rounds), 1),
        "batch": _BATCH.value,
        "size": _SIZE.value,
        "device": jax.devices()[0].device_kind,
        "jax": jax.__version__,
    }


def main(argv: list[str]) -> None:
    del argv
    names = _ONLY.value or sorted(path.stem for path in (ROOT / "configs" / "pretrain").glob("[!_]*.py"))
    with tempfile.TemporaryDirectory() as folder:
        source, dataset = Path(folder) / "source", Path(folder) / "dataset"
        write_ct(source, patients_per_region=12, slices=10, image_size=_SIZE.value)
        build("radnet", source, dataset, size=_SIZE.value, splits=("train",), log=lambda *_: None)
        for name in names:
            print(json.dumps(measure(name, dataset)), flush=True)
            jax.clear_caches()


if __name__ == "__main__":
    app.run(main)
