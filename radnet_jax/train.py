"""The only train loop: pretraining, fine-tuning and training from scratch all run through `train_step`."""

from __future__ import annotations

from collections.abc import Callable
import functools
from pathlib import Path
import time
from typing import Any

from absl import logging
import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array, Int
from ml_collections import ConfigDict
import optax

from radnet_jax import records, rng, sharding, starts, trees
from radnet_jax.augment import recipes
from radnet_jax.augment.views import augment_image, make_views
from radnet_jax.checkpoint import Checkpoints
from radnet_jax.data.dataset import Split
from radnet_jax.data.pipeline import steps_per_epoch, train_batches
from radnet_jax.errors import UserError
from radnet_jax.evaluation import evaluators, ledger
from radnet_jax.objectives import Batch, Objective
from radnet_jax.parts import Parts, assemble, check_room, check_workdir, lock, make_objective, make_recipe, make_tx
from radnet_jax.preprocessing import Adapter
from radnet_jax.state import TrainState
from radnet_jax.writer import Writer

_ROOM = 2**24  # bytes for logs, predictions and the storage's own files


def train_step(
    state: TrainState, batch: Batch, seed: Int[Array, ""], *, objective: Objective, tx: optax.GradientTransformation
) -> tuple[TrainState, dict[str, Array]]:
    """One update: loss and gradient over the global batch, optimizer, what the objective does after it."""
    key = rng.stream(seed, "loss", state.step)

    def loss_of(params: Any) -> tuple[Array, Any]:
        return objective.loss(params, state, batch, key)

    (loss, aux), gradients = jax.value_and_grad(loss_of, has_aux=True)(state.params)
    updates, opt_state = tx.update(gradients, state.opt_state, state.params)
    state = state.replace(
        step=state.step + 1,
        params=optax.apply_updates(state.params, updates),
        model_state=aux.model_state,
        objective_state=aux.objective_state,
        opt_state=opt_state,
    )
    params, objective_state = objective.after_update(state)
    metrics = {"loss": loss, "gradient_norm": optax.tree.norm(gradients), **aux.metrics}
    return state.replace(params=params, objective_state=objective_state), metrics


def prepare(
    batch: Batch,
    seed: Int[Array, ""],
    step: Int[Array, ""],
    *,
    requires: frozenset[str],
    adapter: Adapter,
    recipe: recipes.Recipe,
) -> dict[str, Array]:
    """Makes what an objective requires of a batch of stored pixels: a jitted stage of its own before the step.

    Each example has its own draw, keyed by (seed, step, row of the global batch).
    """
    key = rng.stream(seed, "augment", step)
    out = {k: batch[k] for k in requires if k in batch and k not in ("image", "views")}
    if "views" in requires:
        out["views"] = make_views(batch["image"], adapter, recipe, key, 2)
    if "image" in requires:
        out["image"] = augment_image(batch["image"], adapter, recipe, key)
    return out


# Equal arguments give the same compiled function, so that the runs of a study share their compilations.
@functools.lru_cache(maxsize=32)
def _compiled_step(objective: Objective, tx: optax.GradientTransformation, mesh: Mesh) -> Callable[..., Any]:
    step = functools.partial(train_step, objective=objective, tx=tx)
    return jax.jit(step, donate_argnums=0, out_shardings=sharding.replicated(mesh))


@functools.lru_cache(maxsize=32)
def _compiled_prepare(
    requires: frozenset[str], adapter: Adapter, recipe: recipes.Recipe, mesh: Mesh
) -> Callable[..., Any]:
    stage = functools.partial(prepare, requires=requires, adapter=adapter, recipe=recipe)
    return jax.jit(stage, out_shardings=sharding.batch_sharding(mesh))


@functools.lru_cache(maxsize=32)
def _compiled_init(objective: Objective, tx: optax.GradientTransformation, mesh: Mesh) -> Callable[..., TrainState]:
    def init(seed: Int[Array, ""], batch: Batch) -> TrainState:
        params, model_state, objective_state = objective.init(rng.stream(seed, "init"), batch)
        step = jnp.zeros((), jnp.int32)
        return TrainState(step, params, model_state, objective_state, tx.init(params), {})

    return jax.jit(init, out_shardings=sharding.replicated(mesh), compiler_options=rng.RUN_ONCE)


def initial_state(
    config: ConfigDict, parts: Parts, objective: Objective, tx: optax.GradientTransformation, recipe: recipes.Recipe
) -> TrainState:
    """Returns the state at step 0: random, with the start's backbone in place where there is one."""
    stored = parts.adapter.stored
    k = len(parts.split.card.labels)
    raw = {
        "image": jax.ShapeDtypeStruct((1, *stored.size, stored.channels), stored.dtype),
        "labels": jax.ShapeDtypeStruct((1, k), "float32"),
        "label_mask": jax.ShapeDtypeStruct((1, k), "float32"),
        "index": jax.ShapeDtypeStruct((1,), "int32"),
    }
    stage = functools.partial(prepare, requires=objective.requires, adapter=parts.adapter, recipe=recipe)
    shapes = jax.eval_shape(stage, raw, 0, 0)
    batch = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    state = _compiled_init(objective, tx, parts.mesh)(config.seed, batch)
    if parts.start is not None:
        params, model_state = starts.fill(parts.start, state.params, state.model_state, heads=objective.heads)
        # Optimizer states start at zero or one whatever the parameters are.
        state = state.replace(params=params, model_state=model_state)
    return sharding.replicate(state, parts.mesh)


def check(config: ConfigDict, parts: Parts) -> list[Split]:
    """Makes every check that needs no weights; returns the splits that the run will be judged on."""
    objective = make_objective(config, parts)
    make_recipe(config, parts)
    steps_per_epoch(len(parts.split), config.batch_size)
    if "labels" in objective.requires and not parts.split.all_labels()[1].any():
        raise UserError(f"objective {config.objective.name!r} needs labels, and split {parts.split.name!r} has none")
    return records.check_judged(config, parts)


def run(config: ConfigDict, workdir: str | Path) -> Path:
    """Trains as the config says, evaluates, and writes the run's folder; goes on from its last checkpoint.

    Restore order: the workdir's own newest checkpoint, else `init_from`, else random initialisation. A finished run is
    left as it is.

    Returns:
      The workdir.

    Raises:
      UserError: whatever a user can mend, before anything is trained.
    """
    began = time.perf_counter()
    parts = assemble(config)
    judged = check(config, parts)
    objective, recipe = make_objective(config, parts), make_recipe(config, parts)
    tx, schedule = make_tx(config)
    workdir = check_workdir(workdir, need_bytes=0)
    if records.is_finished(config, parts, workdir):
        return workdir
    with lock(workdir):
        state = initial_state(config, parts, objective, tx, recipe)
        check_room(workdir, (config.checkpoint.keep + 1) * trees.size_bytes(state) + _ROOM)
        checkpoints = Checkpoints(workdir, keep=config.checkpoint.keep)
        try:
            restored = checkpoints.restore_latest(
                state, check=lambda meta: records.check_same_run(meta, config, parts, workdir, "a checkpoint")
            )
            state, seconds_before = (restored[0], restored[1]["seconds"]) if restored else (state, 0.0)
            start = int(state.step)
            source = f"checkpoint {start}" if restored else (config.init_from or "random initialisation")
            logging.info("%s: starting from %s", workdir, source)
            meta = records.checkpoint_meta(config, parts)
            save = functools.partial(_save, checkpoints, workdir, meta, seconds_before, time.perf_counter())
            state = _loop(config, parts, objective, tx, schedule, recipe, state, save, workdir)
            checkpoints.wait()
        finally:
            checkpoints.close()
        trained = seconds_before + time.perf_counter() - began
        predictions, metrics = _judge(config, parts, objective, state, judged)
        timings = {
            "train_s": trained,  # over all sittings, up to the last save of each
            "total_s": seconds_before + time.perf_counter() - began,
            "first_step": start,
        }
        record = records.run_record(config, parts, timings=timings, metrics=metrics)
        if jax.process_index() == 0:
            ledger.write_run(workdir, record, predictions=predictions)
            logging.info("%s", records.outcome(record))
    return workdir


def _save(
    checkpoints: Checkpoints,
    workdir: Path,
    meta: dict[str, Any],
    seconds_before: float,
    began: float,
    state: TrainState,
    metrics: dict[str, Array],
) -> None:
    """Saves a state that is finite, where there is room for it."""
    step = int(state.step)
    if not all(bool(jnp.isfinite(metrics[name])) for name in ("loss", "gradient_norm")):
        raise UserError(
            f"loss or gradient are not finite at step {step} of {workdir}",
            fix="lower the learning rate or lengthen the warm-up; earlier checkpoints were kept",
        )
    check_room(workdir, trees.size_bytes(state) + _ROOM)
    checkpoints.save(step, state, meta | {"seconds": seconds_before + time.perf_counter() - began})


def _judge(
    config: ConfigDict, parts: Parts, objective: Objective, state: TrainState, judged: list[Split]
) -> tuple[ledger.Predictions | None, dict[str, Any]]:
    """Returns predictions and metrics on whole splits, where the run is judged on any."""
    if not judged:
        return None, {}
    scores = {}
    for split in judged:
        out = evaluators.predict_split(
            evaluators.predict_of(objective),
            state.params,
            state.model_state,
            split,
            adapter=parts.adapter,
            batch_size=config.eval_batch_size,
            mesh=parts.mesh,
        )
        scores[split] = evaluators.scores_of(out["logits"], split.card)
    return records.judge(scores)


def _loop(
    config: ConfigDict,
    parts: Parts,
    objective: Objective,
    tx: optax.GradientTransformation,
    schedule: optax.Schedule,
    recipe: recipes.Recipe,
    state: TrainState,
    save: Callable[[TrainState, dict[str, Array]], None],
    workdir: Path,
) -> TrainState:
    """Runs the steps that are left; returns the final state."""
    start, total = int(state.step), config.total_steps
    if start >= total:
        return state
    step_fn = _compiled_step(objective, tx, parts.mesh)
    prepare_fn = _compiled_prepare(objective.requires, parts.adapter, recipe, parts.mesh)
    batches = train_batches(
        parts.split,
        seed=config.seed,
        batch_size=config.batch_size,
        start=start,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
    )
    wanted = {"image"} | (objective.requires - {"views"})
    label = str(config.name)
    writer = Writer(workdir, total_steps=total, batch_size=config.batch_size, start=start, label=label)
    try:
        previous = None
        for step in range(start, total):
            waiting = time.perf_counter()
            batch = next(batches)
            writer.add_input_wait(time.perf_counter() - waiting)
            device_batch = sharding.put_batch({k: batch[k] for k in wanted}, parts.mesh)
            prepared = prepare_fn(device_batch, config.seed, step)
            state, metrics = step_fn(state, prepared, config.seed)
            if previous is not None:
                jax.block_until_ready(previous)  # at most two steps in flight, so that memory is bounded
            previous = metrics["loss"]
            done = step + 1
            if done % config.log_every == 0 or done == total:
                writer.write(done, {**metrics, "learning_rate": schedule(step)})
            if done % config.checkpoint.every == 0 or done == total:
                save(state, metrics)
    finally:
        writer.close()
        getattr(batches, "close", lambda: None)()
    return state
