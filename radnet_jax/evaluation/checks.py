"""What predictions and tables of runs must fulfil before anything is computed from them."""

from __future__ import annotations

from collections.abc import Sequence
import dataclasses
import hashlib
from typing import TYPE_CHECKING

import numpy as np

from radnet_jax.errors import UserError

if TYPE_CHECKING:
    from radnet_jax.evaluation.ledger import Predictions, Run

TASK_KINDS = ("single_label", "multi_label", "segmentation")
SPLITS = ("train", "val", "test")
_ROUNDING = 1e-3  # probabilities that were computed in bfloat16 can leave [0, 1] by this much


def check_predictions(p: Predictions, task_kind: str, label_names: Sequence[str], *, where: str) -> None:
    """Refuses predictions that can't be judged.

    Args:
      p: the predictions.
      task_kind: "single_label" (a known case has exactly one label) or "multi_label".
      label_names: one for each column of scores.
      where: the run, for the message.

    Raises:
      UserError: columns of different lengths, an unknown split, a missing patient or case id, a case twice in a split,
        a patient in two splits, labels or mask other than 0 and 1, scores outside [0, 1]. NaN scores are let through:
        they have a reason code of their own in every metric.
    """
    n, k = len(p.case_id), len(label_names)
    for name in ("split", "patient", *p.facts):
        column = getattr(p, name) if name in ("split", "patient") else p.facts[name]
        if len(column) != n:
            raise UserError(f"{where}: column {name} has another length", got=len(column), expected=f"{n} cases")
    for name in ("scores", "labels", "label_mask"):
        shape = np.shape(getattr(p, name))
        if shape != (n, k):
            raise UserError(f"{where}: {name} does not fit cases and labels", got=shape, expected=(n, k))
    if n == 0:
        raise UserError(f"{where}: no predictions", expected="at least one case")
    unknown = sorted({str(s) for s in p.split} - set(SPLITS))
    if unknown:
        raise UserError(f"{where}: unknown split", got=", ".join(unknown), expected=", ".join(SPLITS))
    for name in ("case_id", "patient"):
        empty = sum(v is None or str(v) == "" for v in getattr(p, name))
        if empty:
            raise UserError(f"{where}: {empty} case(s) without {name}", expected="a hash for each case")
    if len(set(zip(p.split, p.case_id))) != n:
        raise UserError(
            f"{where}: a case stands twice in a split", got=f"{n - len(set(zip(p.split, p.case_id)))} doubles"
        )
    splits_of: dict[str, set[str]] = {}
    for patient, split in zip(p.patient, p.split):
        splits_of.setdefault(str(patient), set()).add(str(split))
    shared = [s for s in splits_of.values() if len(s) > 1]
    if shared:
        names = " and ".join(sorted(set.union(*shared)))
        raise UserError(
            f"{where}: {len(shared)} patient(s) in two splits ({names})", fix="split the dataset by patient"
        )
    mask, labels = np.asarray(p.label_mask), np.asarray(p.labels)
    if not np.isin(mask, (0, 1)).all():
        raise UserError(f"{where}: label_mask out of range", got=_others(mask), expected="0 or 1")
    known = mask == 1
    if not np.isin(labels[known], (0, 1)).all():
        raise UserError(
            f"{where}: labels out of range", got=_others(labels[known]), expected="0 or 1 where label_mask is 1"
        )
    if task_kind == "single_label":
        if (known.any(axis=1) != known.all(axis=1)).any():
            raise UserError(f"{where}: label_mask differs within a case", expected="one mask for all classes of a case")
        counts = labels[known.all(axis=1)].sum(axis=1)
        if (counts != 1).any():
            raise UserError(
                f"{where}: labels out of range: not one class a case", got=_others(counts, (1,)), expected=1
            )
    scores = np.asarray(p.scores)[~np.isnan(p.scores)]
    if scores.size and not (scores.min() >= -_ROUNDING and scores.max() <= 1 + _ROUNDING):
        raise UserError(
            f"{where}: scores are no probabilities", got=f"{scores.min():g} to {scores.max():g}", expected="0 to 1"
        )


def _others(values: np.ndarray, valid: tuple[float, ...] = (0, 1)) -> str:
    return ", ".join(f"{v:g}" for v in np.unique(values[~np.isin(values, valid)])[:4])


def check_runs(runs: Sequence[Run]) -> None:
    """Refuses a table of runs that can't be compared.

    Raises:
      UserError: the same run id or the same (task, protocol, start, variant, seed, checkpoint, share of the labels)
        twice, a copy of a run under another seed or checkpoint, predictions that `check_predictions` refuses, or two
        runs of a task that differ in primary metric, labels, case ids, patients or truth.
    """
    seen: dict[object, Run] = {}
    for run in runs:
        keys: list[object] = [run.run_id]
        if run.judged:
            keys.append((run.task, run.protocol, run.start, run.variant, run.seed, run.checkpoint, run.fraction))
        for key in keys:
            if key in seen:
                raise UserError(
                    f"run {run.name!r} stands twice",
                    got=f"{seen[key].folder} and {run.folder}",
                    fix="remove one of the folders",
                )
            seen[key] = run
    first: dict[str, Run] = {}
    for run in runs:
        if not run.judged:
            continue
        check_predictions(run.predictions, run.task_kind, run.label_names, where=f"run {run.name!r}")
        if run.task in first:
            _check_pair(first[run.task], run)
        else:
            first[run.task] = run
    _check_copies([run for run in runs if run.judged])


def _check_copies(runs: Sequence[Run]) -> None:
    """Refuses two runs of a start whose scores are equal in every case: a copy that would shrink the spread.

    Where the seed changes nothing, two runs of one checkpoint are the same by right. Runs whose scores are all one
    number, as the Dice of networks that found nothing, may be alike by chance.
    """
    seen: dict[tuple[object, ...], Run] = {}
    for run in runs:
        p = run.predictions
        order = np.lexsort((np.asarray(p.case_id, str), np.asarray(p.split, str)))
        scores = np.ascontiguousarray(np.asarray(p.scores)[order], np.float64)
        known = scores[~np.isnan(scores)]
        if not known.size or np.ptp(known) == 0:
            continue
        digest = hashlib.sha256(scores.tobytes()).hexdigest()
        key = (run.task, run.protocol, run.start, run.variant, run.fraction, digest)
        other = seen.setdefault(key, run)
        if other is not run and (run.seed_varies or run.checkpoint != other.checkpoint):
            raise UserError(
                f"runs {other.name!r} and {run.name!r} have the same scores in every case",
                fix="remove the copy; where the seed changes nothing, give one run",
            )


def _check_pair(a: Run, b: Run) -> None:
    where = f"runs {a.name!r} and {b.name!r} of task {a.task!r}"
    for key in ("primary_metric", "task_kind", "label_names"):
        if a.record[key] != b.record[key]:
            raise UserError(
                f"{where} differ in {key}", got=b.record[key], expected=a.record[key], fix="a task has one definition"
            )
    for split in ("val", "test"):
        pa, pb = (r.predictions.of(split) for r in (a, b))
        if not np.array_equal(pa.case_id, pb.case_id):
            only = len({*pa.case_id} ^ {*pb.case_id})
            raise UserError(
                f"{where} have different case ids in split {split}",
                got=f"{only} case(s) in one of them only",
                fix="judge both on the same build of the dataset",
            )
        for field in dataclasses.fields(pa):
            if field.name in ("patient", "labels", "label_mask") and not np.array_equal(
                getattr(pa, field.name), getattr(pb, field.name)
            ):
                raise UserError(f"{where} have the same cases but another {field.name} in split {split}")
