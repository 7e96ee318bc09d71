"""Before a run is judged: does its start know the test set? The datasets of a chain against the splits of the task."""

from __future__ import annotations

from collections import Counter
import json
import os
from pathlib import Path
from typing import Any

from absl import logging
import jax
from ml_collections import ConfigDict

from data_prep.audit import AuditResult, audit
from data_prep.audit.units import Unit
from radnet_jax.data.cache import local_dataset
from radnet_jax.data.card import read_card
from radnet_jax.errors import UserError, nearest
from radnet_jax.parts import Parts

AUDIT_FILE = "audit.json"
ON_LEAK = ("refuse", "warn")
TRAIN = "train"


def check(config: ConfigDict) -> None:
    """Refuses an audit that can't be made."""
    if config.audit.on_leak not in ON_LEAK:
        raise UserError(
            f"config.audit.on_leak{nearest(config.audit.on_leak, ON_LEAK)}",
            got=repr(config.audit.on_leak),
            expected=" or ".join(ON_LEAK),
        )
    for source in config.audit.sources:
        _fingerprint(source)


def _fingerprint(source: str) -> str:
    return read_card(local_dataset(source, TRAIN)).fingerprint


def run(config: ConfigDict, parts: Parts, workdir: Path) -> dict[str, Any] | None:
    """Compares the training records of `config.audit.sources` with the splits that the run is judged or selected on.

    What was found is kept in the workdir (`audit.json`, without case ids) and not looked for again while the datasets
    are the same.

    Returns:
      {"clean", "sources": {name: {"fingerprint", "shared": {split: {kind: count}}, "notes"}}}, or None without sources.

    Raises:
      UserError: shared patients, files or images, with `on_leak="refuse"`.
    """
    if not config.data.judge:
        return None
    _tell_unknown(config, parts)
    if not config.audit.sources:
        return None
    splits = {*config.data.judge}
    if config.run == "train" and config.select.every:
        splits.add(config.select.split)
    path = workdir / AUDIT_FILE
    what = [parts.split.card.fingerprint, *sorted(splits), *map(_fingerprint, config.audit.sources)]
    made = json.loads(path.read_text()) if path.is_file() else {}
    if made.get("what") != what:
        found: dict[str, Any] = {}
        for source in config.audit.sources:
            name, told = _of_source(source, config.data.dir, splits)
            found[name if name not in found else f"{name} {len(found)}"] = told
        clean = not any(counts for told in found.values() for counts in told["shared"].values())
        made = {"what": what, "found": {"clean": clean, "sources": found}}
        if jax.process_index() == 0:
            workdir.mkdir(parents=True, exist_ok=True)
            temporary = path.with_name(f".{AUDIT_FILE}.{os.getpid()}.tmp")
            temporary.write_text(json.dumps(made, indent=1))
            os.replace(temporary, path)  # whole or not at all: the next attempt reads it
    _tell(config, parts, made["found"])
    found = made["found"]
    return dict(found)


def _tell_unknown(config: ConfigDict, parts: Parts) -> None:
    """Says which datasets of the start's chain no audit was asked for."""
    asked = {_fingerprint(source) for source in config.audit.sources} | {parts.split.card.fingerprint}
    lineage = parts.start.lineage if parts.start else ()
    if unknown := [name for name, fingerprint in lineage if fingerprint not in asked]:
        logging.warning(
            "the start was trained on %s: whether %s shares patients or images with it was not looked at, "
            "--config.audit.sources names the folders",
            " and ".join(unknown),
            parts.split.card.name,
        )


def _of_source(source: str, target: str, splits: set[str]) -> tuple[str, dict[str, Any]]:
    card = read_card(local_dataset(source, TRAIN))
    same = card.fingerprint == _fingerprint(target)

    def wanted(a: Unit, b: Unit) -> bool:
        sides = {(u.dataset.place == str(source), u.split) for u in (a, b)}
        return (True, TRAIN) in sides and any((same, s) in sides for s in splits)

    folders = [str(source)] if same else [str(source), str(target)]
    result = audit(folders, images_only=True, wanted=wanted, log=logging.info)
    return card.name, {"fingerprint": card.fingerprint, "shared": _shared(result), "notes": result.notes}


def _shared(result: AuditResult) -> dict[str, dict[str, int]]:
    """Returns how many patients, files and images of each split are in the source's training records."""
    rows = result.pairs.to_pylist()
    counts: Counter[tuple[str, str]] = Counter()
    seen = set()
    for row in rows:
        side = "b" if row["split_a"] == TRAIN else "a"
        case = (row["kind"], row[f"split_{side}"], row[f"case_id_{side}"])
        if case not in seen:  # an image that has two copies in the source is one image of the task
            seen.add(case)
            counts[row[f"split_{side}"], row["kind"]] += 1
    return {split: {kind: n for (s, kind), n in counts.items() if s == split} for split in {s for s, _ in counts}}


def _tell(config: ConfigDict, parts: Parts, found: dict[str, Any]) -> None:
    for name, told in found["sources"].items():
        for note in told["notes"]:
            logging.warning("audit of %s: %s", name, note)
        if not told["shared"]:
            logging.info("audit: %s shares nothing with the judged splits of %s", name, parts.split.card.name)
            continue
        shares = "; ".join(
            f"{split}: " + ", ".join(f"{n} {kind}{'s' * (n != 1)}" for kind, n in sorted(kinds.items()))
            for split, kinds in sorted(told["shared"].items())
        )
        what = f"audit: {parts.split.card.name} shares with the training records of {name} ({shares})"
        if config.audit.on_leak == "warn":
            logging.warning("%s: what the start has seen there, results may rest on", what)
            continue
        raise UserError(
            what,
            expected="nothing: a start must not have seen what it is judged on",
            fix="python -m data_prep.audit SOURCE TASK --out=DIR lists the cases: build either dataset without them, "
            "choose another start, or go on all the same with --config.audit.on_leak=warn",
        )
