"""A local copy of a dataset in an object store, since array_record reads local files only.

Files are copied once for each machine: processes take turns by a lock, a copy counts once its length and SHA-256 are
those that the dataset states of itself, and it is renamed into place whole.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
import contextlib
import fcntl
import hashlib
import json
import os
from pathlib import Path
import shutil
from typing import Any

from radnet_jax.data import storage
from radnet_jax.data.card import CARD_FILE
from radnet_jax.errors import UserError

CACHE_VARIABLE = "RADNET_JAX_CACHE"
SUMS_FILE = "checksums.json"


def cache_folder(*parts: str) -> Path:
    """The folder that RADNET_JAX_CACHE names, ~/.cache/radnet_jax by default, or one below it."""
    return Path(os.environ.get(CACHE_VARIABLE) or Path.home() / ".cache" / "radnet_jax", *parts)


def local_dataset(folder: str | Path, split: str) -> Path:
    """Returns the folder itself, or for a URL a local folder with the metadata and the shards of one split.

    Raises:
      UserError: no dataset there, a store that can't be reached, a copy that is not what the dataset states, no room.
    """
    if not storage.is_remote(folder):
        return Path(folder)
    url = str(folder)
    sums = storage.read_bytes(storage.join(url, SUMS_FILE))
    if sums is None or storage.size(storage.join(url, CARD_FILE)) is None:
        raise UserError(
            f"no dataset in {url}",
            expected=f"{CARD_FILE} and {SUMS_FILE}, as data_prep.build writes them, side by side",
        )
    stated: dict[str, dict[str, Any]] = json.loads(sums)
    # Another content is another folder, so that what is in one never changes under a reader.
    local = cache_folder("datasets") / hashlib.sha256(url.encode() + sums).hexdigest()[:16]
    wanted = {n: s for n, s in stated.items() if ".array_record-" not in n or f"-{split}.array_record-" in n}
    with _locked(local):
        _copy(url, local, {name: sum_ for name, sum_ in wanted.items() if not (local / name).is_file()})
        (local / SUMS_FILE).write_bytes(sums)
    return local


def _copy(url: str, local: Path, wanted: Mapping[str, Mapping[str, Any]]) -> None:
    needed, free = sum(s["size"] for s in wanted.values()), shutil.disk_usage(local).free
    if needed > free:
        raise UserError(
            f"no room for a local copy of {url} in {local.parent}",
            got=f"{free / 2**30:.1f} GiB free",
            expected=f"{needed / 2**30:.1f} GiB",
            fix=f"name a folder on a larger disk in {CACHE_VARIABLE}",
        )
    arriving = local / ".arriving"
    names = sorted(wanted)
    for start in range(0, len(names), 64):
        shutil.rmtree(arriving, ignore_errors=True)
        storage.fetch(url, names[start : start + 64], arriving)
        for name in names[start : start + 64]:
            if _sum(arriving / name) != wanted[name]:
                raise UserError(
                    f"{name} in {url} is not what its dataset states", fix="copy or build the dataset again"
                )
            (local / name).parent.mkdir(parents=True, exist_ok=True)
            os.replace(arriving / name, local / name)
    shutil.rmtree(arriving, ignore_errors=True)


def write_sums(folder: Path, card: Path, shards: Mapping[str, Mapping[str, Any]]) -> None:
    """Writes checksums.json: length and SHA-256 of each file of a dataset, those of `shards` as given.

    Args:
      folder: of the dataset.
      card: its card, which is not yet in the folder.
      shards: {name: {"size", "sha256"}}; they need not be there.
    """
    files = [path for path in folder.iterdir() if path.is_file() and path.name not in (*shards, SUMS_FILE)]
    sums = {path.name: _sum(path) for path in [*files, card]} | dict(shards)
    (folder / SUMS_FILE).write_text(json.dumps(sums, indent=1, sort_keys=True) + "\n")


def _sum(path: Path) -> dict[str, Any] | None:
    if not path.is_file():
        return None
    with path.open("rb") as file:
        return {"size": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """One process of a machine at a time; the others wait, and find the copy."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
