"""What is in the folder of a dataset before a build: nothing, a finished dataset, or a build that was stopped."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
import contextlib
import errno
import fcntl
import json
import os
from pathlib import Path
import shutil
import sqlite3
from typing import Any

from data_prep import manifest
from data_prep.guard import Limits
from data_prep.hashing import Salt
from radnet_jax import __version__
from radnet_jax.data import storage
from radnet_jax.data.cache import SUMS_FILE
from radnet_jax.data.card import CARD_FILE, DatasetCard, read_card
from radnet_jax.errors import UserError

Log = Callable[[str], None]
WORK_FOLDER = ".build"  # private: the plan holds paths and identifiers; gone when the build is finished
BY_LIMITS = ("memory_limit", "time_limit", "worker_crash")
_MEND = "copy it again from where it is whole, or delete that folder and build it anew"
_REMADE = ("report.html",)  # which its reader may print anew or take away


def finished(
    out: Path, request: Mapping[str, Any], limits: Limits, salt: Salt | None, log: Log, url: str = ""
) -> DatasetCard | None:
    """The card of the same build if `out` holds it; a UserError if `out` holds anything else that is finished, or has
    lost a file.

    Args:
      out: the folder, or the local one that stands for it and has its metadata.
      request: what is asked for.
      limits: of each file; they decide which files are in it, but a build is not another for that.
      salt: of the ids, None if none was given.
      log: takes lines for the user.
      url: of the dataset, where it is in an object store.
    """
    if not (out / CARD_FILE).is_file():
        return None
    card = read_card(out)
    try:
        data = json.loads((out / manifest.BUILD_FILE).read_text())
        before, before_salt = dict(data["request"]), data["salt"]["fingerprint"]
        rejected, before_limits = dict(data["rejected"]), data.get("limits")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{out} holds a dataset without a readable build.json", fix="give another --out") from error
    now = json.loads(json.dumps(request))
    times = before.pop("source_times", ""), now.pop("source_times")
    differences = list(_differences(before, now))
    if salt and salt.kind == "file" and salt.fingerprint() != before_salt:
        differences.append("another salt")
    if differences:
        raise UserError(
            f"{out} holds a dataset that was built differently",
            got="; ".join(differences),
            fix="give another --out, or delete that folder to build it anew",
        )
    if times[0] != times[1]:
        log(
            f"{card.name}: the source's files have other times than at the build, with the same names and lengths; "
            f"if they were changed and not just copied, delete {out} and build anew"
        )
    _check_files(out, url)
    lost = sum(rejected.get(reason, 0) for reason in BY_LIMITS)
    if lost and before_limits != limits.told():
        log(
            f"{card.name}: {lost} files were rejected by limits of time and memory other than the ones given now; "
            f"to read them under these, delete {out} and build anew"
        )
    shutil.rmtree(out / WORK_FOLDER, ignore_errors=True)
    return card


def _check_files(out: Path, url: str) -> None:
    """Refuses a dataset of which a file is missing or has another length than checksums.json says."""
    try:
        sums = json.loads((out / SUMS_FILE).read_text())
        stated = {name: sum_["size"] for name, sum_ in sums.items() if name not in _REMADE}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{url or out} holds a dataset without a readable {SUMS_FILE}", fix=_MEND) from error
    if storage.is_remote(url):
        there = {name: size for name, size, _ in storage.listing(url)}
    else:
        there = {path.name: path.stat().st_size for path in out.iterdir() if path.is_file()}
    if bad := sorted(name for name, size in stated.items() if there.get(name) != size):
        raise UserError(
            f"{url or out} is a finished dataset that has lost files, or parts of them",
            got=f"{len(bad)} of {len(stated)}: {', '.join(bad[:3])}{', ...' if len(bad) > 3 else ''}",
            fix=_MEND,
        )


def _differences(before: Any, now: Any, name: str = "") -> Iterator[str]:
    if isinstance(before, dict) and isinstance(now, dict):
        for key in sorted({*before, *now}):
            yield from _differences(before.get(key), now.get(key), key)
    elif before != now:
        yield "the source files changed" if name == "source" else f"{name} now {now!r}, there {before!r}"


def unfinished(request: Mapping[str, Any], limits: Limits) -> dict[str, Any]:
    """What two runs must have in common for one to go on where the other stopped: what is asked for, the limits, and
    the versions of what decodes and writes, so that no dataset is made of two kinds of records.
    """
    return {**request, "limits": limits.told(), "versions": manifest.versions(__version__)}


@contextlib.contextmanager
def work_folder(out: Path, asked: str) -> Iterator[Path]:
    """The private working folder, locked; emptied, with the shards, when it belongs to another build than `asked`."""
    work = out / WORK_FOLDER
    if out.is_dir() and not work.is_dir() and any(out.iterdir()):
        raise UserError(f"out {out} is not empty and holds no dataset", fix="give --out a new or empty folder")
    work.mkdir(mode=0o700, parents=True, exist_ok=True)
    work.chmod(0o700)
    with (work / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(f"another build is writing {out}", fix="wait for it, or give another --out") from error
        mark = work / "request"
        if not mark.is_file() or mark.read_text(errors="replace") != asked:
            for path in [*out.glob("*.array_record-*"), *(p for p in work.iterdir() if p.name != "lock")]:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
            mark.write_text(asked)
        yield work


@contextlib.contextmanager
def disk_errors(source: Path, out: Path) -> Iterator[None]:
    """Tells an error of the disk in one line: a full or unwritable `out`, a source that can't be read."""
    try:
        yield
    except OSError as error:
        raise _disk_error(error, source, out) from error
    except sqlite3.OperationalError as error:
        if "full" not in str(error):
            raise
        raise _disk_error(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), source, out) from error


def _disk_error(error: OSError, source: Path, out: Path) -> UserError:
    """One line for a disk that is full or not writable; the path of a source file is never told."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return UserError(f"the disk of {out} is full", fix="free some space and start again: the build goes on")
    reason = error.strerror or "unknown error"
    name = error.filename
    path = Path(os.fsdecode(name)).absolute() if isinstance(name, str | bytes) else None
    if path and path.is_relative_to(source) and not path.is_relative_to(out):
        return UserError(
            f"a file of the source can't be read ({reason})", fix="make it readable, or take it out of the source"
        )
    if path and not (path.is_relative_to(out) or out.is_relative_to(path)):
        return UserError(f"{path} can't be used ({reason})")
    return UserError(f"{out} can't be written ({reason})", fix="give --out a folder that can be written")
