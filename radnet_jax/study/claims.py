"""Who does which job: claims in a folder that several machines share, kept alive by heartbeats.

    <job>@<n>.lease       attempt n at a job: who makes it; its file time is the last heartbeat
    <job>@<n>.failed      why attempt n failed, one line
    <job>@<n>.released    attempt n was given back: its process was asked to stop

The newest attempt holds the job, until it ended or missed its heartbeats; whoever then makes the lease n + 1 holds it.
A lease is made by a hard link, which only one process can make, on NFS too (whose clients may repeat a request that was
done, and then hear that the lease is there: the number of links tells whose it is). Nobody removes the lease of
another, so that there is no moment between "is it still held?" and "it is mine" in which two can win. What an overtaken
process still does is harmless: it works in a folder of its own, and only the first result of a job counts.

Ages are differences of file times, which the file server sets: clocks of the machines don't matter. The file time of a
lease is read from an open file, since NFS looks such a one up anew.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
import contextlib
import dataclasses
import json
import os
from pathlib import Path
import socket
import tempfile
import threading
from typing import Any
import uuid

from absl import logging

_ENDINGS = ("failed", "released")


@dataclasses.dataclass(frozen=True)
class Attempt:
    """The newest attempt at a job.

    Attributes:
      number: 1, 2, ...
      ended: "failed", "released", or "" for one that is under way or was lost with its process.
    """

    number: int
    ended: str


class Claims:
    """The claims in one folder.

    Args:
      folder: of all claims; made if need be.
      heartbeat: seconds between two signs of life.
      missed: so many heartbeats without a sign, and a job may be taken over.
    """

    def __init__(self, folder: Path, *, heartbeat: float, missed: int):
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self.heartbeat = heartbeat
        self._patience = heartbeat * missed
        self._clock = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 (open as long as the claims)

    def newest(self) -> dict[str, Attempt]:
        """Returns the newest attempt at each job that has one; one listing of the folder.

        How an attempt ended counts where its lease is gone too (`forget` was cut short, or overlooked it): else a new
        lease of that number would have ended before it began.
        """
        found: dict[str, Attempt] = {}
        for name in os.listdir(self._folder):
            job, at, rest = name.rpartition("@")
            digits, _, kind = rest.partition(".")
            if not at or not digits.isdigit():
                continue
            seen = Attempt(int(digits), kind if kind in _ENDINGS else "")
            before = found.get(job, Attempt(0, ""))
            if kind in ("lease", *_ENDINGS) and (seen.number, seen.ended) > (before.number, before.ended):
                found[job] = seen
        return found

    def claim(self, job: str, after: int = 0) -> Lease | None:
        """Claims a job whose newest attempt is number `after`; None where another process was faster."""
        lease = Lease(self._path(job, after + 1, "lease"), job, after + 1, self)
        temporary = self._folder / f".{uuid.uuid4().hex}"
        try:
            with temporary.open("w") as file:
                json.dump(_this_process(), file)
                file.flush()
                os.fsync(file.fileno())
            try:
                os.link(temporary, lease.path)
                return lease  # whatever the number of links: some file systems always say 1
            except FileExistsError:
                return lease if temporary.stat().st_nlink == 2 else None
            except OSError:  # a file system without hard links
                with contextlib.suppress(FileExistsError), lease.path.open("x") as file:
                    json.dump(_this_process(), file)
                    return lease
                return None
        finally:
            temporary.unlink(missing_ok=True)

    def is_held(self, job: str, attempt: Attempt) -> bool:
        """Whether somebody is at work on an attempt, as far as can be known."""
        return not attempt.ended and not self.is_gone(job, attempt) and self._age(job, attempt) <= self._patience

    def is_gone(self, job: str, attempt: Attempt) -> bool:
        """Whether the process of an attempt is known to have ended or to have given it back."""
        return bool(attempt.ended) or _is_dead(self.holder(job, attempt.number))

    def holder(self, job: str, number: int) -> Mapping[str, Any]:
        """Who makes an attempt: {"host", "process", ...}; {} where that can't be read."""
        try:
            return dict(json.loads(self._path(job, number, "lease").read_text()))
        except (OSError, ValueError):
            return {}

    def reason(self, job: str, number: int) -> str:
        """Why an attempt failed; "" where that can't be read."""
        try:
            return self._path(job, number, "failed").read_text().strip()
        except OSError:
            return ""

    def forget(self, job: str) -> None:
        """Removes all claims of a job that is finished."""
        for name in os.listdir(self._folder):
            if name.rpartition("@")[0] == job:
                (self._folder / name).unlink(missing_ok=True)

    def close(self) -> None:
        self._clock.close()

    def _age(self, job: str, attempt: Attempt) -> float:
        """Seconds since the last heartbeat, by the clock of the file server; 0 where the lease is no longer there."""
        os.utime(self._clock.fileno())
        now = os.fstat(self._clock.fileno()).st_mtime
        try:
            with self._path(job, attempt.number, "lease").open() as file:
                return now - os.fstat(file.fileno()).st_mtime
        except OSError:
            return 0.0

    def _path(self, job: str, number: int, kind: str) -> Path:
        return self._folder / f"{job}@{number}.{kind}"


@dataclasses.dataclass
class Lease:
    """A claimed job. `keep` gives signs of life meanwhile; then `release`, `fail` or `Claims.forget`."""

    path: Path
    job: str
    number: int
    _claims: Claims

    @contextlib.contextmanager
    def keep(self) -> Iterator[None]:
        """Gives a sign of life with each heartbeat, from a thread, until the block is left."""
        done = threading.Event()

        def beat() -> None:
            while not done.wait(self._claims.heartbeat):
                try:
                    os.utime(self.path)  # without a time: the file server's own
                except FileNotFoundError:
                    return  # another process has finished the job
                except OSError as error:
                    logging.warning("no sign of life for %s (%s)", self.job, error.strerror)

        thread = threading.Thread(target=beat, daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()

    def is_newest(self) -> bool:
        """Whether no other process has taken the job over."""
        newest = self._claims.newest().get(self.job)
        return newest is not None and newest.number == self.number

    def release(self) -> None:
        """Gives the job back without a result: another process may go on at once."""
        self._end("released", "")

    def fail(self, reason: str) -> None:
        """Ends the attempt with a reason; the job is left alone until it is tried again."""
        self._end("failed", " ".join(reason.split()))

    def _end(self, kind: str, text: str) -> None:
        temporary = self.path.with_name(f".{uuid.uuid4().hex}")
        with temporary.open("w") as file:
            file.write(text + "\n")
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, self.path.with_suffix(f".{kind}"))


def _this_process() -> dict[str, Any]:
    began = _status(os.getpid())[1]
    return {"host": socket.gethostname(), "machine": _machine(), "pid": os.getpid(), "began": began}


def _machine() -> str:
    """Names what process numbers mean here: this start of the machine, this container; "" where that is not told."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""


def _status(pid: int) -> tuple[str, str]:
    """State of a process of this machine, and when it began: its number may be another's later. ("", "") for none."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return fields[0], fields[19]
    except (OSError, IndexError):
        return "", ""


def _is_hidden(pid: int) -> bool:
    """Whether there is a process of another user, which /proc may not show (mounted with hidepid)."""
    try:
        os.kill(pid, 0)
    except PermissionError:
        return True
    except OSError:
        pass
    return False


def _is_dead(who: Mapping[str, Any]) -> bool:
    """Whether a process is known to have ended: only of one of this machine can that be known."""
    machine = _machine()
    if not machine or who.get("machine") != machine:
        return False
    state, began = _status(who["pid"])
    if not began and _is_hidden(who["pid"]):
        return False
    return began != who["began"] or state in "ZX"  # Z: killed, and not yet waited for by its parent
