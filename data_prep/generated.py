"""Which sources are generated, hence of no patient: a marker in the folder that lists what was written there.

A marker alone proves nothing: copied into a folder of real images, or left where real images were put among generated
ones, it would turn the secret salt off. So it says which files it is about, and others make the folder a real source.
"""

from __future__ import annotations

from collections.abc import Mapping
import hashlib
import json
from pathlib import Path
from typing import Any

from data_prep.ingest.files import walk
from data_prep.scratch import flush
from data_prep.spec import GENERATED_MARKER


def mark_generated(folder: Path, generator: str, options: Mapping[str, Any]) -> None:
    """Marks all that is in `folder` as written by `generator` with `options`, which JSON can hold."""
    unfinished = folder / f"{GENERATED_MARKER}.unfinished"
    unfinished.write_text(
        json.dumps({"generator": generator, "options": options, "files": _listing(folder)}, sort_keys=True)
    )
    flush(unfinished)
    unfinished.replace(folder / GENERATED_MARKER)


def is_generated(folder: Path) -> bool:
    """Whether the folder has a marker and holds the files that it is about, by names and lengths."""
    marker = _read(folder)
    return bool(marker) and marker.get("files") == _listing(folder)


def generated_with(folder: Path, generator: str, options: Mapping[str, Any]) -> bool:
    """Whether the folder was begun to be filled, and finished, by this generator with these options."""
    marker = _read(folder)
    return marker.get("generator") == generator and marker.get("options") == json.loads(json.dumps(options))


def _read(folder: Path) -> dict[str, Any]:
    """The content of the marker; nothing where there is none or it is something else."""
    path = folder / GENERATED_MARKER
    try:
        found = json.loads(path.read_text()) if path.is_file() else {}
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _listing(folder: Path) -> str:
    digest = hashlib.sha256()
    for name in walk(folder):
        path = folder / name
        length = path.stat().st_size if path.is_file() else -1
        digest.update(f"{name}\0{length}\0".encode(errors="surrogateescape"))
    return digest.hexdigest()
