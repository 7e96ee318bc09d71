"""A small sweep of one field, for each start: short runs judged on val, the best value kept for the run itself.

One common learning rate favours starts by the scale of their weights. So each start looks for its own, with the same
values and the same number of steps as any other.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
import functools
import json
import math
import os
from pathlib import Path
import shutil
from typing import Any

from absl import logging
import jax
from ml_collections import ConfigDict

from radnet_jax import records
from radnet_jax.errors import NotFiniteError, UserError
from radnet_jax.evaluation import ledger
from radnet_jax.parts import Parts, plain

TRIALS_FILE = "trials.json"
Train = Callable[[ConfigDict, Path], Mapping[str, Any]]  # (config, workdir) -> what run.json holds


def check(config: ConfigDict, check_run: Callable[[ConfigDict], Any]) -> None:
    """Refuses a sweep that can't be run, before anything is; `check_run` makes the checks of a trial."""
    sweep = config.sweep
    if not sweep.field:
        return
    values = tuple(sweep.candidates)
    if len(set(values)) < 2 or not all(isinstance(v, int | float) and not isinstance(v, bool) for v in values):
        raise UserError("config.sweep.candidates", got=values, expected="two or more different numbers")
    if config.select.split == "test":
        raise UserError("config.sweep would choose on the test split", fix="set config.select.split=val")
    if config.select.split not in config.data.judge:
        raise UserError(
            "config.sweep chooses on the split that selects, which must be judged",
            got=f"config.select.split={config.select.split!r}, config.data.judge={tuple(config.data.judge)}",
        )
    if not 0 < sweep.total_steps <= config.total_steps:
        raise UserError(
            "config.sweep.total_steps", got=sweep.total_steps, expected=f"1 to config.total_steps={config.total_steps}"
        )
    *sections, name = str(sweep.field).split(".")
    section: Any = functools.reduce(lambda outer, s: outer.get(s, {}), sections, config.to_dict())
    if not isinstance(section, dict) or not isinstance(section.get(name), int | float):
        raise UserError("config.sweep.field", got=repr(sweep.field), expected="a number, such as schedule.base_lr")
    if min(values) <= 0 and sweep.field == "schedule.base_lr":
        raise UserError("config.sweep.candidates", got=values, expected="learning rates above 0")
    check_run(_trial(config, values[0]))


def choose(config: ConfigDict, parts: Parts, workdir: Path, train: Train) -> tuple[ConfigDict, dict[str, Any] | None]:
    """Runs the trials that are left, and returns the config with the best value, and what run.json says of the sweep.

    A trial is the run with another value, `sweep.total_steps` long, its warm-up shortened alike, judged with its last
    weights by the primary metric on the split that selects. Of equals the smallest value is taken. What is done stands
    in `trials.json`; the folder of a finished trial is removed.

    Args:
      config: of the run; with an empty `sweep.field` it is returned as it is.
      parts: of the run.
      workdir: of the run.
      train: the loop.

    Raises:
      UserError: no value gave a finite loss and a defined metric; trials of another run in the workdir.
    """
    sweep = config.sweep
    if not sweep.field:
        return config, None
    if ledger.is_finished(workdir):
        done = ledger.read_run(workdir).record.get("sweep") or {"chosen": sweep.candidates[0]}
        return with_value(config, done["chosen"]), done
    what = plain(records.signature(config, parts))
    path = workdir / TRIALS_FILE
    made = json.loads(path.read_text()) if path.is_file() else {"what": what, "results": {}}
    if made["what"] != what:
        raise UserError(
            f"workdir {workdir} holds trials of another config, dataset or start",
            fix="use a new --workdir, or go back to the old settings",
        )
    results: dict[str, Any] = made["results"]
    for number, value in enumerate(sweep.candidates):
        if repr(value) in results:
            continue
        folder = workdir / "trials" / str(number)
        logging.info("%s: trial %d of %d, %s=%g", workdir, number + 1, len(sweep.candidates), sweep.field, value)
        results[repr(value)] = _score(_trial(config, value), folder, train)
        if jax.process_index() == 0:
            _write(path, {"what": what, "results": results})
            shutil.rmtree(folder, ignore_errors=True)
    trials = [{"value": value, **results[repr(value)]} for value in sorted(sweep.candidates)]
    scored = [t for t in trials if t["score"] is not None]
    if not scored:
        raise UserError(
            f"no value of config.sweep.candidates gave a result ({trials[0]['reason']})",
            fix="try smaller values, or others",
        )
    chosen = max(scored, key=lambda t: t["score"])["value"]  # the first of equals: the smallest
    if len(scored) > 2 and chosen in (trials[0]["value"], trials[-1]["value"]):
        logging.warning("%s: the best %s=%g is an end of config.sweep.candidates", workdir, sweep.field, chosen)
    return with_value(config, chosen), {
        "field": sweep.field,
        "chosen": chosen,
        "trials": trials,
        "metric": config.primary_metric,
        "split": config.select.split,
        "total_steps": sweep.total_steps,
    }


def with_value(config: ConfigDict, value: float) -> ConfigDict:
    """Returns a locked copy of a config with the field that is swept set to `value`."""
    out = config.to_dict()
    *sections, name = str(config.sweep.field).split(".")
    functools.reduce(lambda outer, s: outer[s], sections, out)[name] = value
    return ConfigDict(out).lock()


def _trial(config: ConfigDict, value: float) -> ConfigDict:
    out = with_value(config, value).to_dict()
    share = config.sweep.total_steps / config.total_steps
    if "warmup_steps" in out["schedule"]:
        out["schedule"]["warmup_steps"] = int(out["schedule"]["warmup_steps"] * share)
    off = {"sweep": {"field": ""}, "select": {"every": 0}, "knn": {"every": 0}, "profile": {"steps": 0}}
    off |= {"plateau": {"patience": 0, "stop": 0}, "checkpoint": {"every": config.sweep.total_steps, "keep": 1}}
    for section, changes in off.items():
        out[section] |= changes
    out["data"]["judge"] = (config.select.split,)
    out |= {"name": f"{config.name} trial {value:g}", "total_steps": config.sweep.total_steps}
    out |= {"judged_weights": "last", "average": 0.0, "sinks": ()}
    return ConfigDict(out).lock()


def _score(trial: ConfigDict, folder: Path, train: Train) -> dict[str, Any]:
    """Returns {"score", "reason"}: a run whose loss is not finite has no score, and says so."""
    try:
        metric = train(trial, folder)["metrics"][trial.select.split][trial.primary_metric]
    except NotFiniteError:
        return {"score": None, "reason": "the loss was not finite"}
    value = metric["value"] if isinstance(metric, Mapping) else metric.value
    if value is None or not math.isfinite(value):
        return {"score": None, "reason": metric["reason"] if isinstance(metric, Mapping) else metric.reason}
    return {"score": float(value), "reason": ""}


def _write(path: Path, content: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    with temporary.open("w") as file:
        json.dump(content, file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
