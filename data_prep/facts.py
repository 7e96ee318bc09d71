"""Group facts coarse enough to keep: each value comes from a short closed list, never from the file's own text."""

from __future__ import annotations

import re

VENDORS = ("siemens", "ge", "philips", "canon", "toshiba", "hitachi", "fujifilm", "neusoft", "shimadzu")
MAX_AGE = 120


def sex(text: object) -> str | None:
    """ "M", "F" or "O" from a DICOM or table value; None for anything else."""
    return {"M": "M", "MALE": "M", "F": "F", "FEMALE": "F", "O": "O", "OTHER": "O"}.get(str(text or "").strip().upper())


def age_band(text: object) -> str | None:
    """Decade of life such as "50-59" from "058Y", "006M", "58" or "58.0", as tables with gaps have it; "90+" above 89,
    where ages can identify a person.
    """
    said = "" if text is None else str(text)
    match = re.fullmatch(r"\s*(\d{1,3})(?:\.0*)?\s*([DWMY]?)\s*", said.upper())
    if not match:
        return None
    years = int(match[1]) if match[2] in ("", "Y") else int(match[1]) // {"D": 365, "W": 52, "M": 12}[match[2]]
    if years > MAX_AGE:
        return None
    return "90+" if years >= 90 else f"{years // 10 * 10}-{years // 10 * 10 + 9}"


def scanner(manufacturer: object) -> str | None:
    """Vendor of the scanner from the closed list VENDORS, "other" for a name not in it, None without a name."""
    words = re.findall(r"[a-z]+", str(manufacturer or "").lower())
    if not words:
        return None
    return next((v for v in VENDORS if v in words or (len(v) > 2 and any(w.startswith(v) for w in words))), "other")


def view(text: object) -> str | None:
    """Projection of a chest X-ray: "PA", "AP", "lateral", or "other"; None where nothing is said."""
    word = str(text or "").strip().upper()
    return {"": None, "PA": "PA", "AP": "AP", "LATERAL": "lateral", "LL": "lateral", "RL": "lateral"}.get(word, "other")
