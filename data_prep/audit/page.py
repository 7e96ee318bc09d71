"""What an audit leaves behind: audit.json, audit.parquet and a page that shows the pairs side by side."""

from __future__ import annotations

from collections.abc import Sequence
import os
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from data_prep.audit import KINDS, AuditResult
from data_prep.audit.units import Dataset, open_datasets
from data_prep.manifest import write_json
from data_prep.page import number, write_page
from data_prep.picture import picture
from radnet_jax.data.dataset import Split
from radnet_jax.errors import UserError

PAGE_FILE, JSON_FILE, TABLE_FILE = "audit.html", "audit.json", "audit.parquet"
_SHOWN = 24  # pairs of images, and rows of the other tables
_TITLES = {"patient": "same patient", "file": "same file", "image": "same picture"}


def check_out(out: str | os.PathLike[str]) -> None:
    """Makes the folder of the results, before an hour is spent on them.

    Raises:
      UserError: it can't be made or written.
    """
    try:
        Path(out).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{out} can't be made ({error.strerror})", fix="give --out a folder") from error
    if not os.access(out, os.W_OK):
        raise UserError(f"{out} can't be written", fix="give --out another folder")


def write_audit(out: str | os.PathLike[str], result: AuditResult, folders: Sequence[str | os.PathLike[str]]) -> Path:
    """Writes the results of `audit(folders)` into `out` and returns the path of the page.

    The page holds pixels of the images that were found twice: whoever may not see the records may not see it either.
    """
    out = Path(out)
    check_out(out)
    try:
        write_json(out / JSON_FILE, result.to_json())
        unfinished = out / f"{TABLE_FILE}.unfinished"
        pq.write_table(result.pairs, unfinished)
        os.replace(unfinished, out / TABLE_FILE)
        write_page(out / PAGE_FILE, "audit.html.j2", **_context(result, open_datasets(folders)))
    except OSError as error:
        raise UserError(
            f"{out} can't be written ({error.strerror})", fix="free some space or give --out another"
        ) from error
    return out / PAGE_FILE


def _context(result: AuditResult, datasets: Sequence[Dataset]) -> dict[str, Any]:
    rows = result.pairs.to_pylist()
    by_kind = {kind: [row for row in rows if row["kind"] == kind] for kind in KINDS}
    records = {(d.name, split): d.records(split) for d in datasets for split in d.card.splits} if rows else {}
    counts = [
        {
            "a": f"{a} {split_a}",
            "b": f"{b} {split_b}",
            "counts": [number(n) for n in _counts(rows, (a, split_a, b, split_b))],
        }
        for a, split_a, b, split_b in result.compared
    ]
    return {
        "clean": result.clean,
        "headline": _headline(result),
        "notes": result.notes,
        "datasets": [
            {"name": d["name"], "splits": _splits(d["splits"])} for d in result.datasets
        ],
        "kinds": [_TITLES[kind] for kind in KINDS],
        "compared": counts,
        "patients": by_kind["patient"][:_SHOWN],
        "more_patients": len(by_kind["patient"]) - _SHOWN,
        "galleries": [
            {"title": title, "lead": lead, "pairs": [_pair(row, records) for row in by_kind[kind][:_SHOWN]],
             "more": number(max(0, len(by_kind[kind]) - _SHOWN))}
            for kind, title, lead in (
                ("image", "Same picture", "Different files whose pictures agree in their detail."),
                ("file", "Same file", "Files of the same bytes; the first record of each is shown."),
            ) if by_kind[kind]
        ],
        "settings": result.settings,
        "candidates": number(result.candidates),
    }  # fmt: skip


def _counts(rows: list[dict[str, Any]], sides: tuple[str, ...]) -> list[int]:
    here = [r["kind"] for r in rows if (r["dataset_a"], r["split_a"], r["dataset_b"], r["split_b"]) == sides]
    return [here.count(kind) for kind in KINDS]


def _headline(result: AuditResult) -> str:
    if result.clean:
        return "Clean: no patient, file or picture is in two splits that must not share any."
    parts = [
        f"{number(n)} {kind if kind != 'image' else 'picture'}{'' if n == 1 else 's'}"
        for kind, n in result.counts().items()
        if n
    ]
    return f"Leaks: {', '.join(parts)} in splits that must not share any."


def _splits(splits: dict[str, int]) -> str:
    return ", ".join(f"{name} {number(n)}" for name, n in splits.items())


def _pair(row: dict[str, Any], records: dict[tuple[str, str], Split]) -> dict[str, Any]:
    sides = []
    for side in ("a", "b"):
        where = row[f"dataset_{side}"], row[f"split_{side}"]
        image = records[where][row[f"index_{side}"]]["image"]
        source = picture(image, records[where].card.stored)
        sides.append({"src": source, "where": " ".join(where), "case": row[f"case_id_{side}"]})
    numbers = f"{row['distance']} bits, likeness {row['likeness']:.2f}" if row["kind"] == "image" else ""
    return {"sides": sides, "numbers": ", ".join(t for t in (numbers, row["turn"]) if t)}
