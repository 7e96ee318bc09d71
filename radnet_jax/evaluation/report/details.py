"""What stands below a verdict: classes, calibration, ROC, other metrics and the worst cases, from the predictions.

None of it is tested or corrected: it is for reading, and the page says so.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping, Sequence
import dataclasses
from typing import Any

import numpy as np

from radnet_jax.evaluation import every_metric, metrics
from radnet_jax.evaluation.comparisons import Group, is_reference
from radnet_jax.evaluation.ledger import Predictions, Run
from radnet_jax.evaluation.metrics import METRICS
from radnet_jax.evaluation.metrics.classification import is_correct, known_entries
from radnet_jax.evaluation.report import lines, words
from radnet_jax.evaluation.report.style import Gallery, Look, label
from radnet_jax.evaluation.statistics import bootstrap, diagrams
from radnet_jax.evaluation.statistics.delong import delong_interval_of_mean

Pixels = Callable[..., Sequence[bytes]]
"""(task, case ids of its test split) -> each case as a PNG, as the model sees it; of a segmentation it is given, beside
these, the slice of each case that is shown and the mask that was predicted there."""

SEGMENTATION = "segmentation"
_N_RESAMPLES = 1_000
_MAX_LINES = 4  # starts in one diagram
_MAX_WORST = 8


@dataclasses.dataclass(frozen=True)
class Judged:
    """A compared group with what its runs said of the test split, in one order of cases."""

    group: Group
    tests: tuple[Predictions, ...]
    label_names: tuple[str, ...]
    task_kind: str
    regions: str = "classes"

    @property
    def scores(self) -> list[np.ndarray]:
        return [t.scores for t in self.tests]


def judged(groups: Sequence[Group], runs: Mapping[str, Run]) -> list[Judged]:
    """The compared groups that have predictions, in the order given."""
    out = []
    for g in groups:
        own = [runs[i] for i in g.runs if i in runs]
        if g.compared and own:
            tests = tuple(r.predictions.of("test") for r in own)
            regions = every_metric.regions_of(own[0])
            out.append(Judged(g, tests, tuple(own[0].label_names), own[0].task_kind, regions))
    return out


def in_diagrams(members: Sequence[Judged]) -> list[Judged]:
    """Those that a diagram has room for: the best ones, and the reference."""
    if len(members) <= _MAX_LINES:
        return list(members)
    reference = [m for m in members if is_reference(m.group.start)][:1]
    best = [m for m in members if m not in reference][: _MAX_LINES - len(reference)]
    return best + reference


def class_tables(members: Sequence[Judged]) -> list[dict[str, Any]]:
    """A row for each start, a column for each label: AUROC with its interval over patients, and sensitivity.

    Of a segmentation, whose scores are the Dice of each case and label: its mean over cases.
    """
    if not members:
        return []
    first = members[0]
    if first.task_kind == SEGMENTATION:
        return [_dice_table(members)]
    truth = first.tests[0]
    _, positive, known = known_entries(truth.scores, truth.labels, truth.label_mask)
    columns = [
        {"name": name, "n": f"{int((positive & known)[:, j].sum()):,} of {int(known[:, j].sum()):,}"}
        for j, name in enumerate(first.label_names)
    ]
    tables = [
        {
            "caption": "AUROC × 100 of each label",
            "note": "one label against all others; mean over runs, 95 % interval over patients by DeLong",
            "rows": [{"group": m.group, "cells": _areas(m)} for m in members],
        }
    ]
    if first.task_kind == "single_label":
        tables.append(
            {
                "caption": "Cases of each class that were guessed right, × 100",
                "note": "mean over runs ± SD over seeds",
                "rows": [{"group": m.group, "cells": _guessed(m)} for m in members],
            }
        )
    for table in tables:
        table["columns"] = columns
    return tables


def _dice_table(members: Sequence[Judged]) -> dict[str, Any]:
    """Cases in which truth and prediction are both empty have no Dice and are not counted."""
    rows = []
    for m in members:
        each = [METRICS.get("dice_per_volume")(t.scores, t.labels, t.label_mask).per_class for t in m.tests]
        rows.append({"group": m.group, "cells": _over_runs(m, np.array(each))})
    truth = members[0].tests[0]
    columns = [
        {"name": name, "n": f"in {int(np.sum(np.asarray(truth.labels)[:, j] > 0)):,} of {len(truth):,}"}
        for j, name in enumerate(members[0].label_names)
    ]
    note = "mean over the cases where truth or prediction is not empty, then over runs; ± SD over seeds"
    return {"caption": "Dice × 100 of each label", "note": note, "rows": rows, "columns": columns}


def _over_runs(m: Judged, values: np.ndarray, *, factor: float = 100) -> list[dict[str, str]]:
    """Mean over runs and SD over seeds of each column of values [runs columns]."""
    several = len(values) > 1 and m.group.seed_varies
    return [
        {
            "value": words.number(float(v.mean()), factor=factor),
            "more": f"± {words.number(float(v.std(ddof=1)), factor=factor)}"
            if several and not np.isnan(v).any()
            else "",
        }
        for v in values.T
    ]


def _areas(m: Judged) -> list[dict[str, str]]:
    truth, cells = m.tests[0], []
    for j in range(len(m.label_names)):
        mask = truth.label_mask[:, j]
        of = [s[:, j] for s in m.scores]
        if np.isnan([s[mask > 0] for s in of]).any():
            cells.append({"value": "–", "more": metrics.REASONS["nan_scores"]})
            continue
        i = delong_interval_of_mean(of, truth.labels[:, j], label_mask=mask, groups=truth.patient)
        cells.append({"value": words.number(i.value), "more": "" if i.reason else words.interval(i.low, i.high)})
    return cells


def _guessed(m: Judged) -> list[dict[str, str]]:
    each = [METRICS.get("balanced_accuracy")(t.scores, t.labels, t.label_mask).per_class for t in m.tests]
    if not all(len(e) == len(m.label_names) for e in each):
        return [{"value": "–", "more": ""} for _ in m.label_names]
    return _over_runs(m, np.array(each))


def calibration(members: Sequence[Judged], look: Mapping[str, Look], gallery: Gallery, name: str) -> dict[str, Any]:
    """The reliability diagram of the best starts with their calibration errors; of a segmentation there is none."""
    drawn, legend = {}, []
    members = [m for m in members if m.task_kind != SEGMENTATION]
    for m in in_diagrams(members):
        if any(np.isnan(s).any() for s in m.scores):
            continue
        truth = m.tests[0]
        known = np.asarray(truth.label_mask) > 0
        if m.task_kind == "single_label":
            metric = "ece"
            said = [s.max(axis=1)[:, None] for s in m.scores]
            right = [is_correct(s, truth.labels, truth.label_mask)[0][:, None] for s in m.scores]
            known = np.asarray(known.all(axis=1))[:, None]
        else:
            metric, said, right = "label_ece", m.scores, [np.asarray(truth.labels) > 0] * len(m.scores)
        if not known.any():
            continue
        drawn[m.group.start] = diagrams.reliability(
            [np.asarray(s, np.float64).clip(0, 1) for s in said], right, groups=truth.patient, known=known
        )
        # Of a calibration error, which is biased, BCa covers less than it says (docs/statistics.md).
        legend.append(_interval_of(m, metric, method="percentile"))
    if not drawn:
        return {}
    what = (
        "the highest probability, against being right"
        if members[0].task_kind == "single_label"
        else ("the probabilities of all labels, against the truth")
    )
    return {
        "figure": gallery.show(f"{name} calibration", lines.reliability_figure(drawn, look)),
        "legend": legend,
        "what": what,
    }


def roc(members: Sequence[Judged], look: Mapping[str, Look], gallery: Gallery, name: str) -> dict[str, Any]:
    """ROC curves of the best starts, the mean over labels and runs, or nothing where no label has both classes."""
    drawn, legend, labels = {}, [], 0
    members = [m for m in members if m.task_kind != SEGMENTATION]
    for m in in_diagrams(members):
        truth = m.tests[0]
        curve = diagrams.mean_roc(m.scores, truth.labels, groups=truth.patient, label_mask=truth.label_mask)
        if curve.n_labels:
            drawn[m.group.start], labels = curve, curve.n_labels
            legend.append(_interval_of(m, "auroc"))
    if not drawn:
        return {}
    figure = gallery.show(f"{name} roc", lines.roc_figure(drawn, look))
    return {"figure": figure, "legend": legend, "labels": labels}


def _interval_of(m: Judged, metric: str, *, method: str = "bca") -> dict[str, str]:
    truth = m.tests[0]
    resampled = bootstrap.resample(
        metric, m.scores, truth.labels, groups=truth.patient, label_mask=truth.label_mask, n_resamples=_N_RESAMPLES
    )
    i = bootstrap.interval_of_mean(resampled, slice(None), method=method)
    return {
        "start": m.group.start,
        "label": label(m.group),
        "value": words.number(i.value),
        "interval": words.interval(i.low, i.high),
    }


def other_metrics(members: Sequence[Judged]) -> dict[str, Any]:
    """Every metric but the primary one, mean over runs and SD over seeds: exploratory."""
    if not members:
        return {}
    found = [[every_metric.of_task(t, m.task_kind, m.regions) for t in m.tests] for m in members]
    every = dict.fromkeys(n for of_runs in found for of in of_runs for n in of)
    names = [n for n in every if n != members[0].group.metric]
    rows, used = [], set()
    for m, of_runs in zip(members, found):
        values = {n: np.array([[of[n].value] for of in of_runs]) for n in names if all(n in of for of in of_runs)}
        rows.append((m.group, {n: _over_runs(m, v, factor=_factor(n))[0] for n, v in values.items()}))
        used |= {n for n, v in values.items() if not np.isnan(v).any()}
    kept = [n for n in names if n in used]
    nothing = {"value": "–", "more": ""}
    return {
        "columns": [{"name": words.metric(n), "n": _how(n)} for n in kept],
        "rows": [{"group": g, "cells": [cells.get(n, nothing) for n in kept]} for g, cells in rows],
        "left_out": [words.metric(n) for n in names if n not in used],
    }


def _factor(metric: str) -> float:
    return 1 if "hd95" in metric else 100


def _how(metric: str) -> str:
    in_mm = "in mm" if "hd95" in metric else ""
    return ", ".join(filter(None, (in_mm, "" if every_metric.higher_is_better(metric) else "lower is better")))


def worst_cases(m: Judged, pixels: Pixels | None) -> dict[str, Any]:
    """The test cases that a start gets most confidently wrong, by the mean of its runs' probabilities.

    Of a segmentation: the cases and labels with the lowest Dice, where there is something to find. No case id stands
    there: a case is named by its place in the order of the ids, which the predictions have too.
    """
    truth = m.tests[0]
    scores = np.mean([np.asarray(s, np.float64) for s in m.scores], axis=0)
    _, positive, known = known_entries(scores, truth.labels, truth.label_mask)
    found: list[dict[str, Any]] = []
    if m.task_kind == SEGMENTATION:
        dice = np.where(known & positive & ~np.isnan(scores), scores, np.inf)
        order = np.argsort(dice, axis=None, kind="stable")[:_MAX_WORST]
        for i, j in zip(*(part.tolist() for part in np.unravel_index(order, dice.shape))):
            if np.isfinite(dice[i, j]):
                found.append({"row": i, "truth": m.label_names[j], "said": f"Dice {dice[i, j]:.2f}", "of_truth": ""})
    elif m.task_kind == "single_label":
        guess, actual = np.where(np.isnan(scores), -1.0, scores).argmax(axis=1), positive.argmax(axis=1)
        wrong = np.flatnonzero(known.all(axis=1) & (guess != actual) & ~np.isnan(scores).any(axis=1))
        for i in wrong[np.argsort(-scores[wrong, guess[wrong]], kind="stable")][:_MAX_WORST].tolist():
            found.append(
                {
                    "row": i,
                    "truth": m.label_names[actual[i]],
                    "said": f"{m.label_names[guess[i]]} {scores[i, guess[i]]:.2f}",
                    "of_truth": f"{scores[i, actual[i]]:.2f}",
                }
            )
    else:
        error = np.where(known & ~np.isnan(scores), np.abs(scores - positive), 0.0)
        order = np.argsort(-error, axis=None, kind="stable")[:_MAX_WORST]
        for i, j in zip(*(part.tolist() for part in np.unravel_index(order, error.shape))):
            if error[i, j] > 0.5:
                name, yes = m.label_names[j], positive[i, j]
                found.append(
                    {
                        "row": i,
                        "truth": f"{name}: {'yes' if yes else 'no'}",
                        "said": f"{name} {scores[i, j]:.2f}",
                        "of_truth": f"{scores[i, j] if yes else 1 - scores[i, j]:.2f}",
                    }
                )
    images: Sequence[bytes] = []
    if pixels and found:
        masks = () if truth.masks is None else ([truth.masks.largest(c["row"]) for c in found],)
        images = pixels(m.group.task, [str(truth.case_id[c["row"]]) for c in found], *masks)
    cases = [
        {**case, "place": case["row"] + 1, "image": base64.b64encode(image).decode() if image else ""}
        for case, image in zip(found, images or [b""] * len(found), strict=True)
    ]
    return {
        "cases": cases,
        "n": len(truth),
        "found_how": "lowest Dice" if m.task_kind == SEGMENTATION else "",
        "start": m.group.start,
        "label": label(m.group),
        "images": bool(images),
        "masks": bool(images) and truth.masks is not None,
    }
