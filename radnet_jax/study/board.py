"""The jobs of a study and who does them: each is done once, whoever of several processes comes to it first.

An attempt works in a folder of its own below `attempts/`, which becomes the job's place by one rename: what is there is
whole, and the first result wins. The next attempt goes on from what the one before has left.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
import contextlib
import dataclasses
import os
from pathlib import Path
import shutil
import time
import traceback
from typing import Protocol

from absl import logging

from radnet_jax.errors import Preempted, UserError
from radnet_jax.study.claims import Attempt, Claims, Lease

ATTEMPTS = "attempts"
CLAIMS = "claims"
_POLL = 2.0  # seconds between two looks at what other processes do
Agree = Callable[[tuple[int, int]], tuple[int, int]]


def _alone(order: tuple[int, int]) -> tuple[int, int]:
    return order


class Job(Protocol):
    """Something to do once. `id` names files: no "/" and no "@"."""

    @property
    def id(self) -> str: ...
    @property
    def name(self) -> str:
        """For people."""
        ...

    @property
    def place(self) -> Path:
        """The folder of its result."""
        ...

    @property
    def needs(self) -> tuple[str, ...]:
        """Ids of jobs whose results it starts from."""
        ...

    def is_finished(self) -> bool:
        """Whether the result is there, whole."""
        ...

    def run(self, folder: Path) -> str:
        """Does it in `folder`, where an earlier attempt may have left something; returns one line of what came out."""
        ...


@dataclasses.dataclass(frozen=True)
class State:
    """Where a job stands: "finished", "failed", "held", "blocked" (by a failed one), "waiting" or "open"."""

    kind: str
    text: str = ""
    attempt: Attempt | None = None


class Board:
    """The jobs in a study's folder.

    Args:
      workdir: the study's folder; all processes that work on it see it.
      jobs: in the order of their numbers; what a job needs may stand anywhere.
      claims: of the folder.
      say: takes lines for the user.
      retry: whether jobs that have failed before are tried again, once.
    """

    def __init__(
        self, workdir: Path, jobs: Sequence[Job], claims: Claims, say: Callable[[str], None], *, retry: bool = False
    ):
        self._attempts = workdir / ATTEMPTS
        self._jobs = {job.id: job for job in jobs}
        self._claims = claims
        self._say = say
        self._finished: set[str] = set()
        newest = claims.newest()
        self._retry = {id: a.number for id, a in newest.items() if a.ended == "failed"} if retry else {}

    def states(self) -> dict[str, State]:
        """Returns where each job stands. Whether one that looks open can be had is told by a claim only."""
        look = self._look()
        return {id: look(id) for id in self._jobs}

    def _look(self) -> Callable[[str], State]:
        """Returns a function that tells where a job stands, from one listing of the claims."""
        newest = self._claims.newest()
        states: dict[str, State] = {}

        def look(id: str) -> State:
            if id not in states:
                states[id] = self._state(id, newest.get(id), look)
            return states[id]

        return look

    def _state(self, id: str, attempt: Attempt | None, look: Callable[[str], State]) -> State:
        if id in self._finished:
            return State("finished")
        needed = {look(need).kind for need in self._jobs[id].needs if need in self._jobs}
        if needed & {"failed", "blocked"}:
            return State("blocked")
        if needed - {"finished"}:
            return State("waiting")
        if self._jobs[id].is_finished():  # whatever is left of its claims, where forgetting them was cut short
            self._finished.add(id)
            return State("finished")
        if attempt and attempt.ended == "failed" and self._retry.get(id) != attempt.number:
            return State("failed", self._claims.reason(id, attempt.number), attempt)
        if attempt and self._claims.is_held(id, attempt):
            return State("held", str(self._claims.holder(id, attempt.number).get("host", "?")), attempt)
        return State("open", attempt=attempt)

    def work(self, ids: Collection[str], agree: Agree = _alone) -> dict[str, State]:
        """Does jobs until each of `ids` is finished by anyone, has failed, or is blocked; returns where they stand.

        Args:
          ids: of jobs; what they need is done too.
          agree: hands (number of a job, attempt) to all processes of this run, which do the job together; (-1, 0) says
            that there is nothing to do at the moment.

        Raises:
          Preempted: this process was asked to stop; its job is given back.
        """
        wanted, told = with_needs(ids, self._jobs), time.monotonic()
        while True:
            look = self._look()
            for id in wanted:
                state = look(id)
                if state.kind == "open" and (lease := self._claim(id, state.attempt)):
                    self._attempt(self._jobs[id], lease, state.attempt, agree)
                    break
            else:
                if not any(look(id).kind in ("held", "waiting", "open") for id in wanted):
                    return {id: look(id) for id in ids}
                agree((-1, 0))
                held = [self._jobs[id].name for id in wanted if look(id).kind == "held"]
                if held and time.monotonic() - told > 60:
                    told += 600
                    self._say(f"waiting for {len(held)} job(s) of other processes, such as {held[0]}")
                time.sleep(min(_POLL, self._claims.heartbeat))

    def follow(self, agree: Agree) -> None:
        """Does what process 0 of a run of several processes has claimed, until it sends (-2, 0)."""
        jobs = list(self._jobs.values())
        while (order := agree((-2, 0)))[0] != -2:
            if order[0] >= 0:
                job = jobs[order[0]]
                with contextlib.suppress(UserError):  # which process 0 has met too, and writes down
                    job.run(self._attempts / f"{job.id}@{order[1]}")

    def _claim(self, id: str, before: Attempt | None) -> Lease | None:
        lease = self._claims.claim(id, after=before.number if before else 0)
        if lease is not None and self._jobs[id].is_finished():  # meanwhile, and its claims were removed
            self._claims.forget(id)
            return None
        return lease

    def _attempt(self, job: Job, lease: Lease, before: Attempt | None, agree: Agree) -> None:
        """Does one job; a failure is written down, and the study goes on with others."""
        with lease.keep():
            try:
                folder = self._folder(job, lease, before)
                agree((list(self._jobs).index(job.id), lease.number))
                outcome = job.run(folder)
                self._publish(job, folder)
            except Exception as error:
                if isinstance(error, Preempted):
                    lease.release()
                    raise
                self._failed(job, lease, error)
                return
            except BaseException:  # asked to stop from the keyboard
                lease.release()
                raise
            self._claims.forget(job.id)
            for old in self._attempts.glob(f"{_escaped(job.id)}@*"):
                shutil.rmtree(old, ignore_errors=True)
        self._finished.add(job.id)
        count = f"{len(self._finished)}/{len(self._jobs)}"
        self._say(f"[{count}] {outcome}")

    def _folder(self, job: Job, lease: Lease, before: Attempt | None) -> Path:
        """Returns the folder of an attempt, with what the one before has left there."""
        folder = self._attempts / f"{job.id}@{lease.number}"
        self._attempts.mkdir(exist_ok=True)
        if before is not None:
            old = self._attempts / f"{job.id}@{before.number}"
            if not before.ended:
                self._say(f"{job.name}: attempt {before.number} was lost with its process, goes on")
            if self._claims.is_gone(job.id, before):
                if old.is_dir():  # what stands there is of another time: the job was finished, and its result removed
                    shutil.rmtree(folder, ignore_errors=True)
                with contextlib.suppress(FileNotFoundError):
                    os.rename(old, folder)
            else:  # perhaps it still writes: nothing is taken from it
                _copy(old, folder)
        elif job.place.is_dir():  # begun there by an earlier version, which had no attempts
            os.rename(job.place, folder)
        folder.mkdir(exist_ok=True)
        return folder

    def _publish(self, job: Job, folder: Path) -> None:
        job.place.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.rename(folder, job.place)
        except OSError:
            if not job.is_finished():
                raise
            logging.warning("%s: another process has finished it first; its result is kept", job.name)
            shutil.rmtree(folder, ignore_errors=True)

    def _failed(self, job: Job, lease: Lease, error: Exception) -> None:
        if job.is_finished() or not lease.is_newest():
            logging.warning("%s: this attempt has failed after another process had taken over", job.name)
            return
        reason = reason_of(error)
        if not isinstance(error, UserError):
            traceback.print_exception(error)
        lease.fail(reason)
        self._say(f"{job.name}: failed: {reason}")


def with_needs(ids: Iterable[str], jobs: Mapping[str, Job]) -> list[str]:
    """Returns the ids of jobs and of what they need, needs first; of others than `jobs` nothing is known."""
    out: dict[str, None] = {}

    def add(id: str) -> None:
        if id in out or id not in jobs:
            return
        for need in jobs[id].needs:
            add(need)
        out[id] = None

    for id in ids:
        add(id)
    return list(out)


def reason_of(error: Exception) -> str:
    """Returns one line for why a job has failed. Only what we or the compiler have written: never a value of the data.

    The message of an unexpected exception may hold the name of a file, and that of a patient in it: its kind and place
    in the code are told instead.
    """
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, OSError) and error.strerror:
        return f"the file system refused ({error.strerror})"
    frames = traceback.extract_tb(error.__traceback__)
    ours = [f for f in frames if "radnet_jax" in Path(f.filename).parts or "data_prep" in Path(f.filename).parts]
    where = f" in {Path(ours[-1].filename).name} line {ours[-1].lineno}" if ours else ""
    code = str(error).partition(":")[0]
    code = f" {code}" if type(error).__name__ == "JaxRuntimeError" and code.isupper() else ""  # RESOURCE_EXHAUSTED
    return f"{type(error).__name__}{code}{where}; the process that ran it has shown the rest"


def _escaped(text: str) -> str:
    """A name as a pattern of `glob` that means itself."""
    return "".join(f"[{c}]" if c in "*?[" else c for c in text)


def _copy(old: Path, new: Path) -> None:
    """Copies a folder that may be written to meanwhile; what vanishes is left out: half a checkpoint is noticed."""
    if not old.is_dir():
        return
    with contextlib.suppress(shutil.Error):
        shutil.copytree(old, new, ignore=shutil.ignore_patterns(".lock"), dirs_exist_ok=True)
