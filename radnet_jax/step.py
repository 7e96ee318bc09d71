"""One update, and the stage before it: what is compiled for each step of a run."""

from __future__ import annotations

from collections.abc import Callable
import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array, Int
import optax

from radnet_jax import monitors, rng, sharding
from radnet_jax.augment import recipes
from radnet_jax.augment.tiles import make_tiles
from radnet_jax.augment.views import augment_image, make_local_views, make_views
from radnet_jax.objectives import Batch, Objective
from radnet_jax.online import LinearProbe
from radnet_jax.preprocessing import Adapter
from radnet_jax.state import LossAux, TrainState

MADE = frozenset({"views", "local_views", "tiles"})  # batch keys that are made of the image


def train_step(
    state: TrainState,
    batch: Batch,
    seed: Int[Array, ""],
    step: Int[Array, ""] | None = None,
    *,
    objective: Objective,
    tx: optax.GradientTransformation,
    accumulate: int = 1,
    average: float = 0.0,
    mesh: Mesh | None = None,
    fsdp: sharding.Rules = (),
    probe: LinearProbe | None = None,
) -> tuple[TrainState, dict[str, Any]]:
    """One update: loss and gradient over the global batch, optimizer, what the objective does after it.

    A step whose loss or gradient is not finite changes nothing but the `bank` of `objective_state` (too large to be
    held twice), and neither does a later one, whose `step` is then not the state's: the loop learns of it late, and
    finds the state as it was.

    Args:
      state: before the update.
      batch: what the objective requires.
      seed: of the run.
      step: that the loop is at; the state's own by default.
      objective: what to minimise.
      tx: the optimizer.
      accumulate: parts that the batch is divided into, one after another; for objectives with a `weight`.
      average: momentum of the running average of weights in `state.aux`; 0 for none. It is lower in the first steps,
        (1 + t) / (10 + t), so that the random initialisation is soon forgotten.
      mesh: the devices, where `fsdp` divides the state over them.
      fsdp: what is divided; parameters, a target's too, are gathered for the loss and its gradient.
      probe: trained beside, on features that get no gradient from it; its state is in `state.aux`.

    Returns:
      The new state, and metrics: loss, gradient_norm, those of the objective, `finite`, and `watched`: arrays by
      example for `compiled_observe`.
    """
    key = rng.stream(seed, "loss", state.step)
    loss, aux, gradients = gradients_of(objective, state, batch, key, accumulate, mesh if fsdp else None, fsdp)
    norm = optax.tree.norm(gradients)
    updates, opt_state = tx.update(gradients, state.opt_state, state.params)
    if "plateau" in state.aux:  # a factor of the learning rate, outside the moments as in torch (LARS has it inside)
        updates = jax.tree.map(lambda u: u * state.aux["plateau"]["factor"], updates)
    new = state.replace(
        step=state.step + 1,
        params=optax.apply_updates(state.params, updates),
        model_state=aux.model_state,
        objective_state=aux.objective_state,
        opt_state=opt_state,
    )
    params, objective_state = objective.after_update(new)
    new = new.replace(params=params, aux=_averaged(new, average))
    watched = {} if aux.embedding is None else {"embedding": aux.embedding}
    metrics = {"loss": loss, "gradient_norm": norm, **aux.metrics}
    if probe is not None:
        assert aux.features is not None, "a pretraining objective hands out its features"
        probe_state, metrics["probe_loss"], seen = probe.update(
            state.aux["online_probe"], aux.features, batch["labels"], batch["label_mask"]
        )
        new, watched = new.replace(aux={**new.aux, "online_probe": probe_state}), watched | seen
    finite = jnp.isfinite(loss) & jnp.isfinite(norm) & (state.step == (state.step if step is None else step))
    bank = {k: v for k, v in objective_state.items() if k == "bank"}
    guarded = new.replace(objective_state=_without_bank(objective_state))
    before = state.replace(objective_state=_without_bank(state.objective_state))
    new = jax.tree.map(lambda n, o: jnp.where(finite, n, o), guarded, before)
    new = new.replace(objective_state=new.objective_state | bank)
    return new, metrics | {"finite": finite, "watched": watched}


def _without_bank(objective_state: dict[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in objective_state.items() if k != "bank"}


def gradients_of(
    objective: Objective,
    state: TrainState,
    batch: Batch,
    key: Array,
    accumulate: int = 1,
    mesh: Mesh | None = None,
    fsdp: sharding.Rules = (),
) -> tuple[Array, LossAux, Any]:
    """Returns loss, what changed beside the parameters, and gradient; means over the parts of the batch."""
    params = state.params
    if mesh is not None:
        params = sharding.gather(params, mesh)
        targets = {k: sharding.gather(v, mesh) for k, v in state.objective_state.items() if k == "target"}
        state = state.replace(objective_state=state.objective_state | targets)

    def one(state: TrainState, part: Batch, key: Array) -> tuple[Array, LossAux, Any]:
        with_gradient = jax.value_and_grad(lambda p: objective.loss(p, state, part, key), has_aux=True)
        (loss, aux), gradient = with_gradient(params)
        return loss, aux, gradient if mesh is None else sharding.constrain(gradient, mesh, fsdp, prefix="params/")

    if accumulate == 1:
        return one(state, batch, key)
    # Part i has every n-th row, so that each device divides its own rows and none is sent.
    parts = {k: x.reshape(-1, accumulate, *x.shape[1:]).swapaxes(0, 1) for k, x in batch.items()}

    def add(carry: Any, item: Any) -> tuple[Any, Any]:
        total, weights, model_state, objective_state = carry
        number, part = item
        seen = state.replace(model_state=model_state, objective_state=objective_state)
        rng = jax.random.fold_in(key, number)
        loss, aux, gradient = one(seen, part, rng)
        weight = objective.weight(part, rng)  # type: ignore[misc]
        means = (loss, aux.metrics, gradient)
        total = jax.tree.map(lambda t, x: t + weight * x, total, means)
        return (total, weights + weight, aux.model_state, aux.objective_state), (aux.features, aux.embedding)

    first = {k: x[0] for k, x in parts.items()}
    loss, aux, gradient = jax.eval_shape(one, state, first, key)
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), (loss, aux.metrics, gradient))
    carry = (zeros, jnp.zeros(()), state.model_state, state.objective_state)
    (total, weights, model_state, objective_state), seen = jax.lax.scan(add, carry, (jnp.arange(accumulate), parts))
    loss, metrics, gradient = jax.tree.map(lambda x: x / jnp.maximum(weights, 1e-9), total)
    in_order = jax.tree.map(lambda x: x.swapaxes(0, 1).reshape(-1, *x.shape[2:]), seen)
    return loss, LossAux(model_state, objective_state, metrics, *in_order), gradient


def _averaged(new: TrainState, average: float) -> dict[str, Any]:
    if not average:
        return new.aux
    t = (new.step - 1).astype(jnp.float32)
    momentum = jnp.minimum(average, (1 + t) / (10 + t))
    weights = {"params": new.params, "model_state": new.model_state}
    blend = jax.tree.map(lambda old, w: momentum * old + (1 - momentum) * w, new.aux["average"], weights)
    return {**new.aux, "average": blend}


def prepare(
    batch: Batch,
    seed: Int[Array, ""],
    step: Int[Array, ""],
    *,
    requires: frozenset[str],
    adapter: Adapter,
    recipe: recipes.Recipe,
    mesh: Mesh | None = None,
) -> dict[str, Array]:
    """Makes what an objective requires of a batch of stored pixels: a jitted stage of its own before the step.

    Each example has its own draw, keyed by (seed, step, row of the global batch). A mask moves with its image.
    """
    key = rng.stream(seed, "augment", step)
    out = {k: batch[k] for k in requires if k in batch and k not in ("image", "segmentation")}
    image = batch["image"]
    if "views" in requires:
        out["views"] = make_views(image, adapter, recipe, key, 2, mesh=mesh)
    if "local_views" in requires:
        out["local_views"] = make_local_views(image, adapter, recipe, key, 2, mesh=mesh)
    if "tiles" in requires:
        out["tiles"] = make_tiles(image, adapter, recipe, key, mesh=mesh)
    if "image" in requires:
        mask = batch["segmentation"] if "segmentation" in requires else None
        out["image"], moved = augment_image(image, adapter, recipe, key, mask, mesh=mesh)
        out |= {} if moved is None else {"segmentation": moved}
    return out


# Equal arguments give the same compiled function, so that the runs of a study share their compilations.
@functools.lru_cache(maxsize=32)
def compiled_step(
    objective: Objective,
    tx: optax.GradientTransformation,
    mesh: Mesh,
    accumulate: int = 1,
    average: float = 0.0,
    fsdp: sharding.Rules = (),
    probe: LinearProbe | None = None,
) -> Callable[..., Any]:
    options: dict[str, Any] = {"accumulate": accumulate, "average": average, "mesh": mesh, "fsdp": fsdp, "probe": probe}

    def step(state: TrainState, *args: Any) -> tuple[TrainState, dict[str, Any]]:
        state, metrics = train_step(state, *args, objective=objective, tx=tx, **options)
        watched = jax.lax.with_sharding_constraint(metrics.pop("watched"), sharding.batch_sharding(mesh))
        return sharding.constrain(state, mesh, fsdp), sharding.gather(metrics, mesh) | {"watched": watched}

    return jax.jit(step, donate_argnums=0)


@functools.lru_cache(maxsize=32)
def compiled_observe(mesh: Mesh, probe: LinearProbe | None = None) -> Callable[..., dict[str, Array]]:
    """Returns the function from `watched` to metrics: a program of its own, that only logged steps pay for."""

    def observe(watched: Batch) -> dict[str, Array]:
        metrics = monitors.embedding_metrics(watched["embedding"]) if "embedding" in watched else {}
        return metrics if probe is None else metrics | probe.metrics(watched)

    return jax.jit(observe, out_shardings=sharding.replicated(mesh))


@functools.lru_cache(maxsize=32)
def compiled_prepare(
    requires: frozenset[str], adapter: Adapter, recipe: recipes.Recipe, mesh: Mesh
) -> Callable[..., Any]:
    stage = functools.partial(prepare, requires=requires, adapter=adapter, recipe=recipe, mesh=mesh)
    return jax.jit(stage, out_shardings=sharding.batch_sharding(mesh))


@functools.lru_cache(maxsize=32)
def compiled_init(
    objective: Objective,
    tx: optax.GradientTransformation,
    mesh: Mesh,
    fsdp: sharding.Rules = (),
    probe: LinearProbe | None = None,
) -> Callable[..., TrainState]:
    def init(seed: Int[Array, ""], batch: Batch) -> TrainState:
        params, model_state, objective_state = objective.init(rng.stream(seed, "init"), batch)
        step = jnp.zeros((), jnp.int32)
        state = TrainState(step, params, model_state, objective_state, tx.init(params), {})
        state = state.replace(objective_state=objective.begin(state))
        if probe is not None:
            _, seen = jax.eval_shape(objective.loss, params, state, batch, jax.random.key(0))
            state = state.replace(aux={"online_probe": probe.init(seen.features.shape[-1])})
        return sharding.constrain(state, mesh, fsdp)

    return jax.jit(init, compiler_options=rng.RUN_ONCE)
