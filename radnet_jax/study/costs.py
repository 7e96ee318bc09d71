"""What a study will take: from its finished runs where there are some, else from the arithmetic of its backbones."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
import functools
import json
import math
from pathlib import Path
import statistics
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from radnet_jax.data.card import CARD_FILE, read_card
from radnet_jax.evaluation import ledger
from radnet_jax.models import MODELS
from radnet_jax.parts import plain
from radnet_jax.registry import named
from radnet_jax.study import expand
from radnet_jax.study.board import CLAIMS, Board, State
from radnet_jax.study.check import model_input_of
from radnet_jax.study.claims import Claims
from radnet_jax.study.expand import Run, Validation
from radnet_jax.study.spec import Study

_ONE_VIEW = ("supervised", "classification", "segmentation", "mae")  # objectives that see each image once
_HOW = {
    "same": "the mean of finished runs of the same task and protocol, or of the same pretraining",
    "like": "a finished run of the same objective, backbone and input size, by the examples seen",
    "model": "the arithmetic of the backbone at {tflops:g} TFLOP/s sustained (config.cost.tflops), three times its "
    "forward pass in training; without head, decoder, reading and evaluation",
}


class Cost(NamedTuple):
    """Seconds on one machine, and where the number comes from: a key of _HOW, or "" for unknown."""

    seconds: float
    how: str


UNKNOWN = Cost(math.nan, "")


def print_jobs(study: Study, runs: Sequence[Run | Validation], workdir: Path) -> None:
    """Prints a line for each run: number, where it stands, what it will take, name; then the sum of what is left."""
    for line in lines(study, runs, workdir):
        print(line)


def lines(study: Study, runs: Sequence[Run | Validation], workdir: Path) -> Iterator[str]:
    """Yields what `print_jobs` prints. Changes nothing in the workdir."""
    states = _states(study, runs, workdir)
    costs = estimates(study, runs)
    yield "job    state         takes  name"
    for number, run in enumerate(runs):
        cost, state = costs[run.id], states[run.id]
        told = f"  ({state.text})" if state.text else ""
        yield f"{number:<6} {state.kind:<9} {in_words(cost.seconds):>9}  {run.name}{told}"
    left = [costs[run.id] for run in runs if states[run.id].kind != "finished"]
    known = [cost.seconds for cost in left if cost.how]
    yield f"{len(runs)} job(s), {len(left)} left: {in_words(sum(known))} for {len(known)} of them" + (
        f", {len(left) - len(known)} of unknown cost" if len(left) > len(known) else ""
    )
    early = sum(run.config.run == "train" and run.config.plateau.stop > 0 for run in runs if isinstance(run, Run))
    if early:
        yield f"{early} may end early (config.plateau): that is what they take at most"
    for how, text in _HOW.items():
        if n := sum(cost.how == how for cost in left):
            yield f"{n} estimated from {text.format(tflops=study.config.cost.tflops)}"


def in_words(seconds: float) -> str:
    """A duration in the unit that suits it; "?" for NaN."""
    if math.isnan(seconds):
        return "?"
    for unit, size in (("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{seconds / size:,.1f} {unit}"
    return f"{seconds:.0f} s" if seconds >= 1 else "< 1 s"


def _states(study: Study, runs: Sequence[Run | Validation], workdir: Path) -> Mapping[str, State]:
    if not (workdir / CLAIMS).is_dir():  # nothing is made for a list
        finished = {run.id for run in runs if run.is_finished()}
        waiting = {run.id for run in runs if any(n not in finished for n in run.needs if not n.startswith("build-"))}
        return {
            run.id: State("finished" if run.id in finished else "waiting" if run.id in waiting else "open")
            for run in runs
        }
    config = study.config.claims
    claims = Claims(workdir / CLAIMS, heartbeat=config.heartbeat, missed=config.missed)
    try:
        datasets = list(expand.dataset_jobs(study, workdir, print))
        return Board(workdir, [*datasets, *runs], claims, print).states()
    finally:
        claims.close()


def estimates(study: Study, runs: Sequence[Run | Validation]) -> dict[str, Cost]:
    """Returns what each run takes, by id; measured seconds for finished ones."""
    same: dict[str, list[float]] = {}
    like: dict[str, list[float]] = {}
    measured: dict[str, float] = {}
    for run in runs:
        if run.is_finished():
            measured[run.id] = seconds = float(ledger.read_run(run.place).timings["total_s"])
            same.setdefault(run.group, []).append(seconds)
            if isinstance(run, Run) and (examples := _examples(run)):
                like.setdefault(_kind(run), []).append(seconds / examples)
    out = {}
    for run in runs:
        if run.id in measured:
            out[run.id] = Cost(measured[run.id], "same")
        elif run.group in same:
            out[run.id] = Cost(statistics.mean(same[run.group]), "same")
        elif isinstance(run, Validation):
            out[run.id] = UNKNOWN
        elif _kind(run) in like and (examples := _examples(run)):
            out[run.id] = Cost(statistics.median(like[_kind(run)]) * examples, "like")
        else:
            out[run.id] = _modelled(study, run)
    return out


def _kind(run: Run) -> str:
    config = run.config
    objective = config.objective.name if config.run == "train" else config.probe.name
    size = plain(config.input.size) if config.input else None
    return json.dumps([objective, plain(config.backbone), size, config.tags.kind])


def _examples(run: Run) -> int:
    """Examples that a run goes over: with repetition in training, those of all its splits in a probe; 0: unknown."""
    config = run.config
    if config.run == "train":
        steps = config.total_steps
        if config.sweep.field:
            steps += len(config.sweep.candidates) * config.sweep.total_steps
        return int(steps * config.batch_size)
    if not (Path(config.data.dir) / CARD_FILE).is_file():
        return 0
    splits = read_card(config.data.dir).splits
    return sum(splits[name] for name in {config.data.split, *config.data.judge} if name in splits)


def _modelled(study: Study, run: Run) -> Cost:
    size = _size(study, run)
    if size is None or not (examples := _examples(run)):
        return UNKNOWN
    flops = forward_flops(json.dumps(plain(run.config.backbone), sort_keys=True), *size)
    passes = 1
    if run.config.run == "train":
        passes = 3 if run.config.objective.name in _ONE_VIEW else 6
    return Cost(examples * flops * passes / (study.config.cost.tflops * 1e12), "model")


def _size(study: Study, run: Run) -> tuple[int, int, int] | None:
    """Height, width and channels of what a run's backbone sees; None where nobody knows.

    Where that stands in weights which are not there yet, it is taken to be what a network from scratch sees.
    """
    config: ConfigDict = run.config
    if config.input is not None:
        return (*config.input.size, config.input.channels)
    start = config.tags.start
    task = study.tasks.get(config.tags.task)
    assumed = (*task.input.size, task.input.channels) if task else None
    if run.pretraining:
        first = study.pretraining[study.first(run.pretraining)].start
        if first and study.find_weights(first) is None:
            return assumed
        seen = model_input_of(study, run.pretraining)
    else:
        if config.tags.kind == "pretrain":
            start = study.pretraining[start].start
        found = study.find_weights(start)
        if found is None:
            return assumed
        seen = found.model_input
    return (*seen.size, seen.channels)


@functools.lru_cache(maxsize=256)
def forward_flops(backbone: str, height: int, width: int, channels: int) -> float:
    """Floating-point operations of one forward pass of one image, as XLA counts them (two for a multiply-add).

    Args:
      backbone: its section, as JSON.
      height: of the input, in pixels.
      width: likewise.
      channels: of the input.
    """
    model = MODELS.build(*named(json.loads(backbone)))
    image = jax.ShapeDtypeStruct((1, height, width, channels), jnp.float32)
    variables = jax.eval_shape(functools.partial(model.init, train=False), jax.random.key(0), image)
    counted: Any = jax.jit(functools.partial(model.apply, train=False)).lower(variables, image).cost_analysis()
    return float(counted["flops"])
