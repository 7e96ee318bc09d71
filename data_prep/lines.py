"""The line of the manifest that belongs to a record: made by the shard, where the pixels are, and kept as JSON until
all shards are written. Nothing in it identifies a patient.
"""

from __future__ import annotations

from typing import Any

from data_prep.hashing import pseudonym
from data_prep.plan import PlannedRow
from data_prep.raw import RawFile
from data_prep.spec import DatasetSpec


def line(
    spec: DatasetSpec, split: str, row: PlannedRow, raw: RawFile, phash: int | None, salt: bytes
) -> dict[str, Any]:
    """The line of one record, with more in it than the manifest of its dataset takes.

    Args:
      spec: the dataset.
      split: of the record.
      row: its plan.
      raw: what its file says of itself; the hash of the content is salted like an id, since that of a known file could
        be looked up.
      phash: of the stored pixels, None for a plain image.
      salt: of the hashes; the same as in the records.
    """
    rows, columns = row.size or raw.size or (None, None)
    between_rows, between_columns = row.spacing or (None, None)
    values: dict[str, Any] = {
        "person": row.person,
        "split": split,
        "case_id": pseudonym(salt, "case", row.identity),
        "patient": pseudonym(salt, "patient", row.patient),
        "series": pseudonym(salt, "series", row.series) if row.series else "",
        "slice": row.slice,
        "position": row.position,
        "source": pseudonym(salt, "source", raw.sha256),
        "phash": phash,
        "rows": rows,
        "columns": columns,
        "row_spacing": between_rows,
        "column_spacing": between_columns,
        "thickness": row.thickness,
        "label": row.label,
        "labels": row.labels,
        "label_mask": row.label_mask,
    }
    return values | {name: row.facts.get(name) for name in spec.facts} | dict(row.carried)
