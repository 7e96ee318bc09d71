"""The analyses of a finished study: each task and start, its seeds as repeats, and a page over all of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import dataclasses
import hashlib
import json
import math
import os
from pathlib import Path
import re
from typing import Any

from absl import logging
from ml_collections import ConfigDict

from radnet_jax.analysis import pairing, study_findings, study_page, who_knows
from radnet_jax.analysis import run as one
from radnet_jax.data.card import CARD_FILE, DatasetCard, read_card
from radnet_jax.errors import UserError
from radnet_jax.evaluation import ledger
from radnet_jax.evaluation.canonical import canonical_json, jsonable
from radnet_jax.evaluation.ledger import Run
from radnet_jax.parts import check_workdir, lock, plain
from radnet_jax.starts import find_start
from radnet_jax.weights import use

STUDY_FILE = "analyses.json"
_OF_FILE = "of.json"  # what an analysis is made of, so that it is made again only when that has changed
Cards = Mapping[str, tuple[Path, DatasetCard]]  # by fingerprint


@dataclasses.dataclass(frozen=True)
class Question:
    """What fine-tuning one start on one task did, with each seed.

    Attributes:
      task: of the study.
      setting: the protocol.
      start: with its variant.
      runs: one for each seed.
      before: what each began with: a folder, the name of an import, or "initial".
      dataset: folder of the task's dataset.
      domain: key of `study_findings.DOMAINS`: how near to the task's images those are that the start was trained on.
    """

    task: str
    setting: str
    start: str
    runs: tuple[Run, ...]
    before: tuple[str, ...]
    dataset: Path
    domain: str

    @property
    def id(self) -> str:
        """As a file name."""
        return re.sub(r"[^\w.+=-]", "-", f"{self.task}-{self.setting}-{self.start}")


def run(config: ConfigDict, workdir: str | Path) -> Path:
    """Analyses each task and start of the study in `config.study`, then writes report/index.html over them.

    An analysis that is there, of the same runs and settings, is not made again.

    Raises:
      UserError: no fine-tuned runs, a start or a dataset that is not found; whatever an analysis refuses.
    """
    study = Path(config.study)
    if config.a or config.b or config.repeats or config.adapter:
        raise UserError("config.study names its networks itself", fix="leave config.a, b, repeats and adapter out")
    found = questions(study, Path(config.data.dir) if config.data.dir else None)
    who = who_knows.of_runs(config.runs, seed=config.seed) if config.runs else []
    workdir = check_workdir(workdir, need_bytes=2**24 * len(found))
    with lock(workdir):
        results = [_analysed(config, question, workdir) for question in found]
        told = study_findings.summarised(results) | {"who_knows": who}
        temporary = workdir / f".{STUDY_FILE}.tmp"
        temporary.write_text(json.dumps(jsonable(told), indent=1) + "\n")
        os.replace(temporary, workdir / STUDY_FILE)
        path = study_page.write(workdir / "report", _title(study), told)
    if workdir.parent == study.resolve():
        logging.info("start the study's own command again: its report then links to these pages")
    logging.info("%d analyses: %s", len(found), path)
    return workdir


def _analysed(config: ConfigDict, question: Question, workdir: Path) -> dict[str, Any]:
    """What the pages of the study show of an analysis, which is made where it is not there."""
    place = workdir / question.id
    derived = _config(config, question)
    of = hashlib.sha256(canonical_json(_of(derived, question)).encode()).hexdigest()
    if not (place / _OF_FILE).is_file() or json.loads((place / _OF_FILE).read_text()) != of:
        (place / _OF_FILE).unlink(missing_ok=True)
        logging.info("%s: %d seed(s)", derived.name, len(question.runs))
        one.run(derived, place)
        (place / _OF_FILE).write_text(json.dumps(of))
    result = json.loads((place / one.ANALYSIS_FILE).read_text())
    return {
        "task": question.task,
        "setting": question.setting,
        "start": question.start,
        "domain": question.domain,
        "place": question.id,
        "generated": result["dataset"]["generated"],
        "statistics": result["a"]["statistics"],
        "over_seeds": _numbers(result["over_seeds"]),
    }


def questions(study: Path, data_dir: Path | None) -> list[Question]:
    """Returns what there is to ask of the finished runs of a study, in the order of tasks and starts.

    Runs are those that were fine-tuned on the most labels there are of their task and protocol, and have a checkpoint.

    Args:
      study: its folder, with runs/ and datasets/.
      data_dir: a dataset that was not built by the study, or a folder of such.

    Raises:
      UserError: no such runs; a start or a dataset that is not found.
    """
    runs = ledger.read_runs(study / "runs")
    tuned = [r for r in runs if r.kind == "finetune" and (r.folder / "checkpoints").is_dir()]
    if not tuned:
        raise UserError(f"no fine-tuned run with a checkpoint in {study}", fix="give the folder of a finished study")
    most = {(r.task, r.protocol): max(o.fraction for o in tuned if _where(o) == _where(r)) for r in tuned}
    cards = _cards([study / "datasets", *([data_dir] if data_dir else [])])
    pretrained = {r.run_id: r for r in runs if r.kind == "pretrain"}
    groups: dict[tuple[str, str, str], list[Run]] = {}
    for r in tuned:
        if r.fraction == most[_where(r)]:
            groups.setdefault((r.task, ledger.setting_of(r), f"{r.start} {r.variant}".strip()), []).append(r)
    out = []
    for (task, setting, start), group in groups.items():
        first = group[0]
        if first.dataset["fingerprint"] not in cards:
            raise UserError(
                f"the dataset of {task} is not in the study's folder",
                got=first.dataset["name"],
                fix="--config.data.dir=DATASET, or the folder that it lies in",
            )
        folder, card = cards[first.dataset["fingerprint"]]
        before = tuple(_before(r, pretrained) for r in group)
        out.append(Question(task, setting, start, tuple(group), before, folder, _domain(first, card, cards)))
    return out


def _where(run: Run) -> tuple[str, str]:
    return run.task, run.protocol


def _before(run: Run, pretrained: Mapping[str, Run]) -> str:
    """Where the start of a run is."""
    if not run.checkpoint:
        return pairing.INITIAL
    if (own := pretrained.get(run.checkpoint.partition("@")[0])) is not None:
        return str(own.folder)
    name = run.config["init_from"]
    try:
        found = str(use.find(name))
    except UserError as error:
        raise UserError(f"the start of {run.name} is neither in the study nor an import", got=name) from error
    if find_start(found).id != run.checkpoint:
        raise UserError(f"{found} is not what {run.name} began with any more")
    return found


def _domain(run: Run, card: DatasetCard, cards: Cards) -> str:
    """How near the images are that a start was trained on: of a mixture, or of several trainings, the nearest."""
    if not run.checkpoint:
        return "none"
    seen: set[str] = set()
    modalities: set[str] = set()
    for trained in run.lineage:
        seen.add(trained["fingerprint"])
        if trained["fingerprint"] in cards:
            known = cards[trained["fingerprint"]][1]
            seen.update(m.fingerprint for m in known.members)
            modalities.update(cards[m.fingerprint][1].stored.modality for m in known.members if m.fingerprint in cards)
            if not known.members:
                modalities.add(known.stored.modality)
    if card.fingerprint in seen:
        return "own"
    if not modalities:  # an import: what its input is
        modalities = {run.adapter["model_input"]["modality"]}
    return "modality" if card.stored.modality in modalities else "other"


def _cards(roots: Sequence[Path]) -> dict[str, tuple[Path, DatasetCard]]:
    """Datasets in these folders, or that they are."""
    found = {}
    for root in roots:
        for path in sorted([*root.glob(CARD_FILE), *root.glob(f"*/{CARD_FILE}")]):
            card = read_card(path.parent)
            found[card.fingerprint] = (path.parent, card)
    return found


def _config(config: ConfigDict, question: Question) -> ConfigDict:
    """The settings of one analysis."""
    pairs = tuple(zip(question.before, (str(r.folder) for r in question.runs), strict=True))
    out = plain(config) | {
        "study": "",
        "runs": "",
        "name": f"{question.start} on {question.task}, {question.setting}",
        "a": pairs[0][0],
        "b": pairs[0][1],
        "repeats": pairs[1:],
        "adapter": question.runs[0].config["adapter"],
        "data": {"dir": str(question.dataset), "split": config.data.split},
    }
    return ConfigDict(out).lock()


def _of(config: ConfigDict, question: Question) -> Any:
    """What an analysis follows from: settings, runs and code, wherever they lie."""
    settings = {k: v for k, v in plain(config).items() if k not in ("a", "b", "repeats", "data")}
    runs = [(r.run_id, r.checkpoint) for r in question.runs]
    return [settings, config.data.split, question.domain, runs, ledger.code_version()["source"]]


def _numbers(value: Any) -> Any:
    """Undefined numbers, which JSON has as null, as NaN."""
    if isinstance(value, dict):
        return {k: _numbers(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_numbers(v) for v in value]
    return math.nan if value is None else value


def _title(study: Path) -> str:
    path = study / "study.json"
    return str(json.loads(path.read_text())["name"]) if path.is_file() else study.resolve().name
