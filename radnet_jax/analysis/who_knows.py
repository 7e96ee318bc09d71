"""Who knows what: whether different starts get the same cases right, beyond what chance and another seed explain."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import itertools
from typing import Any

from jaxtyping import Bool, Float
import numpy as np

from radnet_jax.errors import UserError
from radnet_jax.evaluation import ledger
from radnet_jax.evaluation.ledger import Run
from radnet_jax.evaluation.metrics import REASONS
from radnet_jax.evaluation.metrics.classification import fully_known, is_correct
from radnet_jax.evaluation.statistics.draws import group_index, resample_counts

LEAST_PATIENTS = 10


def of_runs(root: str, *, seed: int = 0) -> list[dict[str, Any]]:
    """Returns patterns and agreement of each task and protocol that two or more starts were judged on with one class a
    case, from the run folders below `root`.

    Raises:
      UserError: no such runs, or fewer than 10 patients.
    """
    by_setting: dict[tuple[str, str], list[Run]] = {}
    for run in ledger.read_runs(root):
        if run.judged and run.task_kind == "single_label":
            by_setting.setdefault((run.task, ledger.setting_of(run)), []).append(run)
    out = []
    for (task, setting), runs in sorted(by_setting.items()):
        if len({_name(r) for r in runs}) > 1:
            right, patients = right_cases(sorted(runs, key=lambda r: r.seed))
            told = [p for p in patterns(right) if p["cases"] or p["expected"] >= 0.5]
            pairs = agreement(right, patients, seed=seed)
            runs_of = {start: len(rows) for start, rows in right.items()}
            out.append({"task": task, "setting": setting, "runs": runs_of, "patterns": told, "agreement": pairs})
    if not out:
        raise UserError(f"no two starts in {root} were judged on one task with one class a case")
    return out


def _name(run: Run) -> str:
    return f"{run.start} {run.variant}".strip()


def right_cases(runs: Sequence[Run], split: str = "test") -> tuple[dict[str, Bool[np.ndarray, "r n"]], np.ndarray]:
    """Returns, for each start, whether each of its runs got each case right, and the patients.

    Right is the class with the highest score, the first of equals. Cases without a known class are left out.

    Raises:
      UserError: runs of several tasks or protocols, of a task without one class a case, judged on other cases, or with
        scores that are no numbers.
    """
    kinds = sorted({(r.task, r.protocol, r.fraction) for r in runs})
    if len(kinds) != 1:
        raise UserError("who knows what: runs of one task and protocol are needed", got=f"{len(kinds)} of them")
    found: dict[str, list[np.ndarray]] = {}
    first = None
    for run in runs:
        p = run.predictions.of(split)
        if run.record["task_kind"] != "single_label":
            raise UserError("who knows what: right or wrong is defined for tasks with one class a case", got=run.task)
        correct, _, reason = is_correct(p.scores, p.labels, p.label_mask)
        if reason:
            raise UserError(f"who knows what: run {run.name} is neither right nor wrong", got=REASONS[reason])
        if first is None:
            first = p
        if not np.array_equal(first.case_id, p.case_id):
            raise UserError(f"who knows what: run {run.name} was judged on other cases")
        found.setdefault(_name(run), []).append(correct)
    assert first is not None
    known = fully_known(first.labels, first.label_mask)
    return {start: np.stack(rows)[:, known] for start, rows in found.items()}, np.asarray(first.patient)[known]


def patterns(right: Mapping[str, Bool[np.ndarray, "r n"]]) -> list[dict[str, Any]]:
    """The first study's table: how many cases exactly these starts get right, of their first runs, and how many it
    would be if they were right independently of each other (the product of their accuracies).

    What all find easy or hard makes the two differ, whatever the starts: see `agreement` for what another seed does.
    """
    first = {start: rows[0] for start, rows in right.items()}
    out = []
    for pattern in itertools.product((False, True), repeat=len(first)):
        cases = np.ones(len(next(iter(first.values()))), bool)
        expected = float(len(cases))
        for wanted, row in zip(pattern, first.values()):
            cases &= row == wanted
            expected *= row.mean() if wanted else 1 - row.mean()
        names = [start for start, wanted in zip(first, pattern) if wanted]
        out.append({"right": names, "cases": int(cases.sum()), "expected": expected})
    return out


def agreement(
    right: Mapping[str, Bool[np.ndarray, "r n"]], patients: np.ndarray, *, n_resamples: int = 2000, seed: int = 0
) -> list[dict[str, Any]]:
    """Error consistency (Geirhos et al. 2020) of each pair of starts, against that of two seeds of one start.

    Cohen's kappa of being right: 0 where two runs agree as often as their accuracies alone explain, 1 where they are
    right and wrong on the same cases. "across" is its mean over pairs of a run of one and a run of the other start;
    "within" over pairs of runs of the same start; "difference" is across less within, with its 95 % interval from a
    bootstrap over patients: below 0, the two starts know different cases, beyond what another seed changes.

    Raises:
      UserError: fewer than 10 patients.
    """
    group, n_groups = group_index(patients, len(patients))
    if n_groups < LEAST_PATIENTS:
        raise UserError("who knows what: fewer patients than needed", got=n_groups, expected=f"{LEAST_PATIENTS}")
    counts = np.concatenate([np.ones((1, n_groups)), *resample_counts(n_groups, n_resamples, seed)])
    sizes = counts @ np.bincount(group, minlength=n_groups)

    def share(cases: Bool[np.ndarray, " n"]) -> Float[np.ndarray, " b"]:
        return counts @ np.bincount(group, weights=cases, minlength=n_groups) / sizes

    alone = {(s, i): share(row) for s, rows in right.items() for i, row in enumerate(rows)}

    def kappa(one: tuple[str, int], other: tuple[str, int]) -> Float[np.ndarray, " b"]:
        same = share(right[one[0]][one[1]] == right[other[0]][other[1]])
        p, q = alone[one], alone[other]
        chance = p * q + (1 - p) * (1 - q)
        return np.divide(same - chance, 1 - chance, out=np.full_like(same, np.nan), where=chance < 1)

    runs = {s: [(s, i) for i in range(len(rows))] for s, rows in right.items()}
    within = {s: [kappa(*pair) for pair in itertools.combinations(r, 2)] for s, r in runs.items()}
    out = []
    for a, b in itertools.combinations(right, 2):
        across = np.mean([kappa(*pair) for pair in itertools.product(runs[a], runs[b])], axis=0)
        own = [*within[a], *within[b]]
        told = {"a": a, "b": b, "across": float(across[0]), "within": float("nan")}
        told |= dict.fromkeys(("difference", "low", "high"), float("nan"))
        if within[a] and within[b]:
            difference = across - np.mean(own, axis=0)
            low, high = np.nanpercentile(difference[1:], [2.5, 97.5])
            told |= {"within": float(np.mean([k[0] for k in own])), "difference": float(difference[0])}
            told |= {"low": float(low), "high": float(high)}
        out.append(told)
    return out
