"""What an exported folder is made of, and which arrays of a checkpoint are the backbone's."""

from __future__ import annotations

from collections.abc import Mapping
import hashlib
from pathlib import Path

import numpy as np

from radnet_jax import starts
from radnet_jax.errors import UserError

CARD_FILE = "radnet_jax.json"
ARRAYS_FILE = "arrays.npz"
SUMS_FILE = "SHA256SUMS"


def of_backbone(arrays: Mapping[str, np.ndarray], kept: str) -> dict[str, np.ndarray]:
    """Returns what a checkpoint hands on (see `Start.kept`) by name, "params/..." and "batch_stats/..."."""
    parts = {"params/backbone/": "params/", "model_state/batch_stats/backbone/": "batch_stats/"}
    return {
        f"{ours}{name.removeprefix(start)}": array
        for start, ours in parts.items()
        for name, array in starts.backbone_of(arrays, kept).items()
        if name.startswith(start)
    }


def sha256(path: Path) -> str:
    """Returns the hash of a file in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_sums(folder: Path, *files: str) -> None:
    """Refuses an exported folder in which one of these files is missing or was changed."""
    sums = folder / SUMS_FILE
    lines = sums.read_text(encoding="utf-8").splitlines() if sums.is_file() else []
    known = {name: digest for digest, _, name in (line.partition("  ") for line in lines)}
    for name in files:
        if name not in known or not (folder / name).is_file():
            raise UserError(f"{folder} is not whole: {name} is missing", fix="copy or export it again")
        if sha256(folder / name) != known[name]:
            raise UserError(f"{folder / name} was changed: its hash is not that of {SUMS_FILE}", fix="copy it again")
