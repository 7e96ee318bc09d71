"""The ledger of runs: one folder a run, from which every table and figure is recomputed.

    run.json              what was run and what came out; written last, so its presence means that the run is finished
    predictions.parquet   one row for each judged case: split, case id, hashed patient, facts, scores, labels, mask;
                          of a segmentation also counts, distances, lesions and the predicted mask (see `masks`)
    metrics.jsonl         one JSON object a line, {"step": ..., "loss": ...}: the curves

Nothing here says who the patient is: `patient` and `case_id` are hashes made when the dataset was built.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
import dataclasses
import functools
import hashlib
import json
import os
from pathlib import Path
import subprocess
from typing import Any

from jaxtyping import Float
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

import radnet_jax
from radnet_jax.errors import UserError, nearest
from radnet_jax.evaluation.canonical import canonical_json, jsonable
from radnet_jax.evaluation.checks import TASK_KINDS, check_predictions, check_runs
from radnet_jax.evaluation.masks import COLUMNS as MASK_COLUMNS
from radnet_jax.evaluation.masks import Masks, join

RUN_FILE = "run.json"
PREDICTIONS_FILE = "predictions.parquet"
CURVES_FILE = "metrics.jsonl"
FORMAT = 1
KINDS = ("pretrain", "finetune", "linear_probe", "knn", "foreign")  # foreign: predictions of another program

# fmt: off
_KEYS = frozenset((
    "run_id", "name", "kind", "seed", "checkpoint", "config", "dataset", "code", "versions", "topology", "timings",
    "adapter", "status",
))
_JUDGED_KEYS = frozenset((
    "task", "protocol", "start", "variant", "seed_varies", "primary_metric", "metrics", "label_names", "task_kind",
))
# fmt: on
_COLUMNS = ("split", "case_id", "patient", "scores", "labels", "label_mask")


@dataclasses.dataclass(frozen=True)
class Predictions:
    """What a run said about each case.

    Attributes:
      split: "train", "val" or "test", by case.
      case_id: stable hash of the record, unique in its split.
      patient: hashed patient, the unit of every interval.
      scores: probabilities in [0, 1]; NaN where the model gave none. Of a segmentation the Dice of each region; NaN
        where truth and prediction are empty.
      labels: 0 or 1; one-hot rows for a single-label task. Of a segmentation, whether there is something to find.
      label_mask: 1 where the label is known, else 0; rows of 0 for unlabelled cases.
      facts: further columns by name (sex, age_band, scanner, ...), each of length n; None where unknown.
      masks: of a segmentation, whose case is a volume or an image: what was predicted and measured.
    """

    split: Sequence[str] | np.ndarray
    case_id: Sequence[str] | np.ndarray
    patient: Sequence[str] | np.ndarray
    scores: Float[np.ndarray, "n k"]
    labels: Float[np.ndarray, "n k"]
    label_mask: Float[np.ndarray, "n k"]
    facts: Mapping[str, Sequence[Any]] = dataclasses.field(default_factory=dict)
    masks: Masks | None = None

    def of(self, split: str) -> Predictions:
        """The cases of one split in the order of their case ids, so that two runs of a task line up."""
        case_id = np.asarray(self.case_id, dtype=str)
        rows = np.flatnonzero(np.asarray(self.split, dtype=str) == split)
        rows = rows[np.argsort(case_id[rows], kind="stable")]
        return Predictions(
            split=np.asarray(self.split, dtype=str)[rows],
            case_id=case_id[rows],
            patient=np.asarray(self.patient, dtype=str)[rows],
            scores=np.asarray(self.scores)[rows],
            labels=np.asarray(self.labels)[rows],
            label_mask=np.asarray(self.label_mask)[rows],
            facts={name: [values[i] for i in rows.tolist()] for name, values in self.facts.items()},
            masks=None if self.masks is None else self.masks.take(rows),
        )

    def __len__(self) -> int:
        return len(self.case_id)


def together(parts: Sequence[Predictions]) -> Predictions:
    """Predictions of several splits as one; all have the same facts."""
    facts = {name: [v for p in parts for v in p.facts[name]] for name in parts[0].facts}
    masks = [p.masks for p in parts if p.masks is not None]
    columns = {name: np.concatenate([np.asarray(getattr(p, name)) for p in parts]) for name in _COLUMNS}
    return Predictions(**columns, facts=facts, masks=join(masks) if masks else None)


@dataclasses.dataclass(frozen=True)
class Run:
    """A finished run. `record` is its run.json; predictions and curves are read when they are first asked for."""

    folder: Path
    record: Mapping[str, Any]

    def __getattr__(self, name: str) -> Any:
        # Only reached for names that the class has not: run.task, run.start, run.seed, ...
        record = self.__dict__.get("record", {})
        if name in record:
            return record[name]
        raise AttributeError(f"a run has no {name!r}{nearest(name, record)}")

    @property
    def judged(self) -> bool:
        """Whether the run has predictions (every kind but pretraining)."""
        return self.record["kind"] != "pretrain"

    @property
    def fraction(self) -> float:
        """Share of the training labels that the run saw, `tags.fraction` of its config; 1 in runs older than that."""
        tags = self.record["config"].get("tags") or {}
        return float(tags.get("fraction", 1.0))

    @functools.cached_property
    def predictions(self) -> Predictions:
        return _read_predictions(self.folder / PREDICTIONS_FILE, self.record["label_names"])

    @functools.cached_property
    def curves(self) -> list[dict[str, Any]]:
        return read_curves(self.folder)


def setting_of(run: Run) -> str:
    """The protocol of a run with its share of the labels, where that is not all: runs of one setting are compared."""
    return run.protocol if run.fraction == 1 else f"{run.protocol}, {100 * run.fraction:.3g} % of labels"


def run_id(config: Any, dataset_fingerprint: str, code: Mapping[str, Any]) -> str:
    """Names a run by what determines it: SHA-256 over resolved config, dataset and code; 16 hex digits.

    Of `code` (see `code_version`) the package version and the digest of the source count, not the commit: a commit that
    changes no source file of the package leaves finished runs finished.
    """
    code = {k: code[k] for k in ("version", "source")}
    text = canonical_json({"config": config, "dataset": dataset_fingerprint, "code": code})
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@functools.cache
def _source_digest(package: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        digest.update(path.relative_to(package).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


def code_version() -> dict[str, Any]:
    """The code that runs: package `version`, digest of its `source` files, git `commit` and whether it is `dirty`.

    commit and dirty are None where there is no git, or where the package is not a tracked part of the repository it
    lies in (installed into a virtual environment of somebody else's project). All are as they were when they were first
    asked for: what is changed on disk later does not run in this process.
    """
    package = Path(radnet_jax.__file__).parent
    commit, dirty = _commit(package)
    version = {"version": radnet_jax.__version__, "source": _source_digest(package)}
    return version | {"commit": commit, "dirty": dirty}


@functools.cache
def _commit(package: Path) -> tuple[str | None, bool | None]:
    """Commit, and whether files differ from it. Cached: a checkpoint asks twice, and git takes its time."""

    def git(*args: str) -> str | None:
        try:
            done = subprocess.run(["git", "-C", str(package), *args], capture_output=True, text=True, timeout=20)
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    if git("ls-files", "--error-unmatch", "__init__.py") is None:
        return None, None
    changed = git("status", "--porcelain", "--untracked-files=normal", "--", ".")
    return git("rev-parse", "HEAD"), None if changed is None else bool(changed)


def is_finished(folder: str | Path) -> bool:
    """Whether `folder` holds a finished run."""
    return Path(folder, RUN_FILE).is_file()


def write_run(
    folder: str | Path,
    record: Mapping[str, Any],
    *,
    predictions: Predictions | None = None,
    curves: Iterable[Mapping[str, Any]] | None = None,
) -> Path:
    """Writes a finished run into `folder` (made if need be); each file appears whole, run.json last.

    Args:
      folder: the run's folder; may hold other files (checkpoints), but not a finished run.
      record: what run.json holds (`format` and `status` are added). `metrics` is {"val": {name: Metric}, "test": ...},
        where a Metric, or {"value", "reason"}, is taken.
      predictions: required for every kind but "pretrain".
      curves: points of metrics.jsonl; None where the training loop has written the file already.

    Returns:
      The path of run.json.

    Raises:
      UserError: a missing or unknown key, a finished run in `folder`, or predictions that `check_predictions` refuses.
    """
    folder = Path(folder)
    if is_finished(folder):
        raise UserError(f"{folder} holds a finished run", fix="remove the folder to run it again")
    record = {"format": FORMAT, "status": "finished", **record}
    _check_record(record, str(folder))
    if record["kind"] != "pretrain":
        if predictions is None:
            raise UserError(f"run {record['name']!r} of kind {record['kind']!r} has no predictions")
        check_predictions(predictions, record["task_kind"], record["label_names"], where=f"run {record['name']!r}")
    document = json.dumps(jsonable(record), indent=2, allow_nan=False) + "\n"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if predictions is not None:
            table = _table(predictions)
            _replace(folder / PREDICTIONS_FILE, lambda path: pq.write_table(table, path, compression="zstd"))
        if curves is not None:
            lines = "".join(canonical_json(point) + "\n" for point in curves)
            _replace(folder / CURVES_FILE, lambda path: path.write_text(lines))
        _replace(folder / RUN_FILE, lambda path: path.write_text(document))
    except OSError as error:
        raise UserError(
            f"can't write the run to {folder} ({error})", fix="free disk space or choose another workdir"
        ) from error
    return folder / RUN_FILE


def _replace(path: Path, write: Any) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        write(temporary)
        with open(temporary, "rb") as f:
            os.fsync(f.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _table(p: Predictions) -> pa.Table:
    clash = set(p.facts) & {*_COLUMNS, *MASK_COLUMNS}
    if clash:
        raise UserError(f"facts can't be called {', '.join(sorted(clash))}", fix="rename them")

    def strings(values: Iterable[Any]) -> pa.Array:
        return pa.array([None if v is None else str(v) for v in values], pa.string()).dictionary_encode()

    def lists(values: np.ndarray, kind: Any) -> pa.Array:
        values = np.asarray(values, kind)
        n, k = values.shape
        return pa.ListArray.from_arrays(pa.array(np.arange(n + 1) * k, pa.int32()), pa.array(values.reshape(-1)))

    columns: dict[str, pa.Array] = {
        "split": strings(p.split),
        "case_id": strings(p.case_id),
        "patient": strings(p.patient),
    }
    for name, values in p.facts.items():
        values = [v.item() if isinstance(v, np.generic) else v for v in values]
        text = any(isinstance(v, str) for v in values) or all(v is None for v in values)
        columns[name] = strings(values) if text else pa.array(values)
    # In float32 confident scores would become equal, and every metric another in the eighth digit.
    columns["scores"] = lists(p.scores, np.float64)
    for name in ("labels", "label_mask"):
        columns[name] = lists(getattr(p, name), np.float32)
    return pa.table(columns | ({} if p.masks is None else p.masks.to_columns()))


def _read_predictions(path: Path, label_names: Sequence[str]) -> Predictions:
    try:
        table = pq.read_table(path, partitioning=None)
    except (OSError, pa.ArrowException) as error:
        raise UserError(f"{path} can't be read ({error})", fix="run it again, or remove the folder") from error
    missing = [c for c in _COLUMNS if c not in table.column_names]
    if missing:
        raise UserError(f"{path} lacks the column(s) {', '.join(missing)}")
    n = table.num_rows

    def matrix(name: str) -> np.ndarray:
        lengths = set(np.diff(table[name].combine_chunks().offsets).tolist())
        if len(lengths) > 1:
            raise UserError(f"{path}: rows of {name} have different lengths", got=sorted(lengths))
        values = table[name].combine_chunks().flatten().to_numpy(zero_copy_only=False)
        return values.reshape(n, -1)

    strings = {c: table[c].to_pylist() for c in _COLUMNS[:3]}
    matrices = {c: matrix(c) for c in _COLUMNS[3:]}
    facts = {c: table[c].to_pylist() for c in table.column_names if c not in (*_COLUMNS, *MASK_COLUMNS)}
    masks = None
    if "mask" in table.column_names:
        masks = Masks.from_table(table, label_names, known=matrices["label_mask"] > 0)
    return Predictions(**strings, **matrices, facts=facts, masks=masks)


def read_curves(folder: str | Path) -> list[dict[str, Any]]:
    """The points of a run's metrics.jsonl, in order; empty where there is none. A torn last line is left out."""
    path = Path(folder, CURVES_FILE)
    if not path.is_file():
        return []
    lines = path.read_text().splitlines()
    points = []
    for i, line in enumerate(lines):
        try:
            points.append(json.loads(line))
        except json.JSONDecodeError as error:
            if i + 1 == len(lines):  # killed while writing it
                break
            raise UserError(f"{path} line {i + 1} is not JSON ({error})") from error
    return points


def _check_record(record: Mapping[str, Any], where: str) -> None:
    if record.get("format") != FORMAT:
        raise UserError(f"run in {where} has another format", got=record.get("format"), expected=FORMAT)
    if record.get("kind") not in KINDS:
        raise UserError(f"run in {where} has an unknown kind", got=repr(record.get("kind")), expected=", ".join(KINDS))
    needed = _KEYS if record["kind"] == "pretrain" else _KEYS | _JUDGED_KEYS
    missing = sorted(needed - set(record))
    if missing:
        raise UserError(f"run.json in {where} lacks {', '.join(missing)}")
    if record["kind"] != "pretrain" and record["task_kind"] not in TASK_KINDS:
        raise UserError(
            f"run in {where} has an unknown task_kind", got=repr(record["task_kind"]), expected=", ".join(TASK_KINDS)
        )


def read_run(folder: str | Path) -> Run:
    """Reads the finished run in `folder`; a UserError where there is none, or a broken one."""
    path = Path(folder, RUN_FILE)
    if not path.is_file():
        raise UserError(f"no finished run in {folder}", expected=f"a folder with {RUN_FILE}")
    try:
        record = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"{path} can't be read ({error})", fix="remove the folder and run it again") from error
    _check_record(record, str(folder))
    return Run(Path(folder), record)


def read_runs(root: str | Path) -> list[Run]:
    """Reads every finished run below `root`, in the order of (task, protocol, start, variant, seed, name), checked.

    Raises:
      UserError: no such folder, no run, or runs that `check_runs` refuses.
    """
    if not Path(root).is_dir():
        raise UserError(f"no folder {root}", expected="a folder of runs")
    runs = [read_run(path.parent) for path in sorted(Path(root).rglob(RUN_FILE))]
    if not runs:
        raise UserError(f"no finished run below {root}", expected=f"folders with {RUN_FILE}")
    check_runs(runs)
    keys = ("task", "protocol", "start", "variant", "name")
    return sorted(runs, key=lambda r: ([str(r.record.get(k) or "") for k in keys[:4]], int(r.seed or 0), r.name))
