"""Predictions of another program, from a CSV to run folders: from there on they are runs like ours.

A row for each case and run. Columns: case_id, patient, start, seed; a score_<label> for each label, in [0, 1]; and
either label (the name of the one true label) or a label_<label> for each label (0, 1, or empty where not known).
Optional: split, task, protocol, variant, checkpoint and the facts sex, age_band, scanner, site.
docs/compare_your_runs.md is the user's page.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import hashlib
from pathlib import Path
import re
from typing import Any

from jaxtyping import Float
import numpy as np
import pyarrow as pa
from pyarrow import compute
import pyarrow.csv as pa_csv

from radnet_jax.errors import UserError, nearest
from radnet_jax.evaluation import ledger, metrics
from radnet_jax.evaluation.checks import check_predictions
from radnet_jax.evaluation.comparisons import is_reference
from radnet_jax.evaluation.ledger import Predictions, Run
from radnet_jax.evaluation.metrics import METRICS
from radnet_jax.evaluation.results import CASE_COLUMNS, check_columns, number, read_header

FACTS = ("sex", "age_band", "scanner", "site")
_NAMES = ("task", "protocol", "start", "variant", "seed")  # of a run
_DEFAULTS = {"split": "test", "task": "task", "protocol": "predictions", "variant": "", "checkpoint": ""}
_SCORE, _LABEL = "score_", "label_"

Columns = Mapping[str, np.ndarray]  # cells as text, by column


def import_predictions(path: str | Path, out_dir: str | Path, *, primary_metric: str) -> list[Run]:
    """Writes each run of the table as a run folder below `out_dir` and returns them, checked against each other.

    Run again with the same table, the folders are read as they are.

    Raises:
      UserError: a missing or unknown column, a cell that is no number, a label or score out of range, a case twice in a
        run, two runs of a start with the same scores, a patient in two splits, runs of a task with different cases, an
        unknown metric or one that is not for these labels, folders of another table.
    """
    header = read_header(path)
    labels = [c.removeprefix(_SCORE) for c in header if c.startswith(_SCORE)]
    if not labels:
        raise UserError(f"table {path} lacks the scores", got=", ".join(header), expected=f"a column {_SCORE}<label>")
    one_of = "label" in header
    truth = ["label"] if one_of else [_LABEL + name for name in labels]
    scores = [_SCORE + name for name in labels]
    check_columns(path, header, (*CASE_COLUMNS, *scores, *truth), (*_DEFAULTS, *FACTS))
    task_kind = "single_label" if one_of else "multi_label"
    fit = [m for m in METRICS.names() if task_kind in metrics.task_kinds(m) and metrics.higher_is_better(m)]
    if primary_metric not in fit:
        METRICS.get(primary_metric)  # an unknown one is told with the nearest
        why = "an error" if not metrics.higher_is_better(primary_metric) else f"not for {task_kind} predictions"
        raise UserError(f"primary metric {primary_metric!r} is {why}", expected=f"one of {', '.join(fit)}")
    columns = _read(path, header)
    for column in ("start", "seed"):
        empty = np.flatnonzero(columns[column] == "")
        if len(empty):
            raise UserError(f"table {path} line {empty[0] + 2}: {column} is empty", expected="a name")
    truths = _truth(path, columns, labels, one_of)
    score = _matrix(path, columns, scores)
    by_run: dict[tuple[str, ...], list[int]] = {}
    for i, key in enumerate(zip(*(columns[c].tolist() for c in _NAMES))):
        by_run.setdefault(key, []).append(i)
    digest = hashlib.sha256(Path(path).read_bytes()).hexdigest()
    runs = []
    for key, members in by_run.items():
        own = {c: values[members] for c, values in columns.items()}
        facts = {c: [v or None for v in own[c].tolist()] for c in FACTS if c in own}
        cases: dict[str, Any] = {c: own[c] for c in ("split", "case_id", "patient")}
        cases |= {"scores": score[members], "labels": truths[0][members], "label_mask": truths[1][members]}
        predictions = Predictions(**cases, facts=facts)
        checkpoints = sorted(set(own["checkpoint"].tolist()))
        run = _run(Path(out_dir), Path(path), digest, key, checkpoints, predictions, labels, task_kind, primary_metric)
        vars(run)["predictions"] = predictions  # not written yet: nothing is, before all of them were checked
        runs.append(run)
    ledger.check_runs(runs)
    return [_saved(run) for run in runs]


def _read(path: str | Path, header: Sequence[str]) -> dict[str, np.ndarray]:
    """The cells of a CSV as text by column, with the optional columns that it lacks."""
    options = pa_csv.ReadOptions(column_names=list(header), skip_rows=1)
    text = pa_csv.ConvertOptions(column_types={c: pa.string() for c in header}, strings_can_be_null=False)
    try:
        table = pa_csv.read_csv(path, read_options=options, convert_options=text)
    except (OSError, pa.ArrowException) as error:
        raise UserError(f"table {path} can't be read ({error})", expected="a CSV file in UTF-8") from error
    if not len(table):
        raise UserError(f"table {path} has no rows")
    columns = {c: compute.utf8_trim_whitespace(table[c]).to_numpy() for c in header}
    return {c: np.full(len(table), value, object) for c, value in _DEFAULTS.items()} | columns


def _matrix(path: str | Path, columns: Columns, names: Sequence[str]) -> Float[np.ndarray, "n k"]:
    """Columns as numbers; NaN for empty cells."""
    return np.stack([_numbers(path, name, columns[name]) for name in names], axis=1)


def _numbers(path: str | Path, name: str, cells: np.ndarray) -> np.ndarray:
    try:
        values = np.where(cells == "", "nan", cells).astype(np.float64)
        if not np.isinf(values).any():
            return values
    except ValueError:
        pass
    return np.array([number(path, line, name, cell) for line, cell in enumerate(cells.tolist(), 2)])  # says which


def _truth(path: str | Path, columns: Columns, labels: Sequence[str], one_of: bool) -> tuple[np.ndarray, np.ndarray]:
    """Labels and mask, [n k] each."""
    if not one_of:
        values = _matrix(path, columns, [_LABEL + label for label in labels])
        return np.nan_to_num(values), (~np.isnan(values)).astype(np.float64)
    names = columns["label"]
    for i in np.flatnonzero(~np.isin(names, [*labels, ""])):
        where = f"table {path} line {i + 2}: label out of range{nearest(names[i], labels)}"
        raise UserError(where, got=repr(names[i]), expected=", ".join(labels))
    known = np.repeat((names != "")[:, None], len(labels), axis=1)
    return (names[:, None] == np.array(labels, object)).astype(np.float64), known.astype(np.float64)


def _run(
    out_dir: Path,
    path: Path,
    digest: str,
    key: tuple[str, ...],
    checkpoints: Sequence[str],
    predictions: Predictions,
    labels: Sequence[str],
    task_kind: str,
    primary_metric: str,
) -> Run:
    names = dict(zip(_NAMES, key))
    title = " ".join(filter(None, (*key[:-1], f"seed {names['seed']}")))
    if not re.fullmatch(r"\d{1,18}", names["seed"]):
        raise UserError(f"{title}: seed", got=repr(names["seed"]), expected="a whole number")
    check_predictions(predictions, task_kind, labels, where=f"run {title!r} of {path}")
    if len(checkpoints) > 1:
        raise UserError(f"run {title!r} has several checkpoints", got=", ".join(checkpoints), expected="one a run")
    of = {split: predictions.of(split) for split in ("val", "test")}
    results = {
        split: METRICS.get(primary_metric)(p.scores, p.labels, p.label_mask) for split, p in of.items() if len(p)
    }
    fingerprint = _digest(*(np.asarray(a) for a in (of["test"].case_id, of["test"].labels)))
    config: dict[str, Any] = {"table": path.name, "sha256": digest, "primary_metric": primary_metric, **names}
    code = ledger.code_version()
    record = {
        **names,
        "run_id": ledger.run_id(config, fingerprint, code),
        "name": title,
        "kind": "foreign",
        "seed": int(names["seed"]),
        "seed_varies": True,
        "checkpoint": checkpoints[0] or (None if is_reference(names["start"]) else names["start"]),
        "primary_metric": primary_metric,
        "metrics": {split: {primary_metric: metric} for split, metric in results.items()},
        "label_names": list(labels),
        "task_kind": task_kind,
        "config": config,
        "dataset": {
            "name": path.name,
            "fingerprint": fingerprint,
            "splits": {s: len(p) for s, p in of.items() if len(p)},
        },
        "code": code,
        "versions": {},
        "topology": {"platform": "unknown", "device_kind": "unknown", "devices": 0, "processes": 0},
        "timings": {"total_s": 0.0},
        "adapter": None,
    }
    folder = out_dir / f"{re.sub(r'[^A-Za-z0-9._-]+', '-', title)}-{_digest(np.array(key))[:6]}"
    return Run(folder, record)


def _saved(run: Run) -> Run:
    if not ledger.is_finished(run.folder):
        ledger.write_run(run.folder, run.record, predictions=run.predictions)
    elif ledger.read_run(run.folder).config != run.config:
        raise UserError(
            f"{run.folder} holds a run of another table, or by another primary metric", fix="choose another --workdir"
        )
    return ledger.read_run(run.folder)


def _digest(*arrays: np.ndarray) -> str:
    digest = hashlib.sha256()
    for array in arrays:
        digest.update("\0".join(map(str, array.ravel().tolist())).encode() + b"\1")
    return digest.hexdigest()
