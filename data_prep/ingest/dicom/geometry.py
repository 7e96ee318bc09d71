"""Where a slice lies, as the header says it. Nothing is invented: without a valid plane a slice has no position.

Standard: DICOM PS3.3 C.7.6.2.1.1 (Image Plane), 10.7.1.3 (Pixel Spacing), C.7.6.16.2.1, C.7.6.16.2.3 and C.7.6.16.2.4
(measures and planes of frames).
"""

from __future__ import annotations

from collections.abc import Sequence
import math
from typing import Any, NamedTuple

from data_prep.ingest.dicom.plain import Elements
from data_prep.ingest.dicom.tags import functional_group, values

_TOLERANCE = 1e-2  # of direction cosines, which some writers round to two or three places


class Plane(NamedTuple):
    """The place of a slice.

    Attributes:
      orientation: the direction cosines, rounded; positions of slices with another orientation can't be compared.
      position: of the first pixel along the normal, mm.
      along_row: of the first pixel along the row direction, mm.
      along_column: of the first pixel along the column direction, mm. Where these two change from slice to slice the
        stack is sheared, as with a tilted gantry.
    """

    orientation: str
    position: float
    along_row: float
    along_column: float


def plane(orientation: Sequence[Any], position: Sequence[Any]) -> Plane | None:
    """The plane from ImageOrientationPatient (6 numbers) and ImagePositionPatient (3 numbers, mm); None where they are
    absent, not finite, or not two perpendicular unit vectors.
    """
    if len(orientation) != 6 or len(position) != 3:
        return None
    try:
        cosines, origin = [float(v) for v in orientation], [float(v) for v in position]
    except (ValueError, TypeError):
        return None
    row, column = cosines[:3], cosines[3:]
    if not all(map(math.isfinite, (*cosines, *origin))):
        return None
    if max(abs(_dot(row, row) - 1), abs(_dot(column, column) - 1), abs(_dot(row, column))) > _TOLERANCE:
        return None
    normal = [row[i - 2] * column[i - 1] - row[i - 1] * column[i - 2] for i in range(3)]
    name = " ".join(f"{round(v, 2) + 0.0:g}" for v in cosines)
    return Plane(name, _dot(normal, origin), _dot(row, origin), _dot(column, origin))


def _dot(one: Sequence[float], other: Sequence[float]) -> float:
    return one[0] * other[0] + one[1] * other[1] + one[2] * other[2]


def frame_plane(dataset: Elements, frame: int) -> Plane | None:
    """The plane of one frame: by its functional groups, or by the header of a file with one frame."""
    place = functional_group(dataset, frame, "PlanePositionSequence")
    turn = functional_group(dataset, frame, "PlaneOrientationSequence")
    if place is not None and turn is not None:
        return plane(values(turn, "ImageOrientationPatient"), values(place, "ImagePositionPatient"))
    if int(dataset.get("NumberOfFrames") or 1) > 1:
        return None  # the header's one position can't be that of every frame
    return plane(values(dataset, "ImageOrientationPatient"), values(dataset, "ImagePositionPatient"))


def frame_measures(dataset: Elements, frame: int) -> tuple[tuple[float, float] | None, float | None]:
    """PixelSpacing (mm between rows, mm between columns) and SliceThickness (mm) of one frame: from its functional
    groups, else from the header; None for what is absent or no positive number.

    ImagerPixelSpacing is left alone: at the detector, not in the patient.
    """
    group = functional_group(dataset, frame, "PixelMeasuresSequence") or dataset
    spacing = [_millimetres(v) for v in values(group, "PixelSpacing")]
    thickness = [_millimetres(v) for v in values(group, "SliceThickness")]
    if len(spacing) == 2 and spacing[0] is not None and spacing[1] is not None:
        return (spacing[0], spacing[1]), thickness[0] if len(thickness) == 1 else None
    return None, thickness[0] if len(thickness) == 1 else None


def _millimetres(value: Any) -> float | None:
    try:
        length = float(value)
    except (ValueError, TypeError):
        return None
    return length if math.isfinite(length) and length > 0 else None
