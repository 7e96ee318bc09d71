"""Miniatures: small generated sources in the raw layout of each dataset, as its owner publishes it.

A miniature shows what a source must look like, file by file and column by column, and is what the tests build from. A
module here registers a function `write(folder, seed)` under the name of the dataset; the folder exists and is empty.
"""

from __future__ import annotations

import os
from pathlib import Path

from data_prep.generated import generated_with, mark_generated
from radnet_jax.errors import UserError
from radnet_jax.registry import Registry

MINIATURES = Registry("miniature", "data_prep.miniatures")
GENERATOR = "data_prep.miniature"
VERSION = 1  # raised when the same seed gives other files


def write_miniature(dataset: str, out: str | os.PathLike[str], seed: int = 0) -> Path:
    """Writes the miniature of a dataset into `out` and returns it; one of the same seed that is there is left alone.

    Args:
      dataset: a name of `MINIATURES`.
      out: new or empty folder.
      seed: of the pixels, and of the values that are drawn; names, columns and planted cases stay.

    Raises:
      UserError: an unknown name, a folder that holds something else, a disk that can't be written.
    """
    write, out = MINIATURES.get(dataset), Path(out)
    options = {"miniature": dataset, "seed": seed, "version": VERSION}
    try:
        if generated_with(out, GENERATOR, options):
            return out
        if out.exists() and not out.is_dir():
            raise UserError(f"out {out} is not a folder", fix="give --out a new or empty folder")
        if out.exists() and any(out.iterdir()):
            raise UserError(f"out {out} holds something else", fix="give --out a new or empty folder")
        out.mkdir(parents=True, exist_ok=True)
        write(out, seed)
        mark_generated(out, GENERATOR, options)
    except OSError as error:
        raise UserError(
            f"{out} can't be written ({error.strerror})", fix="free some space or give another --out"
        ) from error
    return out
