"""The planned row of a DICOM image: whose it is, which series it belongs to, where it lies."""

from __future__ import annotations

import posixpath
from typing import Any

from data_prep.facts import age_band, scanner, sex
from data_prep.ingest.dicom import Header
from data_prep.spec import Row


def slice_row(header: Header, path: str, frames: int, **fields: Any) -> Row:
    """The row of one frame.

    A study and a series are of one patient, also where only some of their files name it. Files with neither a patient
    nor a study belong with their like in the folder: that can join two patients, where guessing could part one. A
    patient that the dataset gives in `fields` is one more name of that patient: it parts nothing that the files join.

    Args:
      header: of the frame.
      path: of its file, relative to the source.
      frames: number of frames in the file.
      **fields: of the row, for the dataset to decide: label, stratum, patient, ...
    """
    folder = f"folder {posixpath.dirname(path)}"
    patient = f"id {header.patient}" if header.patient else ""
    given = fields.get("patient", "")
    study = f"study {header.study}" if header.study else "" if patient or given else folder
    links = (study, f"series {header.series}" if header.series else "")
    identity = header.sop_instance or f"file {path}"
    series = header.series or f"{header.study} {folder}"
    plane = header.plane
    known: dict[str, Any] = {
        "path": path,
        "identity": f"{identity} frame {header.frame}" if frames > 1 else identity,
        "patient": patient,
        "links": (patient, *links) if given and given != patient else links,
        "series": f"{series} stack {header.stack}" if header.stack else series,
        "frame": header.frame,
        "plane": plane.orientation if plane else "",
        "position": plane.position if plane else None,
        "shift": (plane.along_row, plane.along_column) if plane else None,
        "instance": header.instance,
        "size": header.size,
        "spacing": header.spacing,
        "thickness": header.thickness,
        "facts": {
            "sex": sex(header.sex), "age_band": age_band(header.age), "scanner": scanner(header.manufacturer),
        },
    }  # fmt: skip
    return Row(**known | fields)
