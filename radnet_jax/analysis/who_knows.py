"""Who knows what: whether different starts get the same cases right, beyond what chance and another seed explain."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import itertools
import math
from typing import Any

from jaxtyping import Bool, Float
import numpy as np
from scipy import stats

from radnet_jax.errors import UserError
from radnet_jax.evaluation import ledger
from radnet_jax.evaluation.ledger import Predictions, Run
from radnet_jax.evaluation.metrics import REASONS
from radnet_jax.evaluation.metrics.classification import fully_known, is_correct, operating_points
from radnet_jax.evaluation.statistics.correction import correct
from radnet_jax.evaluation.statistics.draws import group_index, resample_counts

LEAST_PATIENTS = 10


def of_runs(root: str, *, seed: int = 0) -> list[dict[str, Any]]:
    """Returns patterns and agreement of each task and protocol that two or more starts were judged on, from the run
    folders below `root`: of a task with many labels, one part for each label. Both p are corrected by Holm's procedure
    over all labels and pairs of starts of a task and protocol.

    Raises:
      UserError: no such runs, or fewer than 10 patients.
    """
    by_setting: dict[tuple[str, str], list[Run]] = {}
    for run in ledger.read_runs(root):
        if run.judged and run.task_kind in ("single_label", "multi_label"):
            by_setting.setdefault((run.task, ledger.setting_of(run)), []).append(run)
    out = []
    for (task, setting), runs in sorted(by_setting.items()):
        if len({_name(r) for r in runs}) < 2:
            continue
        runs = sorted(runs, key=lambda r: r.seed)
        found = right_labels(runs) if runs[0].task_kind == "multi_label" else {"": right_cases(runs)}
        parts: list[dict[str, Any]] = []
        for label, (right, patients) in found.items():
            told = [p for p in patterns(right) if p["cases"] or p["expected"] >= 0.5]
            runs_of = {start: len(rows) for start, rows in right.items()}
            part: dict[str, Any] = {"task": task, "setting": setting, "label": label, "runs": runs_of}
            parts.append(part | {"patterns": told, "agreement": agreement(right, patients, seed=seed)})
        pairs = [pair for part in parts for pair in part["agreement"]]
        for name in ("p", "p_across"):
            for pair, p in zip(pairs, correct(np.array([pair[name] for pair in pairs])), strict=True):
                pair[f"{name}_holm"] = float(p)
        out += parts
    if not out:
        raise UserError(f"no two starts in {root} were judged on one task with labels")
    return out


def _name(run: Run) -> str:
    return f"{run.start} {run.variant}".strip()


def right_cases(runs: Sequence[Run], split: str = "test") -> tuple[dict[str, Bool[np.ndarray, "r n"]], np.ndarray]:
    """Returns, for each start, whether each of its runs got each case right, and the patients.

    Right is the class with the highest score, the first of equals. Cases without a known class are left out.

    Raises:
      UserError: runs of several tasks or protocols, of a task without one class a case, not judged on the split or on
        other cases, or with scores that are no numbers.
    """
    _check_one_setting(runs, "single_label")
    found: dict[str, list[np.ndarray]] = {}
    judged = _lined_up(runs, split)
    for run, p in zip(runs, judged, strict=True):
        right, _, reason = is_correct(p.scores, p.labels, p.label_mask)
        if reason:
            raise UserError(f"who knows what: run {run.name} is neither right nor wrong", got=REASONS[reason])
        found.setdefault(_name(run), []).append(right)
    known = fully_known(judged[0].labels, judged[0].label_mask)
    return {start: np.stack(rows)[:, known] for start, rows in found.items()}, np.asarray(judged[0].patient)[known]


def right_labels(
    runs: Sequence[Run], split: str = "test", chosen_on: str = "val"
) -> dict[str, tuple[dict[str, Bool[np.ndarray, "r n"]], np.ndarray]]:
    """Returns `right_cases` of each label of a task whose labels are judged one by one.

    Right is a call that equals the label; a case is called where the run's score reaches its `threshold` on another
    split. Cases where the label is not known are left out, and so are labels that are known with one class only in
    either split.

    Raises:
      UserError: as of `right_cases`; a run without cases of the split that thresholds are chosen on; no label left.
    """
    _check_one_setting(runs, "multi_label")
    judged, chosen = _lined_up(runs, split), _lined_up(runs, chosen_on)
    out = {}
    for j, label in enumerate(runs[0].label_names):
        known, positive = judged[0].label_mask[:, j] > 0, judged[0].labels[:, j] > 0
        before, there = chosen[0].label_mask[:, j] > 0, chosen[0].labels[:, j] > 0
        if len(np.unique(positive[known])) < 2 or len(np.unique(there[before])) < 2:
            continue
        found: dict[str, list[np.ndarray]] = {}
        for run, p, q in zip(runs, judged, chosen, strict=True):
            scores, tried = p.scores[known, j], q.scores[before, j]
            if np.isnan(scores).any() or np.isnan(tried).any():
                raise UserError(f"who knows what: run {run.name} is neither right nor wrong", got=REASONS["nan_scores"])
            called = scores >= threshold(tried, there[before])
            found.setdefault(_name(run), []).append(called == positive[known])
        patients = np.asarray(judged[0].patient)[known]
        out[label] = {start: np.stack(rows) for start, rows in found.items()}, patients
    if not out:
        raise UserError(
            f"who knows what: no label of {runs[0].task} has cases of both classes in {chosen_on} and {split}"
        )
    return out


def threshold(scores: Float[np.ndarray, " n"], positive: Bool[np.ndarray, " n"]) -> float:
    """Returns the threshold with the highest sensitivity + specificity (Youden 1950), of equals the highest."""
    values, true, false = operating_points(scores, positive)
    return float(values[np.argmax(true / true[-1] - false / false[-1])])


def _check_one_setting(runs: Sequence[Run], task_kind: str) -> None:
    kinds = sorted({(r.task, r.protocol, r.fraction) for r in runs})
    if len(kinds) != 1:
        raise UserError("who knows what: runs of one task and protocol are needed", got=f"{len(kinds)} of them")
    for run in runs:
        if run.record["task_kind"] != task_kind:
            raise UserError(
                "who knows what: a task of another kind",
                got=f"{run.task}: {run.record['task_kind']}",
                expected=task_kind,
            )


def _lined_up(runs: Sequence[Run], split: str) -> list[Predictions]:
    """Predictions of a split, of the same cases in the same order."""
    found = [run.predictions.of(split) for run in runs]
    for run, p in zip(runs, found, strict=True):
        if not len(p):
            raise UserError(f"who knows what: run {run.name} was not judged on {split}")
        if not np.array_equal(found[0].case_id, p.case_id):
            raise UserError(f"who knows what: run {run.name} was judged on other cases")
    return found


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
    "within" over pairs of runs of the same start; "difference" is across less within: below 0, the two starts know
    different cases, beyond what another seed changes, or are of very different accuracy, which bounds kappa. Intervals
    ("across_low", "across_high"; "low", "high", of the difference) are from a bootstrap over patients. "p_across" is
    that of independence, "p" that of no difference, both by the standard error over the resamples, taken as normal:
    resampling alone can't give one that is small enough to be corrected for many labels and pairs.

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
        told = {"a": a, "b": b, "within": float("nan")} | dict.fromkeys(
            ("difference", "low", "high", "p"), float("nan")
        )
        told |= dict(zip(("across", "across_low", "across_high", "p_across"), _over_patients(across)))
        if within[a] and within[b]:
            difference = across - np.mean(own, axis=0)
            told |= dict(zip(("difference", "low", "high", "p"), _over_patients(difference)))
            told |= {"within": float(np.mean([k[0] for k in own]))}
        out.append(told)
    return out


def _over_patients(values: Float[np.ndarray, " b"]) -> tuple[float, float, float, float]:
    """The value itself, its interval over the resamples, and p of its being 0; NaN where it is not defined."""
    value, drawn = float(values[0]), values[1:][np.isfinite(values[1:])]
    if math.isnan(value) or len(drawn) < 2:
        return value, math.nan, math.nan, math.nan
    low, high = np.percentile(drawn, [2.5, 97.5])
    error = float(np.std(drawn, ddof=1))
    return value, float(low), float(high), float(2 * stats.norm.sf(abs(value) / error)) if error > 0 else math.nan
