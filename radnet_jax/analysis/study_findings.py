"""What the analyses of a study found, start against start, in words that follow from the numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import itertools
import math
from typing import Any

import numpy as np

from radnet_jax.analysis.findings import ALPHA, followed, of_seeds
from radnet_jax.evaluation.statistics.correction import correct
from radnet_jax.evaluation.statistics.seeds import t_interval
from radnet_jax.evaluation.statistics.tests import welch_test

DOMAINS = {
    "own": "the task's own images",
    "modality": "images of its modality",
    "other": "other images",
    "none": "none: random",
}
NEAR = ("own", "modality")  # in-domain
MEASURES = {"cka": "CKA of the last block", "units": "units kept, mean over blocks"}


def summarised(results: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Puts the analyses of a study side by side.

    Args:
      results: of each start and task "task", "setting", "start", "domain" (key of DOMAINS), "over_seeds" of its
        analysis, and what else the page shows.

    Returns:
      "tasks": for each task and setting its "rows", a start each, and "found", sentences; "comparisons": each in-domain
      start against each of another domain, Welch's test over seeds, p corrected by Holm's procedure over all of them.
    """
    rows = [dict(r) | _row(r["over_seeds"]) for r in results]
    tasks = []
    for (task, setting), group in itertools.groupby(rows, key=lambda r: (r["task"], r["setting"])):
        tasks.append({"task": task, "setting": setting, "rows": list(group)})
    compared = [c for task in tasks for c in _compared(task)]
    for c, p in zip(compared, correct(np.array([c["p"] for c in compared])), strict=True):
        c["p_holm"] = float(p)
    for task in tasks:
        own = [c for c in compared if (c["task"], c["setting"]) == (task["task"], task["setting"])]
        task["found"] = _sentences(task["rows"], own, len(compared))
    return {"tasks": tasks, "comparisons": compared}


def _row(over_seeds: Mapping[str, Any] | None) -> dict[str, Any]:
    """The first and the last block's figures, what was read and followed, and what there is to say of it."""
    assert over_seeds is not None, "a run and what it began with are of one architecture"
    layers = list(over_seeds["layers"].values())
    read = {k: v for k, v in over_seeds["read"].items() if v["p_holm"] < ALPHA}
    return {
        "n": over_seeds["n"],
        "first": layers[0],
        "last": layers[-1],
        "units": {key: _mean_over_blocks(over_seeds["units"], key) for key in ("share", "chance")},
        "block": over_seeds["block"],
        "follows": followed(over_seeds),
        "found": of_seeds({"over_seeds": over_seeds, "continued": True}),
        "better": [k for k, v in read.items() if v["difference"]["mean"] > 0],
        "worse": [k for k, v in read.items() if v["difference"]["mean"] < 0],
    }


def _mean_over_blocks(units: Mapping[str, Any], key: str) -> dict[str, Any]:
    """Each seed's mean over the blocks that have a value, and Student's interval of these."""
    each = np.array([block[key]["values"] for block in units.values()], np.float64)
    known = np.isfinite(each).any(axis=1)
    values = np.nanmean(each[known], axis=0) if known.any() else each.mean(axis=0)
    found = t_interval(values.tolist())
    return {"mean": found.mean, "low": found.low, "high": found.high, "values": values.tolist()}


def _compared(task: Mapping[str, Any]) -> list[dict[str, Any]]:
    near = [r for r in task["rows"] if r["domain"] in NEAR]
    far = [r for r in task["rows"] if r["domain"] == "other"]
    out = []
    for measure, (a, b) in itertools.product(MEASURES, itertools.product(near, far)):
        test = welch_test(*(_value(r, measure)["values"] for r in (a, b)))
        told = {"task": task["task"], "setting": task["setting"], "measure": measure, "a": a["start"], "b": b["start"]}
        means = {"of_a": _value(a, measure)["mean"], "of_b": _value(b, measure)["mean"]}
        out.append(told | means | {"difference": test.delta, "low": test.low, "high": test.high, "p": test.p})
    return out


def _sentences(rows: Sequence[Mapping[str, Any]], compared: Sequence[Mapping[str, Any]], family: int) -> list[str]:
    known = [r for r in rows if not math.isnan(r["last"]["cka"]["mean"])]
    if not known:
        return ["No start has a defined similarity of its last block before and after."]
    most, least = (choose(known, key=lambda r: r["last"]["cka"]["mean"]) for choose in (max, min))
    out = [
        f"The last block changed most from {least['start']} (CKA before and after {told(least['last']['cka'])})"
        + (f", least from {most['start']} ({told(most['last']['cka'])})." if most is not least else ".")
    ]
    above = [r["start"] for r in known if _least(r["last"]["cka"]) > r["last"]["random"]]
    out.append(f"There it is more alike before and after than two random networks of {_listed(above)}.")
    for measure, what in MEASURES.items():
        of_this = [c for c in compared if c["measure"] == measure]
        sure = [c for c in of_this if c["p_holm"] < ALPHA]
        words = [
            f"{c['a']} {'more' if c['difference'] > 0 else 'less'} than {c['b']} "
            f"({c['of_a']:.2f} against {c['of_b']:.2f})"
            for c in sure
        ]
        unsure = len(of_this) - len(sure)
        pairs = f"{unsure} pair{'s' if unsure > 1 else ''}"
        if words:
            rest = f"; of {pairs} it can't be told" if unsure else ""
            out.append(f"In-domain starts against others, {what}: {', '.join(words)}{rest}.")
        elif of_this:
            out.append(f"In-domain starts against others, {what}: it can't be told which keep more ({pairs}).")
    if compared:
        out.append(f"Welch's tests over seeds, on these images; p corrected for the {family} comparisons of this page.")
        names = {c[side] for c in compared for side in ("a", "b")}
        once = [r["start"] for r in rows if r["start"] in names and r["n"] > 1 and r["over_seeds"]["starts"] == 1]
        if once:
            out.append(
                f"Of {_listed(once)} all seeds began with one checkpoint: what another pretraining on the same images "
                "would keep is not known."
            )
    return out


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:-1]) + " and " + names[-1] if len(names) > 1 else "".join(names) or "no start"


def _least(v: Mapping[str, Any]) -> float:
    return float(v["mean"] if math.isnan(v["low"]) else v["low"])


def told(v: Mapping[str, Any]) -> str:
    """A mean and its interval."""
    return f"{v['mean']:.2f}" + ("" if math.isnan(v["low"]) else f" ({v['low']:.2f} to {v['high']:.2f})")


def _value(row: Mapping[str, Any], measure: str) -> Mapping[str, Any]:
    return row["last"]["cka"] if measure == "cka" else row["units"]["share"]
