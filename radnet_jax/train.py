"""The only train loop: pretraining, fine-tuning and training from scratch all run through `train_step`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
import dataclasses
from pathlib import Path
from typing import Any

from absl import logging
import jax
from jaxtyping import Array
from ml_collections import ConfigDict
import numpy as np
import optax

from radnet_jax import (
    identity_audit,
    monitors,
    nonfinite,
    online,
    preemption,
    profiling,
    records,
    rng,
    selection,
    sharding,
    sinks,
    sweep,
    trees,
)
from radnet_jax.augment import recipes
from radnet_jax.checkpoint import Checkpoints
from radnet_jax.data.dataset import Split
from radnet_jax.data.pipeline import train_batches
from radnet_jax.errors import NotFiniteError, Preempted, UserError
from radnet_jax.evaluation import ledger
from radnet_jax.goodput import Goodput, in_words, shares
from radnet_jax.initial import batch_shapes, initial_state, trace
from radnet_jax.objectives import Objective
from radnet_jax.parts import Parts, assemble, check_room, check_workdir, lock, make_objective, make_recipe, make_tx
from radnet_jax.phases import Phases
from radnet_jax.state import TrainState
from radnet_jax.step import MADE, compiled_init, compiled_observe, compiled_prepare, compiled_step
from radnet_jax.writer import Writer

_ROOM = 2**24  # bytes for logs, predictions and the storage's own files


def check(config: ConfigDict, parts: Parts) -> list[Split]:
    """Makes every check that needs no weights; returns the splits that the run will be judged on."""
    objective = make_objective(config, parts)
    recipe = make_recipe(config, parts)
    if "labels" in objective.requires:
        records.check_classes(config, parts)
    if "segmentation" in objective.requires:
        records.check_mask_classes(config, parts)
    if config.accumulate > 1 and objective.weight is None:
        raise UserError(
            f"config.accumulate, and the loss of {config.objective.name!r} needs the whole batch at once",
            got=config.accumulate,
            fix="set it to 1; --config.remat=stages saves memory too",
        )
    if config.data.judge and not {"labels", "segmentation"} & objective.requires:
        raise UserError(
            f"config.data.judge, and objective {config.objective.name!r} has no head that could be judged",
            got=tuple(config.data.judge),
            fix="set it to (), and fine-tune or probe what the run leaves behind",
        )
    if config.data.synthetic and config.data.judge:
        raise UserError(
            "config.data.synthetic trains on one batch again and again, to measure speed: there is nothing to judge",
            fix="set config.data.judge=()",
        )
    sweep.check(config, lambda trial: check(trial, parts))
    identity_audit.check(config)
    online.check(config, parts, objective)
    sinks.check(config.sinks)
    profiling.check(config)
    if config.fsdp:
        rules, (tx, _) = sharding.make_rules(config.fsdp), make_tx(config)
        init = compiled_init(objective, tx, parts.mesh, rules, online.linear_probe(config, parts))
        batch = batch_shapes(config, parts, objective, recipe)
        sharding.check_rules(rules, jax.eval_shape(init, config.seed, batch))
    judged = records.check_judged(config, parts)
    selection.check(config, parts)
    return judged


@dataclasses.dataclass(frozen=True)
class _Run:
    """What the functions below share of one run."""

    config: ConfigDict
    parts: Parts
    objective: Objective
    tx: optax.GradientTransformation
    schedule: optax.Schedule
    recipe: recipes.Recipe
    workdir: Path
    checkpoints: Checkpoints
    asked_to_stop: Callable[[int], bool]
    goodput: Goodput
    phases: Phases

    @property
    def probe(self) -> online.LinearProbe | None:
        return online.linear_probe(self.config, self.parts)

    @property
    def requires(self) -> frozenset[str]:
        """What a batch must hold."""
        return self.objective.requires | (online.NEEDS if self.probe else frozenset())

    def save(self, state: TrainState, best: selection.Best | None) -> None:
        """Saves a step, where there is room for it."""
        with self.goodput.spent_on("save"):
            check_room(self.workdir, trees.size_bytes(state) + _ROOM)
            meta = records.checkpoint_meta(self.config, self.parts)
            meta |= {"seconds": self.goodput.seconds(), "best": best._asdict() if best else None}
            meta |= {"phases": self.phases.values(), "kept": self.objective.kept}
            self.checkpoints.save(int(state.step), state, meta, keep_too=best.step if best else None)


def run(config: ConfigDict, workdir: str | Path) -> Path:
    """Trains as the config says, evaluates, and writes the run's folder; goes on from its last checkpoint.

    With `config.sweep` short runs choose the value of a field first. With `config.audit` the datasets that the start
    was trained on are compared with those that the run is judged on, before anything else.

    Restore order: the workdir's own newest checkpoint, else `init_from`, else random initialisation. A finished run is
    left as it is.

    Returns:
      The workdir.

    Raises:
      UserError: whatever a user can mend, before anything is trained; a step that is not finite.
      Preempted: the run was asked to stop (see `preemption`), and has saved its state.
    """
    workdir = Path(workdir).resolve()
    goodput = Goodput()
    parts = assemble(config)
    judged = check(config, parts)
    shared = identity_audit.run(config, parts, workdir)
    config, swept = sweep.choose(config, parts, workdir, _run_of)
    told = {"audit": shared, "sweep": swept}
    if swept is None:
        _run(config, parts, judged, workdir, goodput, told)
    else:
        _run_of(config, workdir, told)
    return workdir


def _run_of(config: ConfigDict, workdir: Path, told: Mapping[str, Any] | None = None) -> Mapping[str, Any]:
    """Does a run of a config whose parts are not there yet: a trial, or what a sweep has chosen."""
    goodput = Goodput()
    parts = assemble(config)
    return _run(config, parts, check(config, parts), workdir, goodput, told or {})


def _run(
    config: ConfigDict, parts: Parts, judged: list[Split], workdir: Path, goodput: Goodput, told: Mapping[str, Any]
) -> Mapping[str, Any]:
    """Does what `run` says of one config; returns what run.json holds, with `told` in it."""
    objective, recipe = make_objective(config, parts), make_recipe(config, parts)
    tx, schedule = make_tx(config)
    if records.is_finished(config, parts, workdir):
        return ledger.read_run(workdir).record
    trace(config, parts, objective, recipe)
    workdir = check_workdir(workdir, need_bytes=0)
    with lock(workdir), preemption.watch() as asked_to_stop:
        with goodput.spent_on("compile"):
            state = initial_state(config, parts, objective, tx, recipe)
        check_room(workdir, (config.checkpoint.keep + 2) * trees.size_bytes(state) + _ROOM)
        checkpoints = Checkpoints(workdir, keep=config.checkpoint.keep)
        try:
            restored = checkpoints.restore_latest(
                state, check=lambda meta: records.check_checkpoint(meta, config, parts, workdir)
            )
            state, meta = restored or (state, {"seconds": {}, "best": None})
            best = selection.Best(**meta["best"]) if meta["best"] else None
            start = int(state.step)
            source = f"checkpoint {start}" if restored else (config.init_from or "random initialisation")
            logging.info("%s: starting from %s", workdir, source)
            goodput.add(meta["seconds"])
            phases = Phases(config, parts, objective, meta.get("phases", {}))  # older checkpoints have none
            this = _Run(
                config=config,
                parts=parts,
                objective=objective,
                tx=tx,
                schedule=schedule,
                recipe=recipe,
                workdir=workdir,
                checkpoints=checkpoints,
                asked_to_stop=asked_to_stop,
                goodput=goodput,
                phases=phases,
            )
            with goodput.spent_on("steps"):
                state, best = _loop(this, state, best)
            with goodput.spent_on("save"):
                checkpoints.wait()
            timings: dict[str, Any] = {"train_s": sum(goodput.seconds().values()), "first_step": start}
            with goodput.spent_on("evaluation"):
                predictions, metrics = _judge(this, state, best, judged)
        finally:
            checkpoints.close()
            goodput.close()
        seconds = goodput.seconds()  # over all sittings
        timings |= {"total_s": sum(seconds.values()), "seconds": seconds, "shares": shares(seconds)}
        record = records.run_record(
            config,
            parts,
            timings=timings,
            metrics=metrics,
            weights=config.judged_weights,
            best=best._asdict() if best else None,
            steps=int(state.step),
        ) | dict(told)
        if jax.process_index() == 0:
            ledger.write_run(workdir, record, predictions=predictions)
            logging.info("%s", records.outcome(record))
            logging.info("%s: where the time went: %s", workdir, in_words(seconds))
    return record


def _judge(
    this: _Run, state: TrainState, best: selection.Best | None, judged: list[Split]
) -> tuple[ledger.Predictions | None, dict[str, dict[str, Any]]]:
    """Returns the predictions of the judged weights and, for each kind of weights, all metrics on whole splits."""
    if not judged:
        return None, {}
    weights = {"last": (state.params, state.model_state)}
    if this.config.average:
        weights["average"] = (state.aux["average"]["params"], state.aux["average"]["model_state"])
    if best is not None:
        of_best, _ = this.checkpoints.restore(best.step, state)
        weights["best"] = (of_best.params, of_best.model_state)
    if this.config.judged_weights not in weights:
        raise UserError(selection.NO_BEST, fix="judge other weights: config.judged_weights, in a new workdir")
    predictions, metrics = {}, {}
    for name, (params, model_state) in weights.items():
        scores = {}
        for split in judged:
            scores[split] = _scores(this, params, model_state, split, this.config.views.judge)
            if this.asked_to_stop(this.config.total_steps):
                raise Preempted(f"all steps of {this.workdir} are done and saved, its evaluation is not")
        predictions[name], metrics[name] = records.judge(this.config, scores)
    return predictions[this.config.judged_weights], metrics


def _scores(this: _Run, params: Any, model_state: Any, split: Split, views: str) -> Any:
    params, model_state = sharding.replicate((params, model_state), this.parts.mesh)
    return records.scores(this.config, this.parts, this.objective, params, model_state, split, views)


def _loop(this: _Run, state: TrainState, best: selection.Best | None) -> tuple[TrainState, selection.Best | None]:
    """Runs the steps that are left; returns the final state, and where it was best on the split that selects."""
    config, mesh = this.config, this.parts.mesh
    start, total = int(state.step), config.total_steps
    if start >= total or selection.stopped(config, state):
        return state, best
    rules = sharding.make_rules(config.fsdp)
    step_fn = compiled_step(this.objective, this.tx, mesh, config.accumulate, config.average, rules, this.probe)
    prepare_fn = compiled_prepare(this.requires, this.parts.adapter, this.recipe, mesh)
    observe = compiled_observe(mesh, this.probe)
    batches = train_batches(
        this.parts.split,
        seed=config.seed,
        batch_size=config.batch_size,
        start=start,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
        members=this.parts.split.members(),
        indices=np.arange(len(this.parts.split)) if this.parts.split.part else None,
        shuffle_window=config.data.shuffle_window,
        synthetic=config.data.synthetic,
    )
    wanted = {"image"} | (this.requires - MADE)
    on_device = None
    if config.data.synthetic:
        logging.warning("%s: data.synthetic: one batch in every step, good for nothing but its speed", this.workdir)
    selecting = selection.split(config)
    neighbours = online.Neighbours(config, this.parts, this.objective)
    phases = this.phases
    profile = profiling.Profile(config, this.workdir)
    writer = _writer(this, start)
    previous: tuple[int, dict[str, np.ndarray], Array] | None = None  # step, batch, whether the step was finite
    try:
        for step in range(start, total):
            if phases.due(step):
                if previous is not None:
                    _stop_unless_finite(this, state, best, *previous)
                with this.goodput.spent_on("phases"):
                    state, _ = phases.run(state, step)
            batch = this.goodput.next(batches)
            batch = {k: batch[k] for k in wanted}
            if on_device is None or not config.data.synthetic:
                on_device = sharding.put_batch(batch, mesh)
            with profile.step(step), this.goodput.spent_on("compile" if step == start else "steps"):
                prepared = prepare_fn(on_device, config.seed, step)
                state, metrics = step_fn(state, prepared, config.seed, step)
            if previous is not None:
                _stop_unless_finite(this, state, best, *previous)  # waits: with two steps in flight memory is bounded
            previous = step, batch, metrics.pop("finite")
            watched = metrics.pop("watched")
            this.goodput.dispatched(previous[-1])
            profile.end(step, state)
            done = step + 1
            stop = this.asked_to_stop(step)
            select = selecting is not None and (done % config.select.every == 0 or done == total)
            save = stop or done == total or done % config.checkpoint.every == 0
            watch, ended = select or neighbours.due(done), False
            if watch or save:
                _stop_unless_finite(this, state, best, *previous)
            if neighbours.due(done):
                with this.goodput.spent_on("evaluation"):
                    metrics |= (found := neighbours.metrics(state))
                if selecting is None and (value := neighbours.goal(found)) > (best.value if best else -np.inf):
                    best, save = selection.Best(done, value), True
            if selecting is not None and select:
                with this.goodput.spent_on("evaluation"):
                    scores = _scores(this, state.params, state.model_state, selecting, config.views.select)
                    values = selection.values(config, scores, selecting)
                    value = selection.goal(config, values)
                    state = selection.after(config, state, values, mesh)
                metrics |= values
                if value > (best.value if best else -np.inf):
                    best, save = selection.Best(done, value), True
                save |= (ended := selection.stopped(config, state))
            if watch or done == total or done % config.log_every == 0:
                rate = selection.learning_rate(this.schedule, step, state)
                writer.write(done, {**metrics, **observe(watched), **phases.metrics, "learning_rate": rate})
            if save:
                writer.flush()  # a step that is saved is not done again: its row would be lost with this process
                this.save(state, best)
            if stop and done < total and not ended:
                this.checkpoints.wait()
                raise Preempted(f"{this.workdir} is saved at step {done} of {total}")
            if ended:
                break
    finally:
        profile.close()
        writer.close()
        getattr(batches, "close", lambda: None)()
    return state, best


def _writer(this: _Run, start: int) -> Writer:
    config, label = this.config, str(this.config.name)

    def open_sinks(logged: int) -> list[sinks.Sink]:
        public = records.public_config(config)
        opened = sinks.open_sinks(config.sinks, this.workdir, start=start, logged=logged, label=label, config=public)
        return [monitors.CollapseWarning(label, config.total_steps), *opened]

    with this.goodput.spent_on("other"):
        return Writer(
            this.workdir,
            total_steps=config.total_steps,
            batch_size=config.batch_size,
            goodput=this.goodput,
            start=start,
            label=label,
            open_sinks=open_sinks,
        )


def _stop_unless_finite(
    this: _Run, state: TrainState, best: selection.Best | None, step: int, batch: dict[str, np.ndarray], finite: Array
) -> None:
    """Stops the run if loss or gradient of `step` were not finite; keeps the state before it, and its batch."""
    if bool(finite):
        return
    file = nonfinite.save_batch(this.workdir, step, batch)  # first: what follows may run out of memory
    batches = sharding.put_batch(batch, this.parts.mesh)
    prepare_fn = compiled_prepare(this.requires, this.parts.adapter, this.recipe, this.parts.mesh)
    key = rng.stream(this.config.seed, "loss", step)
    names = nonfinite.first_leaves(
        this.objective, state, prepare_fn(batches, this.config.seed, step), key, this.config.accumulate
    )
    sound = not names or not names[0].startswith(nonfinite.OF_STATE)
    if sound and step not in this.checkpoints.steps():
        this.save(state, best)
    this.checkpoints.wait()
    kept = f"checkpoint {step}" if sound else "lost, earlier checkpoints were kept"
    raise NotFiniteError(
        f"step {step + 1} of {this.workdir} is not finite",
        got=trees.shown(names) if names else "a gradient whose norm is too large for float32",
        fix="lower the learning rate, lengthen the warm-up or set optimizer.grad_clip, in a new workdir; "
        f"the state before the step is {kept}, the batch {file.parent.name}/{file.name}",
    )
